//! Shares of the look-ups in progress, so one user's slow names do not delay other users.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::LOOKUPS_ACTIVE;
use crate::principal::{Counts, Principal};

/// Look-ups in progress, in all and by requester.
///
/// A requester may start another one while it holds fewer than `each`, and fewer than are still
/// free. So a newcomer finds room, regardless of the number of greedy requesters (the dynamic
/// thresholds of Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet
/// switches", 1998).
#[derive(Debug)]
pub(super) struct Shares {
    total: usize,
    each: usize,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    total: usize,
    by_requester: Counts<Principal>,
}

/// Permission for one look-up, given back when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    shares: Arc<Shares>,
    requester: Principal,
}

impl Shares {
    pub(super) fn new(total: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { total, each, held: Mutex::default() })
    }

    /// Takes one look-up of the requester's share.
    ///
    /// # Errors
    /// The exhausted limit.
    pub(super) fn take(self: &Arc<Self>, requester: &Principal) -> Result<Slot, String> {
        let mut held = self.held();
        let own = held.by_requester.get(requester);
        let free = self.total.saturating_sub(held.total);
        if own >= self.each {
            return Err(format!("--max-lookups-per-user {} reached by {requester}", self.each));
        }
        if own >= free {
            return Err(format!(
                "{} of {} look-ups are in progress: the {free} left are reserved for users with fewer than the {own} \
                 of {requester}; one user has at most half of all (`--max-lookups-per-user` is {})",
                held.total, self.total, self.each
            ));
        }
        held.total += 1;
        held.by_requester.add(requester);
        LOOKUPS_ACTIVE.gauge(&[]).increment(1.0);
        Ok(Slot { shares: self.clone(), requester: requester.clone() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // The counts are changed together, and nothing in between can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        held.total -= 1;
        held.by_requester.remove(self.requester.clone());
        LOOKUPS_ACTIVE.gauge(&[]).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::limits::Limits;
    use super::*;

    fn user(name: &str) -> Principal {
        Principal::User(name.into())
    }

    #[test]
    fn a_requester_has_its_share_and_gives_it_back() {
        let shares = Shares::new(100, 2);
        let slots = [shares.take(&user("ann")).unwrap(), shares.take(&user("ann")).unwrap()];
        let refused = shares.take(&user("ann")).unwrap_err();
        assert_eq!(refused, "--max-lookups-per-user 2 reached by user ann");
        let other = Principal::of(None, "192.0.2.1".parse::<std::net::IpAddr>().unwrap());
        let _other = shares.take(&other).unwrap();
        drop(slots);
        drop(shares.take(&user("ann")).unwrap());
        assert_eq!(shares.held().total, 1);
        let held = shares.held();
        assert_eq!([&other, &user("ann")].map(|requester| held.by_requester.get(requester)), [1, 0]);
        drop(held);
    }

    #[test]
    fn one_requester_has_as_many_as_is_published() {
        for (total, each) in [(416, 256), (21, 256), (1, 256), (1_024, 256), (128, 32)] {
            let limits = Limits { total, each, known: 1, deadline: Duration::from_secs(1) };
            let shares = Shares::new(total, each);
            let slots: Vec<_> = std::iter::from_fn(|| shares.take(&user("ann")).ok()).collect();
            assert_eq!(slots.len(), limits.of_one(), "{total} {each}");
        }
    }

    #[test]
    fn greedy_requesters_leave_room_for_the_next() {
        let shares = Shares::new(64, 64);
        let mut slots = Vec::new();
        for greedy in 0..5 {
            let requester = user(&greedy.to_string());
            while let Ok(slot) = shares.take(&requester) {
                slots.push(slot);
            }
            let refused = shares.take(&requester).unwrap_err();
            assert!(refused.contains("of 64 look-ups are in progress"), "{refused}");
            assert!(refused.contains("at most half of all (`--max-lookups-per-user` is 64)"), "{refused}");
            shares.take(&user("modest")).unwrap();
        }
    }
}
