//! Failed password checks by source: a token bucket for each source, and for each IPv6 /48, since
//! one host may have every /64 of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::source::Source;

/// Failures of a source before it counts as failing.
pub(super) const BURST: u32 = 16;
/// Time after which one failure is forgiven.
pub(super) const FORGIVEN_AFTER: Duration = Duration::from_secs(5);
/// Sources remembered, some 40 bytes each. Past the limit the source due to be forgiven first is
/// forgotten, at no cost to its neighbours.
const MAX_SOURCES: usize = 4_096;

/// Failures of sources, and of their sites.
#[derive(Debug, Default)]
pub(super) struct Failures {
    sources: Buckets,
    sites: Buckets,
}

impl Failures {
    /// Counts a failure.
    pub(super) fn record(&mut self, source: Source, now: Instant) {
        self.sources.record(source, now);
        if let Some(site) = source.site() {
            self.sites.record(site, now);
        }
    }

    /// Returns the failures of the source, or of its site, not yet forgiven; at most [`BURST`].
    pub(super) fn recent(&self, source: Source, now: Instant) -> u32 {
        let of_site = source.site().map_or(0, |site| self.sites.recent(site, now));
        self.sources.recent(source, now).max(of_site)
    }
}

/// Token bucket of each key with recent failures; a full bucket is not kept.
#[derive(Debug, Default)]
struct Buckets {
    /// Time at which all failures of the key are forgiven: the level of its bucket in one number
    /// (the generic cell rate algorithm).
    forgiven: HashMap<Source, Instant>,
}

impl Buckets {
    /// Takes a token. An empty bucket stays empty and owes nothing: a source with further failures
    /// is forgiven as soon after its last failure as one with [`BURST`] failures.
    fn record(&mut self, source: Source, now: Instant) {
        if !self.forgiven.contains_key(&source) && self.forgiven.len() >= MAX_SOURCES {
            self.make_room(now);
        }
        let forgiven = self.forgiven.entry(source).or_insert(now);
        *forgiven = ((*forgiven).max(now) + FORGIVEN_AFTER).min(now + FORGIVEN_AFTER * BURST);
    }

    /// Returns the failures not yet forgiven, at most [`BURST`].
    fn recent(&self, source: Source, now: Instant) -> u32 {
        let left =
            self.forgiven.get(&source).map_or(Duration::ZERO, |forgiven| forgiven.saturating_duration_since(now));
        u32::try_from(left.as_nanos().div_ceil(FORGIVEN_AFTER.as_nanos())).unwrap_or(BURST)
    }

    fn make_room(&mut self, now: Instant) {
        self.forgiven.retain(|_, forgiven| *forgiven > now);
        if self.forgiven.len() >= MAX_SOURCES
            && let Some(first) = self.forgiven.iter().min_by_key(|(_, forgiven)| **forgiven).map(|(source, _)| *source)
        {
            self.forgiven.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn source(number: u32) -> Source {
        IpAddr::from(number.to_be_bytes()).into()
    }

    #[test]
    fn failures_are_counted_up_to_a_bound_and_forgiven_one_by_one() {
        let (mut failures, start, ann) = (Failures::default(), Instant::now(), source(1));
        assert_eq!(failures.recent(ann, start), 0);
        for count in 1..=BURST {
            failures.record(ann, start);
            assert_eq!(failures.recent(ann, start), count);
        }
        for _ in 0..1_000 {
            failures.record(ann, start);
        }
        assert_eq!((failures.recent(ann, start), failures.recent(source(2), start)), (BURST, 0));
        assert_eq!(failures.recent(ann, start + FORGIVEN_AFTER), BURST - 1);
        assert_eq!(failures.recent(ann, start + FORGIVEN_AFTER * (BURST - 1)), 1);
        assert_eq!(failures.recent(ann, start + FORGIVEN_AFTER * BURST), 0);
        failures.record(ann, start + FORGIVEN_AFTER * BURST * 2);
        assert_eq!(failures.recent(ann, start + FORGIVEN_AFTER * BURST * 2), 1);
    }

    /// A host with a /48 has 65,536 sources, and a bucket for all of them.
    #[test]
    fn failures_of_an_ipv6_site_count_for_its_fresh_sources() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let at = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        for number in 0..2 * BURST {
            failures.record(at(&format!("2001:db8:1:{number:x}::1")), now);
            failures.record(source(number << 8), now);
        }
        let seen = ["2001:db8:1:ffff::1", "2001:db8:2::1", "0.0.1.1"].map(|text| failures.recent(at(text), now));
        assert_eq!(seen, [BURST, 0, 0]);
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let worst = source(0);
        for _ in 0..BURST {
            failures.record(worst, start);
        }
        for number in 1..=3 * MAX_SOURCES as u32 {
            failures.record(source(number), start);
        }
        assert_eq!(failures.sources.forgiven.len(), MAX_SOURCES);
        assert_eq!(failures.recent(worst, start), BURST);
        // All forgiven ones go before one that is not.
        failures.record(source(u32::MAX), start + FORGIVEN_AFTER * 2);
        assert_eq!(failures.sources.forgiven.len(), 2);
    }
}
