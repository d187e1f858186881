//! Periodic samples of both connections of a tunnel: limits on sending, last activity, idle
//! tunnels, vanished peers.
//!
//! Both time-outs judge the peers' activity by TCP's counters, read right before. Bytes also move
//! while the worker has nothing to do: out of a socket's buffer, at a limited rate, or by the BPF
//! program.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::metrics::{self, LimitedBy, LimitedSide};
use crate::sys::tcp::{self, Limits, Progress, Sample};
use crate::tunnel::{Direction, Flow};

/// Sampling interval of a tunnel, unless a time-out needs a shorter one.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// Acknowledged bytes of both peers at the last sample: tells an acknowledged byte from an answered
/// probe.
#[derive(Debug, Default)]
pub(super) struct ActivityMeter {
    /// By [`Direction::index`] of the direction reading from the leg, as everywhere in this module.
    acknowledged: [AtomicU64; 2],
}

/// Result of [`ActivityMeter::sample`] for both legs; `None` for a closed connection.
#[derive(Debug)]
pub(super) struct Samples {
    legs: [Option<Sample>; 2],
    at: Instant,
    /// Time at which a peer last sent or acknowledged a byte, if known.
    pub(super) activity: Option<Instant>,
}

impl ActivityMeter {
    /// Reads the state of both connections, by one getsockopt(2) each. May be called from any
    /// thread.
    pub(super) fn sample(&self, sockets: [&impl AsFd; 2]) -> Samples {
        // A reset connection has lost its counters (`net/ipv4/tcp.c`, `tcp_disconnect`).
        let legs = sockets.map(|socket| tcp::sample(socket).ok().filter(|sample| !sample.progress.closed));
        let at = Instant::now();
        let ages = legs.iter().zip(&self.acknowledged).filter_map(|(leg, acknowledged)| {
            let leg = leg.as_ref()?;
            let now = leg.progress.acknowledged;
            let has_acknowledged = acknowledged.swap(now, Ordering::Relaxed) != now;
            // A later acknowledgement may belong to a keepalive probe.
            let acknowledged = leg.since_acknowledgement.max(leg.since_all_acknowledged.unwrap_or_default());
            Some(if has_acknowledged { leg.since_data.min(acknowledged) } else { leg.since_data })
        });
        let activity = ages.min().map(|age| at.checked_sub(age).unwrap_or(at));
        Samples { legs, at, activity }
    }
}

/// The time-outs of a tunnel and their sampling interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// `--idle-timeout`.
    pub(super) idle: Option<Duration>,
    /// `--user-timeout`; zero: no peer is given up.
    pub(super) user: Duration,
    pub(super) interval: Duration,
}

/// A time-out that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// No byte was received from or acknowledged by either peer for the idle time-out.
    Idle,
    /// The source of this direction owed an answer and was silent for the user time-out.
    Peer(Direction),
}

/// State kept between the samples of a tunnel.
#[derive(Debug)]
pub(super) struct Watch {
    legs: [Leg; 2],
    /// Time of the last sample, or of the hand-off to the engine.
    sampled: Instant,
    /// The last sample came late and was not judged.
    excused: bool,
}

#[derive(Debug, Default)]
struct Leg {
    limits: Limits,
    progress: Progress,
    segments: u32,
    /// Start of the peer's silence while it owes an answer, as seen by the samples.
    owes_since: Option<Instant>,
}

impl Watch {
    /// Starts with a tunnel handed to the engine at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { legs: Default::default(), sampled: now, excused: false }
    }

    /// Samples both connections, counts the limits on their sending, records the last activity in
    /// `flow`, and returns the expired time-out.
    pub(super) fn sample(
        &mut self,
        sockets: [&impl AsFd; 2],
        meter: &ActivityMeter,
        flow: &Flow,
        timeouts: Timeouts,
    ) -> Option<Expired> {
        let samples = meter.sample(sockets);
        samples.activity.into_iter().for_each(|at| flow.record_activity(at));
        for ((leg, sample), side) in
            self.legs.iter_mut().zip(&samples.legs).zip([LimitedSide::Client, LimitedSide::Origin])
        {
            sample.iter().for_each(|sample| leg.count(&sample.limits, side));
        }
        self.judge(&samples, flow.last_moved(), timeouts)
    }

    /// Returns the expired time-out. A sample late by more than its own period ends nothing: the
    /// process, or the whole host, was suspended, and bytes sent by the peers meanwhile are passed
    /// on before the next sample. Of two late samples in a row without a byte between them, as on a
    /// host that is always late, the second counts.
    fn judge(&mut self, samples: &Samples, last_activity: Instant, timeouts: Timeouts) -> Option<Expired> {
        let before = std::mem::replace(&mut self.sampled, samples.at);
        let late = samples.at.saturating_duration_since(before) > timeouts.interval * 2;
        // By the counters, which are exact; the times have the resolution of the kernel's ticks.
        let moved =
            self.legs.iter_mut().zip(&samples.legs).fold(false, |moved, (leg, sample)| leg.has_moved(sample) | moved);
        self.excused = late && (!self.excused || moved);
        let mut gone = None;
        for (leg, direction) in self.legs.iter_mut().zip(Direction::BOTH) {
            let Some(sample) = &samples.legs[direction.index()] else { continue };
            let owes = leg.owes_for(sample, samples.at, self.excused);
            if owes.is_some_and(|time| time >= timeouts.user) && !timeouts.user.is_zero() {
                gone.get_or_insert(Expired::Peer(direction));
            }
        }
        let idle = samples.at.saturating_duration_since(last_activity);
        let idle = timeouts.idle.is_some_and(|limit| idle >= limit && !self.excused).then_some(Expired::Idle);
        gone.or(idle)
    }
}

impl Leg {
    /// Counts the limits on sending since the last sample.
    fn count(&mut self, now: &Limits, side: LimitedSide) {
        let before = std::mem::replace(&mut self.limits, *now);
        let receiver = now.receiver.saturating_sub(before.receiver);
        let gateway = now.send_buffer.saturating_sub(before.send_buffer);
        let busy = now.busy.saturating_sub(before.busy);
        metrics::tcp_limited(side, LimitedBy::Receiver, receiver);
        metrics::tcp_limited(side, LimitedBy::Gateway, gateway);
        let rest = if now.paced { LimitedBy::Rate } else { LimitedBy::Network };
        metrics::tcp_limited(side, rest, busy.saturating_sub(receiver + gateway));
    }

    /// Returns true if a byte was received or acknowledged since the last sample.
    fn has_moved(&mut self, sample: &Option<Sample>) -> bool {
        let now = sample.map_or(self.progress, |sample| sample.progress);
        std::mem::replace(&mut self.progress, now) != now
    }

    /// Time for which the peer has owed an answer without sending a segment, counted from the first
    /// sample to find it so; `None` if it owes none.
    fn owes_for(&mut self, sample: &Sample, now: Instant, anew: bool) -> Option<Duration> {
        let heard = std::mem::replace(&mut self.segments, sample.segments) != sample.segments;
        if heard || anew || !sample.unanswered {
            self.owes_since = None;
        }
        sample.unanswered.then(|| now.saturating_duration_since(*self.owes_since.get_or_insert(now)))
    }
}

#[cfg(test)]
mod tests;
