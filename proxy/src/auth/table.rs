//! The users, as they are looked up: those of the command line by digest, those of the file by
//! hash.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use subtle::ConstantTimeEq;

use crate::secret::Secret;
use crate::user_policy::UserPolicy;

use super::basic::Credentials;
use super::changes::Terms;
use super::digest::{Digest, Key};
use super::entry::Entry;
use super::flight::SingleFlight;
use super::hash::{Hash, MIN_ROUNDS, Work};
use super::pool::Ticket;
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
            return Err(UsersError::new("--user", format!("'{twice}' is listed twice"), "list each user once"));
        }
        let entry = |(name, password): (String, Secret)| {
            let credentials = Credentials { user: name.as_bytes().to_vec(), password, as_sent: None };
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

    /// The user's name, if it is one of these.
    pub(super) fn name(&self, user: &[u8]) -> Option<Arc<str>> {
        self.0.iter().map(|(name, _)| name).find(|name| name.as_bytes() == user).cloned()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| **known == *name)
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

/// The users of the file and of the configuration, as they were read once. Checks under way are
/// part
/// of it, so that none of them outlives a reload; verified credentials do where their hash stays.
#[derive(Default)]
pub(super) struct Table {
    accounts: HashMap<Arc<str>, Account>,
    user_policies: HashMap<Arc<str>, Arc<UserPolicy>>,
    ceiling: Ceiling,
    pub(super) flights: Arc<SingleFlight<Ticket>>,
}

struct Account {
    /// One, or two while a password is being replaced.
    passwords: Vec<Arc<Password>>,
}

struct Password {
    hash: Arc<Hash>,
    /// Credentials verified against this hash: the cache, bounded by the number of hashes. A second
    /// password matches only if bcrypt cut both; it is hashed each time.
    verified: OnceLock<Digest>,
}

impl Account {
    /// Creates an account with these hashes; hashes also present `before` keep their verified
    /// credentials, also for a check that ends later.
    fn new(hashes: impl IntoIterator<Item = Arc<Hash>>, before: Option<&Self>) -> Self {
        let known = before.map_or(&[][..], |before| &before.passwords);
        let password = |hash: Arc<Hash>| {
            let same = known.iter().find(|known| known.hash.is_same(&hash)).map(Arc::clone);
            same.unwrap_or_else(|| Arc::new(Password { hash, verified: OnceLock::new() }))
        };
        Self { passwords: hashes.into_iter().map(password).collect() }
    }

    fn works(&self) -> Vec<Work> {
        self.passwords.iter().map(|password| password.hash.work()).collect()
    }
}

impl Table {
    /// Creates the table of these users, the successor of `before`.
    pub(super) fn new(lines: Vec<Line>, entries: &[Entry], before: Option<&Self>) -> Self {
        let account = |name: Arc<str>, hashes: Vec<Arc<Hash>>| {
            let before = before.and_then(|before| before.accounts.get(&name));
            let account = Account::new(hashes, before);
            (name, account)
        };
        let of_line = |line: Line| account(line.name, vec![Arc::new(line.hash)]);
        let with_password = entries.iter().filter(|entry| entry.has_password());
        let of_entry = |entry: &Entry| account(Arc::clone(&entry.name), entry.hashes.clone());
        let accounts: HashMap<_, _> = lines.into_iter().map(of_line).chain(with_password.map(of_entry)).collect();
        let ceiling = Ceiling::of(accounts.values().map(Account::works));
        let user_policies =
            entries.iter().map(|entry| (Arc::clone(&entry.name), Arc::clone(&entry.user_policy))).collect();
        Self { accounts, user_policies, ceiling, flights: Arc::default() }
    }

    /// Returns the policy of a user, if any.
    pub(super) fn user_policy(&self, user: &str) -> Option<Arc<UserPolicy>> {
        self.user_policies.get(user).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Returns the users with live tunnels to end.
    pub(super) fn ending(&self, now: SystemTime) -> Vec<Arc<str>> {
        let ending = self.user_policies.iter().filter(|(_, user_policy)| user_policy.ends_tunnels(now));
        ending.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Returns the passwords and policy of every user with either.
    pub(super) fn terms(&self) -> BTreeMap<Arc<str>, Terms> {
        let names = self.accounts.keys().chain(self.user_policies.keys());
        let terms = |name: &Arc<str>| {
            let passwords = self.accounts.get(name).map(|account| &account.passwords).into_iter().flatten();
            let hashes = passwords.map(|password| Arc::clone(&password.hash)).collect();
            (Arc::clone(name), Terms { hashes, user_policy: self.user_policies.get(name).cloned() })
        };
        names.map(terms).collect()
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.accounts.keys().map(Arc::clone).collect()
    }

    /// The name of the user, if these very credentials were verified before.
    pub(super) fn verified(&self, user: &[u8], digest: &Digest) -> Option<Arc<str>> {
        let (name, account) = self.account(user)?;
        let known = account.passwords.iter().filter_map(|password| password.verified.get());
        // Every one is compared, whichever is right.
        known.fold(false, |found, known| found | bool::from(known.ct_eq(digest))).then(|| Arc::clone(name))
    }

    /// The user's name in the table.
    pub(super) fn name(&self, user: &[u8]) -> Option<Arc<str>> {
        self.account(user).map(|(name, _)| Arc::clone(name))
    }

    /// Checks the password, in any of its encodings. A failed check takes the same work for every
    /// user, and for an unknown name.
    pub(super) fn judge(
        &self,
        credentials: &Credentials,
        digest: Digest,
        matches: &dyn Fn(&Hash, &[u8]) -> bool,
    ) -> bool {
        let encodings = [Some(&credentials.password), credentials.as_sent.as_ref()];
        let mut encodings = encodings.into_iter().flatten();
        encodings.any(|password| self.judge_bytes(&credentials.user, password.expose(), digest, matches))
    }

    /// The work the user's own hash saved against the most expensive one is spent as well; for an
    /// unknown user all of it is spent.
    fn judge_bytes(
        &self,
        user: &[u8],
        password: &[u8],
        digest: Digest,
        matches: &dyn Fn(&Hash, &[u8]) -> bool,
    ) -> bool {
        let account = self.account(user).map(|(_, account)| account);
        let mut passwords = account.iter().flat_map(|account| &account.passwords);
        if let Some(right) = passwords.find(|known| matches(&known.hash, password)) {
            let _ = right.verified.set(digest);
            return true;
        }
        for work in self.ceiling.rest(&account.map(Account::works).unwrap_or_default()) {
            matches(&Hash::dummy(work), password);
        }
        false
    }

    fn account(&self, user: &[u8]) -> Option<(&Arc<str>, &Account)> {
        self.accounts.get_key_value(str::from_utf8(user).ok()?)
    }
}

/// The work of every failed check of a table: for each kind of hash the most that any user has.
///
/// SHA-crypt cannot do fewer than 1,000 rounds, so where users differ in rounds the most is raised
/// by as much, and the remaining work is never too little to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ceiling(Done);

/// Work by kind: bcrypt's in units of two to the power of the cost, SHA-crypt's in rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Done {
    bcrypt: u64,
    sha256: u32,
    sha512: u32,
}

impl Done {
    fn of(works: &[Work]) -> Self {
        works.iter().fold(Self::default(), |mut done, work| {
            match work {
                Work::Bcrypt(cost) => done.bcrypt += 1 << cost,
                Work::Sha256(rounds) => done.sha256 += rounds,
                Work::Sha512(rounds) => done.sha512 += rounds,
            }
            done
        })
    }
}

impl Ceiling {
    fn of(accounts: impl Iterator<Item = Vec<Work>>) -> Self {
        let all: Vec<Done> = accounts.map(|works| Done::of(&works)).collect();
        let most_rounds = |rounds: fn(&Done) -> u32| most_rounds(all.iter().map(rounds).filter(|rounds| *rounds > 0));
        Self(Done {
            bcrypt: all.iter().map(|done| done.bcrypt).max().unwrap_or(0),
            sha256: most_rounds(|done| done.sha256),
            sha512: most_rounds(|done| done.sha512),
        })
    }

    /// Returns the work left after `done`.
    fn rest(&self, done: &[Work]) -> Vec<Work> {
        let (most, done) = (self.0, Done::of(done));
        // A power of two for each bit of the missing work; every cost is at least 4, so every bit
        // is too.
        let missing = most.bcrypt - done.bcrypt;
        let bcrypt = (0..u64::BITS).filter(|bit| missing >> bit & 1 == 1).map(Work::Bcrypt);
        let rounds = |most: u32, done: u32, work: fn(u32) -> Work| Some(most - done).filter(|left| *left > 0).map(work);
        let sha256 = rounds(most.sha256, done.sha256, Work::Sha256);
        bcrypt.chain(sha256).chain(rounds(most.sha512, done.sha512, Work::Sha512)).collect()
    }
}

fn most_rounds(rounds: impl Iterator<Item = u32> + Clone) -> u32 {
    let (least, most) = (rounds.clone().min().unwrap_or(0), rounds.max().unwrap_or(0));
    if least == most { most } else { most + MIN_ROUNDS }
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
        let files: [&[&[Work]]; 8] = [
            &[&[Bcrypt(10)]],
            &[&[Bcrypt(4)], &[Bcrypt(10)], &[Bcrypt(12)]],
            &[&[Sha512(5000)], &[Sha512(5000)]],
            &[&[Sha512(5000)], &[Sha512(5500)], &[Sha512(500_000)]],
            &[&[Bcrypt(5)], &[Sha256(1000)], &[Sha512(5000)]],
            &[&[Bcrypt(5)], &[Bcrypt(6)], &[Sha256(1000)], &[Sha256(1001)], &[Sha512(5000)], &[Sha512(9000)]],
            &[&[Bcrypt(5), Bcrypt(5)], &[Bcrypt(5)], &[Bcrypt(4)]],
            &[&[Bcrypt(10), Sha512(5000)], &[Sha512(5000), Sha512(5000)], &[Bcrypt(4), Bcrypt(12)], &[Sha256(1000)]],
        ];
        for file in files {
            let ceiling = Ceiling::of(file.iter().map(|works| works.to_vec()));
            let unknown = sums(ceiling.rest(&[]));
            for own in file {
                let rest = ceiling.rest(own);
                assert_eq!(sums(rest.iter().chain(*own).copied()), unknown, "{own:?} of {file:?}");
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
        let ceiling = Ceiling::of([vec![Work::Bcrypt(10)], vec![Work::Bcrypt(10)]].into_iter());
        assert_eq!(ceiling.rest(&[]), [Work::Bcrypt(10)]);
        assert_eq!(ceiling.rest(&[Work::Bcrypt(10)]), []);
    }
}
