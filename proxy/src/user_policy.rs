//! Policy of a named user: source networks, targets, expiry, rates.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;

use crate::account::Limit;
use crate::policy::Scope;
use crate::reason::{Reason, Refusal};

/// The policy of one user. A missing setting adds no limit to the common ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPolicy {
    /// The targets, within the targets that the gateway permits; none: all of those.
    pub scope: Option<Scope>,
    /// Permitted source networks; none: any.
    pub from: Vec<IpNet>,
    /// When it is over.
    pub expires: Option<SystemTime>,
    /// Treatment of the user's live tunnels at expiry.
    pub on_expiry: OnExpiry,
    /// Tunnels at once, instead of `--max-tunnels-per-user`.
    pub max_tunnels: Option<usize>,
    /// Bytes per second of all tunnels of the user together, instead of `--rate-per-user`.
    pub rate: Option<Limit>,
}

/// Treatment of an expired user's live tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpiry {
    /// They live on until they end by themselves.
    #[default]
    Stay,
    /// They are reset.
    End,
}

impl UserPolicy {
    /// Checks that the user may connect now and from `source`.
    ///
    /// # Errors
    /// [`Reason::UserExpired`] or [`Reason::UserSource`].
    pub fn admit(&self, user: &str, source: IpAddr, now: SystemTime) -> Result<(), Refusal> {
        if self.has_expired(now) {
            let when = self.expires.map(humantime::format_rfc3339_seconds);
            let when = when.map_or_else(String::new, |when| when.to_string());
            return Err(Refusal::new(Reason::UserExpired, format!("user {user} has expired at {when}")));
        }
        if !self.may_come_from(source) {
            return Err(Refusal::new(Reason::UserSource, format!("user {user} may not connect from {source}")));
        }
        Ok(())
    }

    /// Returns true if the user may connect from this address.
    #[must_use]
    pub fn may_come_from(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.from.is_empty() || self.from.iter().any(|network| network.contains(&source))
    }

    /// Returns true once the user has expired.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Returns true if the user's live tunnels must end.
    #[must_use]
    pub fn ends_tunnels(&self, now: SystemTime) -> bool {
        self.on_expiry == OnExpiry::End && self.has_expired(now)
    }
}

impl fmt::Display for UserPolicy {
    /// The terms in words, but for the targets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut terms = Vec::new();
        if !self.from.is_empty() {
            let from = self.from.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            terms.push(format!("from {from}"));
        }
        if let Some(expires) = self.expires {
            let then = match self.on_expiry {
                OnExpiry::Stay => "open tunnels stay",
                OnExpiry::End => "open tunnels end",
            };
            terms.push(format!("until {}, when {then}", humantime::format_rfc3339_seconds(expires)));
        }
        if let Some(most) = self.max_tunnels {
            terms.push(format!("at most {most} open tunnel{}", if most == 1 { "" } else { "s" }));
        }
        if let Some(Limit(rate)) = self.rate {
            terms.push(rate.map_or_else(|| "no rate limit".to_owned(), |rate| format!("{rate} in all")));
        }
        f.write_str(&if terms.is_empty() { "none".to_owned() } else { terms.join("; ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_user_comes_in_time_and_from_where_he_may() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let from = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        let expires = Some(now + Duration::from_secs(1));
        let grant = UserPolicy { from, expires, ..UserPolicy::default() };
        let refused = |grant: &UserPolicy, from: &str, after| {
            let admitted = grant.admit("ann", from.parse().unwrap(), now + Duration::from_secs(after));
            admitted.err().map(|refusal| (refusal.reason, refusal.detail.into_owned()))
        };
        for from in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::7"] {
            assert_eq!(refused(&grant, from, 0), None, "{from}");
        }
        let source = (Reason::UserSource, "user ann may not connect from 192.0.2.1".to_owned());
        assert_eq!(refused(&grant, "192.0.2.1", 0), Some(source));
        let late = (Reason::UserExpired, "user ann has expired at 1970-01-01T00:16:41Z".to_owned());
        assert_eq!(refused(&grant, "10.1.2.3", 1), Some(late));
        assert_eq!(refused(&UserPolicy::default(), "192.0.2.1", 9_999), None);
        let end = UserPolicy { on_expiry: OnExpiry::End, ..grant.clone() };
        let after = now + Duration::from_secs(1);
        assert_eq!([end.ends_tunnels(now), end.ends_tunnels(after), grant.ends_tunnels(after)], [false, true, false]);
    }
}
