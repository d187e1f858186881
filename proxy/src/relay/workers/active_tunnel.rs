//! A tunnel in the hands of a worker.

use std::time::Instant;

use tokio::sync::oneshot;

use super::traffic_class::TrafficMeter;
use crate::reason::Reason;
use crate::relay::acknowledged;
use crate::relay::poller::Key;
use crate::relay::pump::Pump;
use crate::sys::tcp;
use crate::tunnel::Direction;

/// A tunnel that one worker has, and may give to another.
#[derive(Debug)]
pub(super) struct ActiveTunnel {
    pub(super) id: u64,
    /// The number of the worker at which it is bulk.
    pub(super) preferred_worker: usize,
    /// See [`Key::generation`].
    pub(super) generation: u8,
    pub(super) pump: Pump,
    /// Taken at the end.
    pub(super) end: Option<oneshot::Sender<Reason>>,
    /// It stands in the queue.
    pub(super) queued: bool,
    /// It has a turn at a time of its own.
    pub(super) has_timer: bool,
    /// It broke: what is still worth waiting for.
    pub(super) broken: Option<Broken>,
    /// Both directions ended well, so that closing the sockets is a clean end. Otherwise it is a reset
    /// ([`tcp::reset_on_close`]), whatever became of this thread.
    pub(super) clean_close: bool,
    pub(super) traffic: TrafficMeter,
}

/// What is left of a tunnel that broke.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    /// The direction whose source failed.
    pub(super) last: Direction,
    pub(super) why: Reason,
    /// When its time is over, unless more arrives until then.
    pub(super) until: Instant,
    /// Bytes of `last` that the sound side had acknowledged.
    pub(super) acknowledged: u64,
    /// The end of its time was noticed late, and it got that once more.
    pub(super) excused: bool,
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
            broken: None,
            clean_close: false,
            traffic,
        }
    }

    /// What the socket that `direction` reads from is known as to the poller.
    pub(super) const fn key(&self, direction: Direction) -> Key {
        Key { tunnel: self.id, generation: self.generation, direction }
    }

    /// Bytes moved so far, both ways.
    pub(super) fn moved(&self) -> u64 {
        Direction::BOTH.map(|direction| self.pump.flow.moved(direction)).into_iter().sum()
    }

    /// Bytes of a direction that its destination has acknowledged, or so many more than ever the same number.
    pub(super) fn acknowledged(&self, direction: Direction) -> u64 {
        if self.pump.redirects(direction) {
            // What the kernel was given is more than what a send buffer has.
            let destination = tcp::progress(&self.pump.leg(direction.opposite()).socket);
            return destination.map_or(0, |destination| destination.acknowledged);
        }
        acknowledged(&self.pump.flow, direction, &self.pump.leg(direction.opposite()).socket)
    }

    /// It may go to another worker: neither broken nor at its end, which are a matter of moments, nor redirected, which
    /// costs its worker next to nothing.
    pub(super) fn may_move(&self) -> bool {
        self.broken.is_none() && !self.pump.is_finished() && !self.pump.is_redirected()
    }

    /// Resets both sides, unless the tunnel ended well.
    pub(super) fn reset_unless_clean(&self) {
        if !self.clean_close {
            for direction in Direction::BOTH {
                let _ = tcp::reset(&self.pump.leg(direction).socket);
            }
        }
    }
}
