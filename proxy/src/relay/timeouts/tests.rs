//! Tests of the judgement of samples, with a clock of their own.

use super::*;

const TIMEOUTS: Timeouts =
    Timeouts { idle: Some(Duration::from_secs(8)), user: Duration::from_secs(4), interval: Duration::from_secs(1) };

/// A watch, and a clock in seconds since the start of the tunnel.
struct Clock {
    watch: Watch,
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        let start = Instant::now();
        Self { watch: Watch::new(start), start }
    }

    fn at(&self, seconds: u64) -> Instant {
        self.start + Duration::from_secs(seconds)
    }

    /// Takes a sample; `client`: its number of segments so far, and if it owes an answer.
    fn sample(&mut self, seconds: u64, active: u64, client: (u32, bool)) -> Option<Expired> {
        let leg = |(segments, unanswered)| {
            Some(Sample {
                limits: Limits::default(),
                progress: Progress { received: active, ..Progress::default() },
                since_data: Duration::ZERO,
                since_acknowledgement: Duration::ZERO,
                since_all_acknowledged: None,
                segments,
                unanswered,
            })
        };
        let samples = Samples { legs: [leg(client), leg((0, false))], at: self.at(seconds), activity: None };
        self.watch.judge(&samples, self.at(active), TIMEOUTS)
    }
}

#[test]
fn a_tunnel_is_idle_at_its_limit_and_not_before() {
    let mut clock = Clock::new();
    for second in 0..8 {
        assert_eq!(clock.sample(second, 0, (0, false)), None, "{second} s");
    }
    assert_eq!(clock.sample(8, 1, (0, false)), None, "a byte was acknowledged meanwhile");
    assert_eq!(clock.sample(9, 1, (0, false)), Some(Expired::Idle));
}

/// After a suspension the first sample judges nothing; the second judges its consequences.
#[test]
fn a_process_that_was_away_looks_once_more() {
    for (active, expected) in [(0, Some(Expired::Idle)), (60, None)] {
        let mut clock = Clock::new();
        assert_eq!(clock.sample(1, 0, (0, true)), None);
        assert_eq!(clock.sample(60, 0, (0, true)), None, "just back");
        assert_eq!(clock.sample(61, active, (0, true)), expected);
    }
}

/// Suspended before the first sample, and again before each next one: received bytes are passed on
/// in between.
#[test]
fn a_process_that_is_away_again_and_again_gives_each_time_what_came_its_chance() {
    let mut clock = Clock::new();
    for round in 1..5 {
        assert_eq!(clock.sample(20 * round, 20 * (round - 1) + 1, (0, false)), None, "round {round}");
    }
    assert_eq!(clock.sample(100, 61, (0, false)), Some(Expired::Idle), "nothing came");
}

#[test]
fn a_host_that_is_always_late_ends_what_is_idle_all_the_same() {
    let mut clock = Clock::new();
    assert_eq!(clock.sample(0, 0, (0, false)), None);
    assert_eq!(clock.sample(10, 0, (0, false)), None);
    assert_eq!(clock.sample(20, 0, (0, false)), Some(Expired::Idle));
}

#[test]
fn a_peer_is_gone_that_is_asked_and_silent() {
    let mut clock = Clock::new();
    // A peer that owes nothing may be silent.
    for second in 0..20 {
        assert_eq!(clock.sample(second, second, (7, false)), None, "{second} s");
    }
    for second in 20..24 {
        assert_eq!(clock.sample(second, second, (7, true)), None, "{second} s");
    }
    assert_eq!(clock.sample(24, 24, (7, true)), Some(Expired::Peer(Direction::ToOrigin)));
}

/// A window stays closed: each probe is answered, at any sampling times.
#[test]
fn a_peer_that_answers_is_never_gone() {
    let mut clock = Clock::new();
    for second in 0..100_u32 {
        let at = second.into();
        // An answer every third second, and one is owed at every sample.
        assert_eq!(clock.sample(at, at, (second / 3, true)), None, "{second} s");
    }
    // No answers, but none owed between two probes either.
    for second in 100..200 {
        assert_eq!(clock.sample(second, second, (33, second % 4 == 0)), None, "{second} s");
    }
}
