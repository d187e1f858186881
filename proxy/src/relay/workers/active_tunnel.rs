//! A tunnel carried by a worker.

use std::time::Instant;

use tokio::sync::oneshot;

use super::traffic_class::TrafficMeter;
use crate::reason::Reason;
use crate::relay::acknowledged;
use crate::relay::poller::Key;
use crate::relay::pump::Pump;
use crate::sys::tcp;
use crate::tunnel::Direction;

/// A tunnel carried by one worker, which may hand it to another.
#[derive(Debug)]
pub(super) struct ActiveTunnel {
    pub(super) id: u64,
    /// Number of the bulk worker this tunnel goes to when it becomes bulk.
    pub(super) preferred_worker: usize,
    /// See [`Key::generation`].
    pub(super) generation: u8,
    pub(super) pump: Pump,
    /// Taken when the tunnel ends.
    pub(super) end: Option<oneshot::Sender<Reason>>,
    /// The tunnel is in the worker's queue.
    pub(super) queued: bool,
    /// The tunnel has an entry in the timer queue.
    pub(super) has_timer: bool,
    /// The tunnel broke: state of its last bytes.
    pub(super) broken: Option<Broken>,
    /// Both directions ended cleanly, so closing the sockets is a clean end. Otherwise closing them
    /// is a reset ([`tcp::reset_on_close`]), even if this thread dies.
    pub(super) clean_close: bool,
    pub(super) traffic: TrafficMeter,
}

/// Remaining work of a tunnel after a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    /// The direction whose source failed.
    pub(super) last: Direction,
    pub(super) why: Reason,
    /// Deadline for the last bytes, extended while more of them arrive.
    pub(super) until: Instant,
    /// Bytes of `last` acknowledged by the sound side so far.
    pub(super) acknowledged: u64,
    /// The deadline was noticed late and has been extended once for it.
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

    /// Poller key of the socket read by `direction`.
    pub(super) const fn key(&self, direction: Direction) -> Key {
        Key { tunnel: self.id, generation: self.generation, direction }
    }

    /// Bytes moved so far, both directions together.
    pub(super) fn moved(&self) -> u64 {
        Direction::BOTH.map(|direction| self.pump.flow.moved(direction)).into_iter().sum()
    }

    /// Acknowledged bytes of a direction, up to a constant offset.
    pub(super) fn acknowledged(&self, direction: Direction) -> u64 {
        if self.pump.redirects(direction) {
            // The kernel was given more bytes than the send buffer holds, so the send buffer cannot
            // tell.
            let destination = tcp::progress(&self.pump.leg(direction.opposite()).socket);
            return destination.map_or(0, |destination| destination.acknowledged);
        }
        acknowledged(&self.pump.flow, direction, &self.pump.leg(direction.opposite()).socket)
    }

    /// Tests if the tunnel may go to another worker. A broken or finished tunnel is gone in a
    /// moment, and a redirected one costs its worker next to nothing.
    pub(super) fn may_move(&self) -> bool {
        self.broken.is_none() && !self.pump.is_finished() && !self.pump.is_redirected()
    }

    /// Resets both sides, unless the tunnel ended cleanly.
    pub(super) fn reset_unless_clean(&self) {
        if !self.clean_close {
            for direction in Direction::BOTH {
                let _ = tcp::reset(&self.pump.leg(direction).socket);
            }
        }
    }
}
