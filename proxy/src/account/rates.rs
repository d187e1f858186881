//! Rates of tunnels: the configured ones, the changes since, and the resulting rate of each tunnel.
//!
//! A tunnel is held to the lesser of its own rate and an equal share of its user's rate. The share
//! changes with every tunnel of the user opened or closed: the new tunnel gets its share at once,
//! the others a moment later, so a burst of tunnels is rebalanced a few times and not once for
//! each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::Notify;

use crate::invalid_value::InvalidValue;
use crate::rate::Rate;

/// Shortest time between two rebalances.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// A rate, or none: unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(pub Option<Rate>);

/// Rates from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Of each tunnel: `--rate`.
    pub tunnel: Option<Rate>,
    /// Of all tunnels of each user together: `--rate-per-user`.
    pub user: Option<Rate>,
    /// All users, each with the limit that replaces the common one, if any.
    pub users: BTreeMap<Arc<str>, Option<Limit>>,
}

/// Rates in force; applied as a [`Change`], they change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RatesView {
    /// Rate of each tunnel without a limit of its own.
    pub tunnel: Limit,
    /// Rate of all tunnels together of each user without a limit of their own.
    pub user: Limit,
    /// Users with a limit of their own.
    pub users: BTreeMap<String, Limit>,
    /// Live tunnels with a limit of their own.
    pub tunnels: BTreeMap<u64, Limit>,
}

/// A change of rates, in force until the gateway ends; `null` restores the configured value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Change {
    /// Of each tunnel.
    #[serde(deserialize_with = "named")]
    pub tunnel: Option<Option<Limit>>,
    /// Of each user.
    #[serde(deserialize_with = "named")]
    pub user: Option<Option<Limit>>,
    /// Of users.
    pub users: BTreeMap<String, Option<Limit>>,
    /// Of live tunnels.
    pub tunnels: BTreeMap<u64, Option<Limit>>,
}

/// A name in a change without a match: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No user has this name.
    User(String),
    /// No such tunnel is open.
    Tunnel(u64),
}

/// Changes since the start, by their place in [`Rates`].
#[derive(Debug, Default)]
struct Changed {
    tunnel: Option<Limit>,
    user: Option<Limit>,
    users: BTreeMap<Arc<str>, Limit>,
    tunnels: BTreeMap<u64, Limit>,
}

#[derive(Debug, Default)]
struct Set {
    configured: Rates,
    changed: Changed,
    /// Removed users, and the limits of their live tunnels.
    former: BTreeMap<Arc<str>, Limit>,
}

/// The rates in force, and a notification when the shares must be rebalanced.
#[derive(Debug, Default)]
pub(super) struct RateLimits {
    set: Mutex<Set>,
    pub(super) due: Notify,
}

impl RateLimits {
    pub(super) fn new(configured: Rates) -> Self {
        Self { set: Mutex::new(Set { configured, ..Set::default() }), due: Notify::new() }
    }

    /// Replaces the users from the configuration.
    pub(super) fn set_users(&self, users: BTreeMap<Arc<str>, Option<Limit>>) {
        let mut set = self.lock();
        let gone = set.configured.users.keys().filter(|name| !users.contains_key(*name));
        let gone: Vec<_> = gone.map(|name| (Arc::clone(name), Limit(set.of_user(name)))).collect();
        set.former.extend(gone);
        set.former.retain(|name, _| !users.contains_key(name));
        set.changed.users.retain(|name, _| users.contains_key(name));
        set.configured.users = users;
    }

    /// Applies the rate of a tunnel; `user` gives the user's count of tunnels.
    pub(super) fn apply(&self, id: u64, user: Option<(&str, impl FnOnce() -> usize)>, tell: impl FnOnce(Option<Rate>)) {
        // Held meanwhile, so that the last rate applied is the newest.
        let set = self.lock();
        let own = set.of_tunnel(id);
        let share = user.and_then(|(name, many)| Some(set.of_user(name)?.shared_by(many())));
        tell(own.into_iter().chain(share).min());
    }

    /// Returns true if the tunnels of a user share a rate.
    pub(super) fn shares(&self, user: &str) -> bool {
        self.lock().of_user(user).is_some()
    }

    /// A tunnel has ended.
    pub(super) fn forget(&self, id: u64) {
        self.lock().changed.tunnels.remove(&id);
    }

    pub(super) fn view(&self) -> RatesView {
        let set = self.lock();
        let mut users: BTreeMap<_, _> = set.configured.users.iter().filter_map(|(n, l)| l.map(|l| (&**n, l))).collect();
        users.extend(set.changed.users.iter().map(|(name, limit)| (&**name, *limit)));
        RatesView {
            tunnel: set.changed.tunnel.unwrap_or(Limit(set.configured.tunnel)),
            user: set.changed.user.unwrap_or(Limit(set.configured.user)),
            users: users.into_iter().map(|(name, limit)| (name.to_owned(), limit)).collect(),
            tunnels: set.changed.tunnels.clone(),
        }
    }

    /// Applies the whole change or nothing. `is_open` tells if a tunnel is live.
    pub(super) fn change(&self, change: &Change, is_open: impl Fn(u64) -> bool) -> Result<(), Unknown> {
        let mut set = self.lock();
        let Set { configured, changed, .. } = &mut *set;
        let known = |name: &String| configured.users.get_key_value(name.as_str()).map(|(name, _)| Arc::clone(name));
        let users =
            change.users.iter().map(|(n, limit)| Ok((known(n).ok_or_else(|| Unknown::User(n.clone()))?, *limit)));
        let users = users.collect::<Result<Vec<_>, _>>()?;
        if let Some(missing) = change.tunnels.keys().find(|id| !is_open(**id)) {
            return Err(Unknown::Tunnel(*missing));
        }
        changed.tunnel = change.tunnel.unwrap_or(changed.tunnel);
        changed.user = change.user.unwrap_or(changed.user);
        users.into_iter().for_each(|(name, limit)| put(&mut changed.users, name, limit));
        change.tunnels.iter().for_each(|(id, limit)| put(&mut changed.tunnels, *id, *limit));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Set> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Set {
    fn of_tunnel(&self, id: u64) -> Option<Rate> {
        let changed = self.changed.tunnels.get(&id).copied().or(self.changed.tunnel);
        changed.map_or(self.configured.tunnel, |limit| limit.0)
    }

    /// A user's own limit comes before the common one, and a change before the configuration.
    fn of_user(&self, name: &str) -> Option<Rate> {
        let own = self.changed.users.get(name).copied();
        let own = own.or_else(|| self.configured.users.get(name).copied().flatten());
        let own = own.or_else(|| self.former.get(name).copied()).or(self.changed.user);
        own.map_or(self.configured.user, |limit| limit.0)
    }
}

fn put<K: Ord>(limits: &mut BTreeMap<K, Limit>, key: K, limit: Option<Limit>) {
    match limit {
        Some(limit) => drop(limits.insert(key, limit)),
        None => drop(limits.remove(&key)),
    }
}

/// Reads a present value, `null` included.
fn named<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<Limit>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl Serialize for Limit {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Some(rate) => rate.serialize(to),
            None => to.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "expected a rate: a number of bytes, \"100MiB\", \"1Gbit\" or \"none\", or null")]
        enum Written {
            Bytes(u64),
            Words(String),
        }
        let rate = match Written::deserialize(from)? {
            Written::Bytes(bytes) => Rate::new(bytes),
            Written::Words(words) => return words.parse().map_err(D::Error::custom),
        };
        rate.map(|rate| Self(Some(rate))).map_err(D::Error::custom)
    }
}

impl std::str::FromStr for Limit {
    type Err = InvalidValue;

    /// Reads a rate, or `none`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|rate| Self(Some(rate))) }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(rate) => rate.fmt(f),
            None => f.write_str("none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(bytes: u64) -> Option<Rate> {
        Some(Rate::new(bytes).unwrap())
    }

    fn told(limits: &RateLimits, id: u64, user: Option<(&str, usize)>) -> Option<Rate> {
        let mut told = None;
        limits.apply(id, user.map(|(name, many)| (name, move || many)), |rate| told = rate);
        told
    }

    fn limits() -> RateLimits {
        let users = [("ann", Some(Limit(rate(9_000)))), ("bob", None), ("eve", Some(Limit(None)))];
        let users = users.map(|(name, limit)| (name.into(), limit)).into();
        RateLimits::new(Rates { tunnel: rate(5_000), user: rate(8_000), users })
    }

    fn change(json: &str) -> Change {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_lesser_of_its_own_rate_and_a_share_counts() {
        let limits = limits();
        for (user, many, expected) in [
            (None, 0, 5_000),
            (Some("ann"), 1, 5_000),
            (Some("ann"), 2, 4_500),
            (Some("ann"), 3, 3_000),
            (Some("bob"), 2, 4_000),
            (Some("eve"), 9, 5_000),
            (Some("who"), 4, 2_000),
        ] {
            assert_eq!(told(&limits, 1, user.map(|user| (user, many))), rate(expected), "{user:?} {many}");
        }
    }

    #[test]
    fn what_is_changed_counts_until_it_is_taken_back() {
        let limits = limits();
        let before = limits.view();
        let of = |user, many| told(&limits, 7, Some((user, many))).map(Rate::bytes);
        let make = |json: &str| limits.change(&change(json), |id| id == 7);
        make(r#"{"tunnel": "none", "users": {"ann": "1MiB", "eve": 2048}}"#).unwrap();
        assert_eq!([of("ann", 1), of("eve", 1), of("bob", 1)], [Some(1 << 20), Some(2_048), Some(8_000)]);
        make(r#"{"user": "none", "tunnels": {"7": 3000}}"#).unwrap();
        assert_eq!([of("ann", 1), of("bob", 1)], [Some(3_000), Some(3_000)]);
        let view: Change = serde_json::from_value(serde_json::to_value(limits.view()).unwrap()).unwrap();
        limits.change(&view, |_| true).unwrap();
        assert_eq!([of("ann", 1), of("bob", 1)], [Some(3_000), Some(3_000)], "what is shown changes nothing");
        limits.forget(7);
        assert_eq!(of("bob", 1), None);
        make(r#"{"tunnel": null, "user": null, "users": {"ann": null, "eve": null, "bob": null}}"#).unwrap();
        assert_eq!(limits.view(), before);
    }

    #[test]
    fn a_change_is_made_as_a_whole_or_not_at_all() {
        let limits = limits();
        let before = limits.view();
        for (json, unknown) in [
            (r#"{"tunnel": 2000, "users": {"ann": 2000, "who": 2000}}"#, Unknown::User("who".into())),
            (r#"{"user": 2000, "tunnels": {"7": 2000, "8": 2000}}"#, Unknown::Tunnel(8)),
        ] {
            assert_eq!(limits.change(&change(json), |id| id == 7), Err(unknown));
            assert_eq!(limits.view(), before);
        }
        for (json, words) in [
            (r#"{"tunnel": 5}"#, "at least 1KiB"),
            (r#"{"tunnel": "fast"}"#, "100MiB"),
            (r#"{"tunnel": true}"#, "expected a rate"),
            (r#"{"tunnels": {"x": 5000}}"#, "a number in quotes"),
            (r#"{"rate": 5000}"#, "unknown field `rate`"),
        ] {
            let error = serde_json::from_str::<Change>(json).unwrap_err().to_string();
            assert!(error.contains(words), "{json}: {error}");
        }
    }

    #[test]
    fn users_who_are_gone_leave_nothing() {
        let limits = limits();
        limits.change(&change(r#"{"users": {"ann": 2000, "bob": 3000}}"#), |_| false).unwrap();
        limits.set_users([("bob".into(), None)].into());
        let users: Vec<_> = limits.view().users.into_keys().collect();
        assert_eq!(users, ["bob"]);
        // Except for the limits of their live tunnels.
        let of_ann = || told(&limits, 1, Some(("ann", 1)));
        assert_eq!(of_ann(), rate(2_000));
        limits.set_users([("ann".into(), None), ("bob".into(), None)].into());
        assert_eq!(of_ann(), rate(5_000), "once more somebody of whom nothing is said");
    }
}
