//! Parties sharing scarce resources, and counts by such a key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;

use crate::source::Source;

/// Party for which the gateway looks names up and opens connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// An authenticated user.
    User(Arc<str>),
    /// The source of a connection without a user.
    Source(Source),
    /// The gateway itself, for the names of parents.
    Gateway,
}

impl Principal {
    /// Returns the user, or the source of a connection without authentication.
    pub fn of(user: Option<Arc<str>>, source: impl Into<Source>) -> Self {
        user.map_or_else(|| Self::Source(source.into()), Self::User)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user {name}"),
            Self::Source(source) => write!(f, "source {source}"),
            Self::Gateway => f.write_str("the gateway"),
        }
    }
}

/// Counts by key. A key with a count of zero is removed, so the map never holds more keys than
/// counted things.
#[derive(Debug)]
pub struct Counts<K>(HashMap<K, usize>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Counts<K> {
    /// The count of a key.
    pub fn get(&self, key: &K) -> usize {
        self.0.get(key).copied().unwrap_or(0)
    }

    /// Counts one more.
    pub fn add(&mut self, key: &K) {
        match self.0.get_mut(key) {
            Some(count) => *count += 1,
            None => drop(self.0.insert(key.clone(), 1)),
        }
    }

    /// Subtracts one from a key's count; ignores an unknown key.
    pub fn remove(&mut self, key: K) {
        if let Entry::Occupied(mut entry) = self.0.entry(key) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }

    /// Nothing is counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_while_something_of_it_is_counted() {
        let mut counts = Counts::default();
        ["ann", "ann", "bob"].iter().for_each(|key| counts.add(key));
        assert_eq!(["ann", "bob", "eve"].map(|key| counts.get(&key)), [2, 1, 0]);
        ["ann", "bob", "eve"].iter().for_each(|key| counts.remove(key));
        assert_eq!((counts.get(&"ann"), counts.is_empty()), (1, false));
        counts.remove("ann");
        assert!(counts.is_empty());
    }

    #[test]
    fn a_principal_is_named_by_what_it_is() {
        let address: std::net::IpAddr = "192.0.2.1".parse().unwrap();
        let named = [Principal::of(Some("ann".into()), address), Principal::of(None, address), Principal::Gateway];
        assert_eq!(named.map(|one| one.to_string()), ["user ann", "source 192.0.2.1", "the gateway"]);
    }
}
