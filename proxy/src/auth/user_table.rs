//! Users with a password hash, from the users file and the configuration, and the policies.

use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use subtle::ConstantTimeEq;

use super::basic::Credentials;
use super::ceiling::Ceiling;
use super::digest::Digest;
use super::entry::Entry;
use super::hash::{Hash, Work};
use super::hash_pool::Checks;
use super::users_file::Line;
use crate::secret::Secret;
use crate::user_policy::UserPolicy;

/// Users and policies from one load of the users file and the configuration. Running checks belong
/// to it and end with it at a reload; verified credentials are kept while their hash is unchanged.
#[derive(Default)]
pub(super) struct Table {
    passwords_by_user: HashMap<Arc<str>, UserPasswords>,
    user_policies: HashMap<Arc<str>, Arc<UserPolicy>>,
    /// Policy of users without a section: no limit beside the common ones.
    no_limits: Arc<UserPolicy>,
    ceiling: Ceiling,
    pub(super) running_checks: Arc<Checks>,
}

struct UserPasswords {
    /// One, or two while a password is being replaced.
    passwords: Vec<Arc<Password>>,
}

struct Password {
    hash: Arc<Hash>,
    /// Credentials verified against this hash: the cache, bounded by the number of hashes. A second
    /// password matches only if bcrypt cut both; it is hashed each time.
    verified: OnceLock<Digest>,
}

impl UserPasswords {
    /// Creates the passwords of these hashes; hashes also present `before` keep their verified
    /// credentials, also for a check that ends later.
    fn new(hashes: impl IntoIterator<Item = Arc<Hash>>, before: Option<&Self>) -> Self {
        let known = before.map_or(&[][..], |before| &before.passwords);
        let password = |hash: Arc<Hash>| {
            let same = known.iter().find(|known| known.hash.is_same(&hash)).map(Arc::clone);
            same.unwrap_or_else(|| Arc::new(Password { hash, verified: OnceLock::new() }))
        };
        Self { passwords: hashes.into_iter().map(password).collect() }
    }

    /// Returns the password that these bytes match, after hashing for each one before it.
    fn matching(&self, password: &[u8], matches: &dyn Fn(&Hash, &[u8]) -> bool) -> Option<&Password> {
        self.passwords.iter().map(|known| &**known).find(|known| matches(&known.hash, password))
    }

    fn works(&self) -> Vec<Work> {
        self.passwords.iter().map(|password| password.hash.work()).collect()
    }
}

impl Table {
    /// Creates the table of these users, the successor of `before`.
    pub(super) fn new(lines: Vec<Line>, entries: &[Entry], before: Option<&Self>) -> Self {
        let account = |name: Arc<str>, hashes: Vec<Arc<Hash>>| {
            let before = before.and_then(|before| before.passwords_by_user.get(&name));
            let account = UserPasswords::new(hashes, before);
            (name, account)
        };
        let of_line = |line: Line| account(line.name, vec![Arc::new(line.hash)]);
        let with_password = entries.iter().filter(|entry| entry.has_password());
        let of_entry = |entry: &Entry| account(Arc::clone(&entry.name), entry.hashes.clone());
        let passwords_by_user: HashMap<_, _> =
            lines.into_iter().map(of_line).chain(with_password.map(of_entry)).collect();
        let ceiling = Ceiling::of(passwords_by_user.values().map(UserPasswords::works));
        let user_policies =
            entries.iter().map(|entry| (Arc::clone(&entry.name), Arc::clone(&entry.user_policy))).collect();
        Self { passwords_by_user, user_policies, no_limits: Arc::default(), ceiling, running_checks: Arc::default() }
    }

    /// Returns the policy of a user.
    pub(super) fn user_policy(&self, user: &str) -> Arc<UserPolicy> {
        Arc::clone(self.user_policies.get(user).unwrap_or(&self.no_limits))
    }

    pub(super) fn len(&self) -> usize {
        self.passwords_by_user.len()
    }

    /// Returns the users with live tunnels to end.
    pub(super) fn ending(&self, now: SystemTime) -> Vec<Arc<str>> {
        let ending = self.user_policies.iter().filter(|(_, user_policy)| user_policy.ends_tunnels(now));
        ending.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Returns the passwords and policy of every user with either.
    pub(super) fn terms(&self) -> BTreeMap<Arc<str>, Terms> {
        let names = self.passwords_by_user.keys().chain(self.user_policies.keys());
        let terms = |name: &Arc<str>| {
            let passwords = self.passwords_by_user.get(name).map(|account| &account.passwords).into_iter().flatten();
            let hashes = passwords.map(|password| Arc::clone(&password.hash)).collect();
            (Arc::clone(name), Terms { hashes, user_policy: self.user_policies.get(name).cloned() })
        };
        names.map(terms).collect()
    }

    pub(super) fn names(&self) -> Vec<Arc<str>> {
        self.passwords_by_user.keys().map(Arc::clone).collect()
    }

    /// Returns the user's name if these very credentials were verified before.
    pub(super) fn verified(&self, user: &[u8], digest: &Digest) -> Option<Arc<str>> {
        let (name, account) = self.passwords_of(user)?;
        let known = account.passwords.iter().filter_map(|password| password.verified.get());
        // All are compared, so that the time does not depend on the matching one.
        known.fold(false, |found, known| found | bool::from(known.ct_eq(digest))).then(|| Arc::clone(name))
    }

    /// Returns the user's name in the table.
    pub(super) fn name(&self, user: &[u8]) -> Option<Arc<str>> {
        self.passwords_of(user).map(|(name, _)| Arc::clone(name))
    }

    /// Checks the password in each of its encodings. A failed check takes the same work for every
    /// user, and for an unknown name.
    pub(super) fn check_password(
        &self,
        credentials: &Credentials,
        digest: Digest,
        matches: &dyn Fn(&Hash, &[u8]) -> bool,
    ) -> bool {
        let account = self.passwords_of(&credentials.user).map(|(_, account)| account);
        let encodings = iter::once(&credentials.password).chain(&credentials.as_sent);
        for password in encodings.map(Secret::expose) {
            if let Some(right) = account.and_then(|account| account.matching(password, matches)) {
                let _ = right.verified.set(digest);
                return true;
            }
            self.equalize_work(account, password, matches);
        }
        false
    }

    /// Hashes the wrong password against dummies until the check has cost as much as that of the
    /// most expensive user. `account`: the hashes of this user, already tried; `None` for an
    /// unknown user.
    fn equalize_work(&self, account: Option<&UserPasswords>, password: &[u8], matches: &dyn Fn(&Hash, &[u8]) -> bool) {
        let done = account.map(UserPasswords::works).unwrap_or_default();
        for work in self.ceiling.remaining(&done) {
            matches(&Hash::dummy(work), password);
        }
    }

    fn passwords_of(&self, user: &[u8]) -> Option<(&Arc<str>, &UserPasswords)> {
        self.passwords_by_user.get_key_value(str::from_utf8(user).ok()?)
    }
}

/// Passwords and policy of a user.
pub(super) struct Terms {
    hashes: Vec<Arc<Hash>>,
    user_policy: Option<Arc<UserPolicy>>,
}

impl Terms {
    /// Returns true if a password or the policy differs.
    pub(super) fn differ_from(&self, other: &Self) -> bool {
        let same = |one: &Self, other: &Self| {
            one.hashes.iter().all(|hash| other.hashes.iter().any(|known| known.is_same(hash)))
        };
        self.user_policy != other.user_policy || !same(self, other) || !same(other, self)
    }
}
