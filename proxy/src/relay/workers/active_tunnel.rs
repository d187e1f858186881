//! A tunnel that a worker has.

use std::io;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::traffic_class::TrafficMeter;
use crate::reason::Reason;
use crate::relay::fault::{Fault, clean_end};
use crate::relay::last_bytes::{LAST_BYTES, acknowledged};
use crate::relay::pipes::Pipes;
use crate::relay::poller::{Key, Poller};
use crate::relay::pump::Pump;
use crate::relay::step::Step;
use crate::sys::tcp;
use crate::tunnel::Direction;

/// A tunnel that one worker has, and may migrate to another.
#[derive(Debug)]
pub(super) struct ActiveTunnel {
    pub(super) id: u64,
    /// Number of the bulk worker that it prefers.
    pub(super) preferred_worker: usize,
    /// See [`Key::generation`].
    pub(super) generation: u8,
    pub(super) pump: Pump,
    /// Taken at the end.
    pub(super) end: Option<oneshot::Sender<Reason>>,
    /// It is in the run queue.
    pub(super) queued: bool,
    /// It has an entry in the timer queue.
    pub(super) has_timer: bool,
    pub(super) phase: Phase,
    pub(super) traffic: TrafficMeter,
}

/// Phase of a tunnel's life in a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// Both sockets are sound.
    Live,
    /// A socket failed. Bytes that it had received before are still being delivered.
    Flushing(Flush),
    /// Both directions ended by FIN and everything is acknowledged, so closing the sockets is a
    /// clean end. In every other phase closing them is a reset ([`tcp::reset_on_close`]), whatever
    /// becomes of this thread.
    EndedCleanly,
}

/// Delivery of the last bytes of a broken tunnel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flush {
    /// Direction whose source failed.
    pub(super) direction: Direction,
    /// Reason that the tunnel will end with.
    pub(super) why: Reason,
    /// End of the delivery unless there is progress until then.
    pub(super) until: Instant,
    /// Bytes that the sound side had acknowledged at the last check.
    pub(super) acknowledged: u64,
    /// The last check came late, and the delivery was prolonged for that.
    pub(super) excused: bool,
}

/// Outcome of a turn of a tunnel.
#[derive(Debug)]
pub(super) enum Turn {
    /// `has_more`: it has more to do at once; `pause`: and after this time, without an event.
    Over { has_more: bool, pause: Option<Duration> },
    /// Both directions have ended, and everything was delivered.
    Ended(Reason),
    /// A socket failed.
    Failed(Fault),
}

impl ActiveTunnel {
    pub(super) fn new(id: u64, preferred_worker: usize, pump: Pump, end: oneshot::Sender<Reason>) -> Self {
        let traffic = TrafficMeter::new(pump.flow.started());
        Self {
            id,
            preferred_worker,
            generation: 0,
            pump,
            end: Some(end),
            queued: false,
            has_timer: false,
            phase: Phase::Live,
            traffic,
        }
    }

    /// Key under which the poller reports the socket that `direction` reads from.
    pub(super) const fn key(&self, direction: Direction) -> Key {
        Key { tunnel: self.id, generation: self.generation, direction }
    }

    /// Registers both sockets with a poller.
    ///
    /// # Errors
    /// Any error of the poller.
    pub(super) fn register(&self, poller: &mut impl Poller) -> io::Result<()> {
        for direction in Direction::BOTH {
            let (socket, key) = (&self.pump.leg(direction).socket, self.key(direction));
            // Once more, since memory may have been short for a moment.
            poller.watch(socket, key).or_else(|_| poller.watch(socket, key))?;
        }
        let is_offloaded = Direction::BOTH.into_iter().all(|direction| self.pump.is_offloaded(direction));
        if is_offloaded { self.watch_for_close(poller) } else { Ok(()) }
    }

    /// Has only the ends of both sockets reported, once the tunnel is offloaded.
    ///
    /// # Errors
    /// Any error of the poller.
    pub(super) fn watch_for_close(&self, poller: &mut impl Poller) -> io::Result<()> {
        Direction::BOTH
            .into_iter()
            .try_for_each(|direction| poller.watch_end(&self.pump.leg(direction).socket, self.key(direction)))
    }

    /// Ends the watch on both sockets. Events that still come belong to an earlier generation.
    pub(super) fn deregister(&mut self, poller: &mut impl Poller) {
        for direction in Direction::BOTH {
            poller.unwatch(&self.pump.leg(direction).socket, self.key(direction));
        }
        self.generation = self.generation.wrapping_add(1);
    }

    /// The delivery of last bytes, if the tunnel is broken.
    pub(super) const fn flush_state(&self) -> Option<Flush> {
        match self.phase {
            Phase::Flushing(flush) => Some(flush),
            Phase::Live | Phase::EndedCleanly => None,
        }
    }

    /// Runs a step of each direction.
    pub(super) fn step(&mut self, pipes: &mut Pipes, scratch: &mut [u8], now: Instant) -> Turn {
        // Of a broken tunnel only the last bytes of the failed side are worth passing on.
        let only = self.flush_state().map(|flush| flush.direction);
        let directions = Direction::BOTH.into_iter().filter(|direction| only.is_none_or(|only| only == *direction));
        let mut has_more = false;
        let mut pause: Option<Duration> = None;
        let mut fault = None;
        for direction in directions {
            match self.pump.step(direction, pipes, scratch, now) {
                Step::Blocked | Step::Finished => {}
                Step::Yielded => has_more = true,
                Step::RetryAfter(after) => pause = Some(pause.map_or(after, |pause| pause.min(after))),
                Step::Failed(failed) => {
                    // Before the step of the other direction: the kernel reports an error once, and
                    // that step would read a clean end from the same socket and pass it on.
                    self.pump.break_source(failed.source_of);
                    fault = fault.or(Some(failed));
                }
            }
        }
        if let Some(fault) = fault {
            return Turn::Failed(fault);
        }
        if only.is_none() && self.pump.is_finished() && self.pump.is_delivered() {
            if self.pump.allow_clean_close() {
                self.phase = Phase::EndedCleanly;
            }
            return Turn::Ended(clean_end(self.pump.first_end));
        }
        Turn::Over { has_more, pause }
    }

    /// Begins the delivery of the last bytes after a socket failed.
    pub(super) fn begin_flush(&mut self, fault: &Fault, now: Instant) {
        let (direction, why, until) = (fault.source_of, fault.reason(), now + LAST_BYTES);
        let acknowledged = self.acknowledged(direction);
        self.phase = Phase::Flushing(Flush { direction, why, until, acknowledged, excused: false });
        self.pump.break_source(direction);
    }

    /// Returns the reason that a broken tunnel ends with once its last bytes have arrived, or make
    /// no progress.
    pub(super) fn check_flush(&mut self, now: Instant) -> Option<Reason> {
        let mut flush = self.flush_state()?;
        let acknowledged = self.acknowledged(flush.direction);
        // If the process stood still, the bytes under way get their time once more.
        let is_late = now.saturating_duration_since(flush.until) > LAST_BYTES;
        flush.excused = is_late && !flush.excused;
        if acknowledged > flush.acknowledged || flush.excused {
            (flush.acknowledged, flush.until) = (acknowledged, now + LAST_BYTES);
        }
        self.phase = Phase::Flushing(flush);
        let sound = &self.pump.leg(flush.direction.opposite()).socket;
        let has_arrived =
            self.pump.has_sent_all(flush.direction) && tcp::unacknowledged(sound).is_ok_and(|bytes| bytes == 0);
        (has_arrived || now >= flush.until).then_some(flush.why)
    }

    /// Bytes moved so far in both directions.
    pub(super) fn moved(&self) -> u64 {
        Direction::BOTH.map(|direction| self.pump.flow.moved(direction)).into_iter().sum()
    }

    /// A number that grows by the bytes of a direction that its destination acknowledges.
    pub(super) fn acknowledged(&self, direction: Direction) -> u64 {
        let destination = &self.pump.leg(direction.opposite()).socket;
        if self.pump.is_offloaded(direction) {
            // The counters of the flow include bytes that are still in queues of the kernel.
            return tcp::progress(destination).map_or(0, |progress| progress.acknowledged);
        }
        acknowledged(&self.pump.flow, direction, destination)
    }

    /// Tests whether the tunnel may migrate to another worker: it is live, and not offloaded, since
    /// then it costs its worker next to nothing.
    pub(super) fn may_move(&self) -> bool {
        matches!(self.phase, Phase::Live) && !self.pump.is_finished() && !self.pump.has_offload()
    }

    /// Resets both sides, unless the tunnel ended cleanly.
    pub(super) fn reset_unless_clean(&self) {
        if !matches!(self.phase, Phase::EndedCleanly) {
            for direction in Direction::BOTH {
                let _ = tcp::reset(&self.pump.leg(direction).socket);
            }
        }
    }
}
