//! Classification of tunnels as interactive or bulk, by their traffic and not by their declaration.

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

/// Thresholds between the two classes, with a gap between them against flapping.
#[derive(Clone, Copy, Debug)]
pub struct ClassThresholds {
    /// Bytes within `window` from which a tunnel is bulk.
    pub bulk: u64,
    /// Window of the bulk threshold.
    pub window: Duration,
    /// Bytes within `rest` below which a tunnel is no longer bulk.
    pub calm: u64,
    /// Window of the calm threshold.
    pub rest: Duration,
}

impl Default for ClassThresholds {
    /// Bulk from 16 MiB/s over a quarter of a second: enough to hold up a message by whole quanta.
    /// No longer bulk below 2 MiB/s over half a second.
    fn default() -> Self {
        Self { bulk: 4 << 20, window: Duration::from_millis(250), calm: 1 << 20, rest: Duration::from_millis(500) }
    }
}

/// Recent traffic of a tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct TrafficMeter {
    since: Instant,
    /// Bytes moved before `since`.
    moved: u64,
}

impl TrafficMeter {
    pub(super) const fn new(now: Instant) -> Self {
        Self { since: now, moved: 0 }
    }

    /// Tests whether an interactive tunnel has become bulk. Called after each step with all bytes
    /// moved so far.
    pub(super) fn is_bulk(&mut self, moved: u64, now: Instant, line: &ClassThresholds) -> bool {
        let in_time = now.saturating_duration_since(self.since) < line.window;
        let bulk = in_time && moved - self.moved >= line.bulk;
        if bulk || !in_time {
            *self = Self { since: now, moved };
        }
        bulk
    }

    /// Tests whether a bulk tunnel has become interactive. Called periodically.
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
