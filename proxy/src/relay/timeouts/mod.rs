//! Periodic samples of both connections of a tunnel: what holds up the sending, when a byte last moved, and whether the
//! tunnel is idle or a peer gone.
//!
//! Both time-outs judge what the peers did, by the counters of TCP, which are read before they are judged: bytes move also
//! while the worker has nothing to do, out of a socket's buffer, at a paced rate, or by the BPF program.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::Options;
use crate::metrics::{self, LimitedBy, LimitedSide};
use crate::sys::tcp::{self, Limits, Progress, Sample};
use crate::tunnel::{Direction, Flow};

/// How often a tunnel is sampled, unless a time-out wants it more often.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);

/// Bytes that both peers had acknowledged at the last sample, by which an acknowledged byte differs from an answered probe.
#[derive(Debug, Default)]
pub(super) struct ActivityMeter {
    /// By [`Direction::index`] of the direction that the leg is the source of, as everything here.
    acknowledged: [AtomicU64; 2],
}

/// Result of [`ActivityMeter::sample`] for both legs; `None` for a connection that is over.
#[derive(Debug)]
pub(super) struct Samples {
    legs: [Option<Sample>; 2],
    at: Instant,
    /// When a peer last sent or acknowledged a byte, as far as that shows.
    pub(super) activity: Option<Instant>,
}

impl ActivityMeter {
    /// Reads the state of both connections, by one getsockopt(2) each. May be called from any thread.
    pub(super) fn sample(&self, sockets: [&impl AsFd; 2]) -> Samples {
        // A connection that was reset has lost its counters (`net/ipv4/tcp.c`, `tcp_disconnect`).
        let legs = sockets.map(|socket| tcp::sample(socket).ok().filter(|sample| !sample.progress.closed));
        let at = Instant::now();
        let ages = legs.iter().zip(&self.acknowledged).filter_map(|(leg, acknowledged)| {
            let leg = leg.as_ref()?;
            let now = leg.progress.acknowledged;
            let has_acknowledged = acknowledged.swap(now, Ordering::Relaxed) != now;
            // A later acknowledgement may be that of a keepalive probe.
            let acknowledged = leg.since_acknowledgement.max(leg.since_all_acknowledged.unwrap_or_default());
            Some(if has_acknowledged { leg.since_data.min(acknowledged) } else { leg.since_data })
        });
        let activity = ages.min().map(|age| at.checked_sub(age).unwrap_or(at));
        Samples { legs, at, activity }
    }
}

/// The time-outs of a tunnel and how often they are looked after.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// `--idle-timeout`.
    pub(super) idle: Option<Duration>,
    /// `--user-timeout`; zero: no peer is given up.
    pub(super) user: Duration,
    pub(super) interval: Duration,
}

impl Timeouts {
    pub(super) fn of(options: &Options) -> Self {
        Self { idle: options.idle_timeout, user: options.user_timeout, interval: options.sample_interval() }
    }
}

/// A time-out that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expired {
    /// No byte was received from or acknowledged by either peer for the idle time-out.
    Idle,
    /// The source of this direction has answered nothing for the user time-out although it was asked.
    Peer(Direction),
}

/// State kept between the samples of a tunnel.
#[derive(Debug)]
pub(super) struct Watch {
    legs: [Leg; 2],
    /// When the last sample was taken, or the engine took the tunnel over.
    sampled: Instant,
    /// The last sample came late and was not judged.
    excused: bool,
}

#[derive(Debug, Default)]
struct Leg {
    limits: Limits,
    progress: Progress,
    segments: u32,
    /// Since when the peer has been seen to owe an answer, and nothing was heard of it.
    owes_since: Option<Instant>,
}

impl Watch {
    /// Starts with a tunnel that the engine takes over at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { legs: Default::default(), sampled: now, excused: false }
    }

    /// Samples both connections, counts the limits on their sending, notes the last activity in `flow`, and returns the
    /// time-out that is over.
    pub(super) fn sample(
        &mut self,
        sockets: [&impl AsFd; 2],
        meter: &ActivityMeter,
        flow: &Flow,
        timeouts: Timeouts,
    ) -> Option<Expired> {
        let samples = meter.sample(sockets);
        samples.activity.into_iter().for_each(|at| flow.note_activity(at));
        for ((leg, sample), side) in
            self.legs.iter_mut().zip(&samples.legs).zip([LimitedSide::Client, LimitedSide::Origin])
        {
            sample.iter().for_each(|sample| leg.count(&sample.limits, side));
        }
        self.judge(&samples, flow.last_moved(), timeouts)
    }

    /// Returns the time-out that is over. A sample that is late by more than its own period ends nothing: the process, or
    /// the whole host, stood still, and the bytes that the peers sent meanwhile are passed on before the next sample. Of
    /// two late samples in a row without a byte between them, as on a host that is always late, the second counts.
    fn judge(&mut self, samples: &Samples, last_activity: Instant, timeouts: Timeouts) -> Option<Expired> {
        let before = std::mem::replace(&mut self.sampled, samples.at);
        let late = samples.at.saturating_duration_since(before) > timeouts.interval * 2;
        // By the counters, which are exact; times are those of the kernel's ticks.
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

    /// Time for which the peer has owed an answer and no segment came from it, counted from the first sample that found
    /// it so; `None` if it owes none.
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
