//! Periodic sweep over a worker's tunnels: all of them within an interval, a few at a time, so ten
//! thousand idle tunnels never hold up a busy one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Tunnels visited in one go.
const SLICE: usize = 64;

/// Id and generation of a tunnel; an entry with an outdated generation is dropped at its visit.
pub(super) type Visit = (u64, u8);

/// Queue of tunnels to visit, and the time of the next visit.
#[derive(Debug)]
pub(super) struct PeriodicSweep {
    order: VecDeque<Visit>,
    interval: Duration,
    next: Instant,
}

impl PeriodicSweep {
    pub(super) fn new(interval: Duration) -> Self {
        Self { order: VecDeque::new(), interval, next: Instant::now() }
    }

    /// Appends a tunnel, on arrival or after a visit.
    pub(super) fn add(&mut self, visit: Visit) {
        self.order.push_back(visit);
    }

    /// Time until the next visit; `None` if there are no tunnels.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        (!self.order.is_empty()).then(|| self.next.saturating_duration_since(now))
    }

    /// Takes the tunnels due now. A tunnel to be visited again has to be added again.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Visit> {
        if now < self.next || self.order.is_empty() {
            return Vec::new();
        }
        let slices = u32::try_from(self.order.len().div_ceil(SLICE)).unwrap_or(u32::MAX);
        self.next = now + self.interval / slices;
        let due = self.order.len().min(SLICE);
        self.order.drain(..due).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_looked_at_once_an_interval_and_few_at_a_time() {
        let interval = Duration::from_secs(10);
        let mut sweep = PeriodicSweep::new(interval);
        let mut now = Instant::now();
        assert_eq!(sweep.wait(now), None);
        let all = 10 * SLICE as u64;
        (0..all).for_each(|id| sweep.add((id, 0)));
        let (start, mut seen) = (now, Vec::new());
        while now < start + interval {
            let due = sweep.due(now);
            assert!(due.len() <= SLICE);
            due.iter().for_each(|visit| sweep.add(*visit));
            seen.extend(due.into_iter().map(|(id, _)| id));
            now += sweep.wait(now).unwrap();
        }
        assert_eq!(seen, (0..all).collect::<Vec<_>>());
    }
}
