//! The order in which a worker looks at its tunnels: all of them within an interval, a few at a time, so
//! that ten thousand idle ones never hold up the one that is busy.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Tunnels looked at in one go.
const SLICE: usize = 64;

/// A tunnel, and which stay of it: those that have left are dropped when their turn comes.
pub(super) type Visit = (u64, u8);

/// Whom to look at, and when.
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

    /// A tunnel came, or was looked at and is to be looked at again.
    pub(super) fn add(&mut self, visit: Visit) {
        self.order.push_back(visit);
    }

    /// How long there is nothing to look at; for ever when there is nobody.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        (!self.order.is_empty()).then(|| self.next.saturating_duration_since(now))
    }

    /// Those to look at now. Whoever is to be looked at again has to be added again.
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
