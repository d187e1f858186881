//! Tunnels that have something to do of which no event will tell, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Turns at a time of their own.
#[derive(Debug, Default)]
pub(super) struct TimerQueue(BinaryHeap<Reverse<(Instant, u64)>>);

impl TimerQueue {
    pub(super) fn add(&mut self, at: Instant, id: u64) {
        self.0.push(Reverse((at, id)));
    }

    /// How long until the first; for ever when there is none.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.0.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }

    /// The next of those whose time it is.
    pub(super) fn due(&mut self, now: Instant) -> Option<u64> {
        let Reverse((at, id)) = *self.0.peek()?;
        if at > now {
            return None;
        }
        self.0.pop();
        Some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_the_order_of_their_times_and_not_before() {
        let now = Instant::now();
        let after = |millis| now + Duration::from_millis(millis);
        let mut timers = TimerQueue::default();
        assert_eq!((timers.wait(now), timers.due(now)), (None, None));
        for (at, id) in [(3, 30), (1, 10), (2, 20)] {
            timers.add(after(at), id);
        }
        assert_eq!((timers.wait(now), timers.due(now)), (Some(Duration::from_millis(1)), None));
        assert_eq!([timers.due(after(2)), timers.due(after(2)), timers.due(after(2))], [Some(10), Some(20), None]);
        assert_eq!(timers.wait(after(4)), Some(Duration::ZERO));
    }
}
