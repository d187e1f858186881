//! Limits on the resources of a resolver: look-ups, threads, descriptors, memory and time.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::dns;
use crate::metrics::LIMIT;

/// Most names in the cache of answers.
const MAX_KNOWN: usize = 1_024;

/// Time a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// Look-ups in progress at most, where there are descriptors for them.
const MAX_LOOKUPS: u64 = 1_024;

/// Divisor of the descriptor limit for the sockets of look-ups: they may take a quarter of it if
/// all name servers are silent, and take far less otherwise.
const DESCRIPTORS_SHARE: u64 = 4;

/// Look-ups in progress by getaddrinfo(3): each has a thread.
const MAX_THREADS: usize = 128;

/// Default for the look-ups in progress of each requester.
pub const LOOKUPS_EACH: usize = 256;

/// Look-ups of one requester if each look-up has a thread.
const THREADS_EACH: usize = 32;

/// Kind of name resolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResolverKind {
    /// By the hosts file and the DNS.
    #[default]
    Dns,
    /// By getaddrinfo(3), and so by every source in nsswitch.conf(5).
    System,
}

/// Limits of a resolver.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Look-ups in progress.
    pub(super) total: usize,
    /// Look-ups in progress for each requester.
    pub(super) each: usize,
    /// Names remembered.
    pub(super) known: usize,
    /// Time a client waits for an answer.
    pub(super) deadline: Duration,
}

impl Limits {
    /// Returns the limits for look-ups of this kind, at most `each` for one requester.
    pub(super) fn of(kind: ResolverKind, each: usize) -> Self {
        let (total, each) = match kind {
            ResolverKind::Dns => (lookups_within(getrlimit(Resource::Nofile).current), each),
            ResolverKind::System => (MAX_THREADS, each.min(THREADS_EACH)),
        };
        Self { total, each, known: MAX_KNOWN, deadline: DEADLINE }
    }

    /// Most look-ups in progress of one requester: at most half of all, by the rule of `Shares`.
    pub(super) fn of_one(&self) -> usize {
        self.each.min(self.total.div_ceil(2))
    }

    /// Puts the limits among the metrics.
    pub(super) fn publish(&self) {
        for (of, limit) in [("lookups", self.total), ("lookups_per_user", self.of_one())] {
            LIMIT.gauge(&[of]).set(f64::from(u32::try_from(limit).unwrap_or(u32::MAX)));
        }
    }
}

/// Returns the number of look-ups for which a descriptor limit has room.
fn lookups_within(limit: Option<u64>) -> usize {
    let room = limit.map_or(MAX_LOOKUPS, |limit| limit / DESCRIPTORS_SHARE / dns::SOCKETS);
    usize::try_from(room.clamp(1, MAX_LOOKUPS)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_leave_descriptors_to_tunnels() {
        let limits = [Some(1_024), Some(20_000), Some(1 << 20), None, Some(8)].map(lookups_within);
        assert_eq!(limits, [21, 416, 1_024, 1_024, 1]);
    }
}
