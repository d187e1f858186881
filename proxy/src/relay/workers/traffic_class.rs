//! Which tunnels are bulk: told by what they do, not by what they say.

use std::time::{Duration, Instant};

/// The two kinds of workers, and of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Interactive,
    Bulk,
}

impl Class {
    /// Both, in the order of their discriminants.
    pub(super) const BOTH: [Self; 2] = [Self::Interactive, Self::Bulk];

    /// The value of the `to` label.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Interactive => "interactive",
            Self::Bulk => "bulk",
        }
    }
}

/// Where the line is between the two, with room between its sides so that nobody goes to and fro.
#[derive(Clone, Copy, Debug)]
pub struct ClassThresholds {
    /// So many bytes within `window` are bulk.
    pub bulk: u64,
    /// See there.
    pub window: Duration,
    /// Less than so many bytes within `rest` are bulk no longer.
    pub calm: u64,
    /// See there.
    pub rest: Duration,
}

impl Default for ClassThresholds {
    /// Bulk is what would hold up a message by whole turns: 16 MiB/s, seen over a quarter of a second.
    /// No longer bulk is what has moved less than 2 MiB/s for half a second.
    fn default() -> Self {
        Self { bulk: 4 << 20, window: Duration::from_millis(250), calm: 1 << 20, rest: Duration::from_millis(500) }
    }
}

/// What a tunnel moved lately.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrafficMeter {
    since: Instant,
    /// Bytes that had been moved at `since`.
    moved: u64,
}

impl TrafficMeter {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, moved: 0 }
    }

    /// An interactive tunnel has become bulk. To be asked after each turn, with all that it has moved.
    pub(super) fn is_bulk(&mut self, moved: u64, now: Instant, line: &ClassThresholds) -> bool {
        let in_time = now.saturating_duration_since(self.since) < line.window;
        let bulk = in_time && moved - self.moved >= line.bulk;
        if bulk || !in_time {
            *self = Self { since: now, moved };
        }
        bulk
    }

    /// A bulk tunnel has become interactive. To be asked every now and then.
    pub(super) fn is_calm(&mut self, moved: u64, now: Instant, line: &ClassThresholds) -> bool {
        if now.saturating_duration_since(self.since) < line.rest {
            return false;
        }
        let calm = moved - self.moved < line.calm;
        *self = Self { since: now, moved };
        calm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: ClassThresholds =
        ClassThresholds { bulk: 100, window: Duration::from_secs(10), calm: 10, rest: Duration::from_secs(20) };

    #[test]
    fn much_in_a_short_time_is_bulk_and_much_in_a_long_time_is_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = TrafficMeter::new(start);
        assert!(!meter.is_bulk(99, at(9), &LINE));
        assert!(meter.is_bulk(100, at(9), &LINE));
        let mut meter = TrafficMeter::new(start);
        for second in 0..1_000 {
            assert!(!meter.is_bulk(second * 9, at(second), &LINE), "{second}");
        }
        assert!(!meter.is_bulk(1_000_000, at(2_000), &LINE), "a long time ago it was less");
        assert!(meter.is_bulk(1_000_100, at(2_001), &LINE));
    }

    #[test]
    fn a_while_of_little_is_calm() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = TrafficMeter::new(start);
        assert!(!meter.is_calm(9, at(19), &LINE));
        assert!(!meter.is_calm(10, at(20), &LINE));
        assert!(!meter.is_calm(19, at(39), &LINE));
        assert!(meter.is_calm(19, at(40), &LINE));
    }
}
