//! Offloading a tunnel from the pump to the kernel.

use super::half::{Half, Life};
use super::leg::Leg;
use crate::relay::offload::Offload;
use crate::sys::tcp;
use crate::tunnel::Direction;

/// Progress of offloading a tunnel to the kernel.
#[derive(Debug, Default)]
pub(super) enum OffloadState {
    /// Not begun.
    #[default]
    Undecided,
    /// Sources found empty, by [`Direction::index`], are paused until everything read from them is
    /// sent.
    ///
    /// Bytes that arrive meanwhile stay whole segments; the kernel would forward a partly
    /// read segment as a whole, duplicating bytes.
    Emptying([bool; 2]),
    /// Not begun because the tunnel has a rate limit.
    ///
    /// Its sender is usually faster than the limit. Offloaded, the tunnel would exceed its backlog
    /// all the time, and userspace would copy its bytes at twice the CPU cost of splice(2).
    HeldByRate,
    /// The kernel owns at least one direction.
    Offloaded(Box<dyn Offload>),
    /// The kernel refused, and is not asked again.
    Declined,
}

/// Result of one attempt to offload a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) enum Attempt {
    /// No change: bytes are under way, or there is nothing to attempt.
    NotNow,
    /// No offload for now; the pump has to read again from sources that it had stopped reading.
    Resumed,
    /// The kernel refused the tunnel; the pump keeps both directions for good.
    Declined,
    /// The kernel owns one direction; the pump keeps the other for good.
    Partial,
    /// The kernel owns both directions: of their sockets only the ends are of interest now.
    Complete,
}

/// Progress of [`OffloadState::empty`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EmptyProgress {
    /// Nothing is under way, and both sources are paused.
    Done,
    /// Not yet.
    Waiting,
    /// Given up for now, since a destination takes nothing: the other direction must not wait for
    /// it.
    Stuck {
        /// A source was paused, and has to be read again.
        was_paused: bool,
    },
}

impl OffloadState {
    /// The kernel's side of the tunnel, if it owns a direction.
    pub(super) fn offload(&self) -> Option<&dyn Offload> {
        match self {
            Self::Offloaded(offload) => Some(&**offload),
            _ => None,
        }
    }

    /// Tests whether the source of a direction is paused.
    pub(super) const fn pauses(&self, direction: Direction) -> bool {
        match self {
            Self::Emptying(paused) => paused[direction.index()],
            _ => false,
        }
    }

    /// Tests whether any source is paused.
    pub(super) fn pauses_any(&self) -> bool {
        Direction::BOTH.into_iter().any(|direction| self.pauses(direction))
    }

    /// Pauses each source that has nothing to read, and returns whether nothing is under way.
    pub(super) fn empty(&mut self, legs: &[Leg; 2], halves: &[Half; 2]) -> EmptyProgress {
        let is_stuck = |half: &Half, destination: &Leg| half.is_under_way() && !destination.writable;
        if is_stuck(&halves[0], &legs[1]) || is_stuck(&halves[1], &legs[0]) {
            let was_paused = self.pauses_any();
            *self = Self::Undecided;
            return EmptyProgress::Stuck { was_paused };
        }
        let paused = Direction::BOTH.map(|direction| {
            let leg = &legs[direction.index()];
            let is_empty = || tcp::unread(&leg.socket).is_ok_and(|bytes| bytes == 0);
            !leg.urgent && (self.pauses(direction) || is_empty())
        });
        *self = Self::Emptying(paused);
        let is_done = paused == [true, true] && !halves.iter().any(Half::is_under_way);
        if is_done { EmptyProgress::Done } else { EmptyProgress::Waiting }
    }
}

/// Tests whether a direction has come to its end, or a connection broke: the kernel does not take
/// such a tunnel.
pub(super) fn is_ending(legs: &[Leg; 2], halves: &[Half; 2]) -> bool {
    legs.iter().any(|leg| leg.read_closed || leg.broken) || halves.iter().any(|half| half.life != Life::Open)
}
