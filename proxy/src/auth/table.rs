//! The users, as they are looked up: those of the command line by digest, those of the file by hash.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use subtle::ConstantTimeEq;

use crate::secret::Secret;

use super::basic::Credentials;
use super::digest::{Digest, Key};
use super::flight::Flights;
use super::hash::{Hash, MIN_ROUNDS, Work};
use super::users::{Line, UsersError, check_name, check_password};

/// The users of `--user`: of their passwords only keyed digests are kept.
pub(super) struct Inline(Vec<(Arc<str>, Digest)>);

impl Inline {
    pub(super) fn new(users: Vec<(String, Secret)>, key: &Key) -> Result<Self, UsersError> {
        for (name, password) in &users {
            let checked = check_name(name).and_then(|()| check_password(password.expose()));
            checked.map_err(|cause| UsersError::new("--user", cause, "give NAME:PASSWORD"))?;
        }
        let mut names = HashSet::new();
        if let Some((twice, _)) = users.iter().find(|(name, _)| !names.insert(name)) {
            return Err(UsersError::new("--user", format!("'{twice}' is given twice"), "give each user once"));
        }
        let entry = |(name, password): (String, Secret)| {
            let credentials = Credentials { user: name.as_bytes().to_vec(), password };
            (name.into(), key.digest(&credentials))
        };
        Ok(Self(users.into_iter().map(entry).collect()))
    }

    /// The user of these credentials. Every entry is compared, whichever is right.
    pub(super) fn find(&self, digest: &Digest) -> Option<Arc<str>> {
        self.0
            .iter()
            .fold(None, |found, (name, known)| if known.ct_eq(digest).into() { Some(name) } else { found })
            .cloned()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.0.iter().map(|(name, _)| Arc::clone(name))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| **known == *name)
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

/// The users of the file, as it was read once. What is known of verified credentials and of checks
/// under way is part of it, so that nothing of that outlives a reload.
#[derive(Default)]
pub(super) struct Table {
    accounts: HashMap<Arc<str>, Account>,
    ceiling: Ceiling,
    pub(super) flights: Arc<Flights>,
}

struct Account {
    hash: Hash,
    /// The credentials that this hash was found to be of: the cache, whose bound is the number of
    /// users. A second password fits only where bcrypt cut both; that one is hashed each time.
    verified: OnceLock<Digest>,
}

impl Table {
    pub(super) fn new(lines: Vec<Line>) -> Self {
        let ceiling = Ceiling::of(lines.iter().map(|line| line.hash.work()));
        let account = |line: Line| (line.name, Account { hash: line.hash, verified: OnceLock::new() });
        Self { accounts: lines.into_iter().map(account).collect(), ceiling, flights: Arc::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.accounts.keys().map(Arc::clone).collect()
    }

    /// The name of the user, if these very credentials were verified before.
    pub(super) fn verified(&self, user: &[u8], digest: &Digest) -> Option<Arc<str>> {
        let (name, account) = self.account(user)?;
        account.verified.get().filter(|known| known.ct_eq(digest).into()).map(|_| Arc::clone(name))
    }

    /// The user's name in the table.
    pub(super) fn name(&self, user: &[u8]) -> Option<Arc<str>> {
        self.account(user).map(|(name, _)| Arc::clone(name))
    }

    /// Whether the password is the user's. Anything but a yes takes the same work: what the user's
    /// own hash took less than the dearest is made up for, and for nobody all of it is spent.
    pub(super) fn judge(
        &self,
        credentials: &Credentials,
        digest: Digest,
        matches: &dyn Fn(&Hash, &[u8]) -> bool,
    ) -> bool {
        let password = credentials.password.expose();
        let account = self.account(&credentials.user).map(|(_, account)| account);
        if let Some(account) = account
            && matches(&account.hash, password)
        {
            let _ = account.verified.set(digest);
            return true;
        }
        for work in self.ceiling.rest(account.map(|account| account.hash.work())) {
            matches(&Hash::dummy(work), password);
        }
        false
    }

    fn account(&self, user: &[u8]) -> Option<(&Arc<str>, &Account)> {
        self.accounts.get_key_value(str::from_utf8(user).ok()?)
    }
}

/// The work that every failed check of a table comes to: for each kind of hash in it the dearest.
///
/// SHA-crypt cannot do fewer than 1,000 rounds, so where its hashes differ in rounds the dearest
/// counts for that much more, and what is left to make up for is never too little to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ceiling {
    bcrypt: Option<u32>,
    sha256: Option<u32>,
    sha512: Option<u32>,
}

impl Ceiling {
    fn of(works: impl Iterator<Item = Work>) -> Self {
        let (mut bcrypt, mut sha256, mut sha512) = (Vec::new(), Vec::new(), Vec::new());
        for work in works {
            match work {
                Work::Bcrypt(cost) => bcrypt.push(cost),
                Work::Sha256(rounds) => sha256.push(rounds),
                Work::Sha512(rounds) => sha512.push(rounds),
            }
        }
        Self { bcrypt: bcrypt.into_iter().max(), sha256: most_rounds(&sha256), sha512: most_rounds(&sha512) }
    }

    /// What there is left to do after `done`.
    fn rest(&self, done: Option<Work>) -> Vec<Work> {
        let mut rest = Vec::new();
        match (self.bcrypt, done) {
            // 2^c + 2^c + 2^(c+1) + ... + 2^(most-1) = 2^most.
            (Some(most), Some(Work::Bcrypt(cost))) => rest.extend((cost..most).map(Work::Bcrypt)),
            (Some(most), _) => rest.push(Work::Bcrypt(most)),
            (None, _) => {}
        }
        let sha256 = if let Some(Work::Sha256(rounds)) = done { rounds } else { 0 };
        let sha512 = if let Some(Work::Sha512(rounds)) = done { rounds } else { 0 };
        rest.extend(self.sha256.map(|most| most - sha256).filter(|left| *left > 0).map(Work::Sha256));
        rest.extend(self.sha512.map(|most| most - sha512).filter(|left| *left > 0).map(Work::Sha512));
        rest
    }
}

fn most_rounds(rounds: &[u32]) -> Option<u32> {
    let (least, most) = (rounds.iter().min()?, rounds.iter().max()?);
    Some(if least == most { *most } else { most + MIN_ROUNDS })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The work in each kind: bcrypt's in units of its cost parameter's power, SHA's in rounds.
    fn sums(works: impl IntoIterator<Item = Work>) -> (u64, u64, u64) {
        works.into_iter().fold((0, 0, 0), |(b, s, t), work| match work {
            Work::Bcrypt(cost) => (b + (1 << cost), s, t),
            Work::Sha256(rounds) => (b, s + u64::from(rounds), t),
            Work::Sha512(rounds) => (b, s, t + u64::from(rounds)),
        })
    }

    #[test]
    fn every_failure_comes_to_the_same_work() {
        use Work::{Bcrypt, Sha256, Sha512};
        let files: [&[Work]; 6] = [
            &[Bcrypt(10)],
            &[Bcrypt(4), Bcrypt(10), Bcrypt(12)],
            &[Sha512(5000), Sha512(5000)],
            &[Sha512(5000), Sha512(5500), Sha512(500_000)],
            &[Bcrypt(5), Sha256(1000), Sha512(5000)],
            &[Bcrypt(5), Bcrypt(6), Sha256(1000), Sha256(1001), Sha512(5000), Sha512(9000)],
        ];
        for file in files {
            let ceiling = Ceiling::of(file.iter().copied());
            let unknown = sums(ceiling.rest(None));
            for own in file {
                let rest = ceiling.rest(Some(*own));
                assert_eq!(sums(rest.iter().copied().chain([*own])), unknown, "{own:?} of {file:?}");
                for work in rest {
                    let possible = match work {
                        Bcrypt(cost) => cost >= 4,
                        Sha256(rounds) | Sha512(rounds) => rounds >= MIN_ROUNDS,
                    };
                    assert!(possible, "{work:?} after {own:?} of {file:?}");
                }
            }
        }
    }

    #[test]
    fn one_kind_at_one_cost_is_one_hash() {
        let ceiling = Ceiling::of([Work::Bcrypt(10), Work::Bcrypt(10)].into_iter());
        assert_eq!(ceiling.rest(None), [Work::Bcrypt(10)]);
        assert_eq!(ceiling.rest(Some(Work::Bcrypt(10))), []);
    }
}
