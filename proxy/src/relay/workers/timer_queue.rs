//! Timers of tunnels with work due at a given time and no event to report it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Queue of tunnel timers, earliest first.
#[derive(Debug, Default)]
pub(super) struct TimerQueue(BinaryHeap<Reverse<(Instant, u64)>>);

impl TimerQueue {
    pub(super) fn add(&mut self, at: Instant, id: u64) {
        self.0.push(Reverse((at, id)));
    }

    /// Time until the first timer; `None` if there is none.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.0.peek().map(|Reverse((at, _))| at.saturating_duration_since(now))
    }

    /// Takes the next expired timer.
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
