//! The two sockets of an offloaded direction, and where their streams were when the kernel took
//! over.

use std::io;
use std::net::TcpStream;

use crate::relay::fault::Fault;
use crate::sys::tcp;
use crate::tunnel::Direction;

/// Slot of a direction in the pair of slots that begins with `first`: the slot of its source.
pub(super) const fn slot_of(first: u32, direction: Direction) -> u32 {
    match direction {
        Direction::ToOrigin => first,
        Direction::ToClient => first + 1,
    }
}

/// Source and destination of a direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketPair<'a> {
    pub(super) direction: Direction,
    pub(super) slot: u32,
    pub(super) source: &'a TcpStream,
    pub(super) destination: &'a TcpStream,
}

impl<'a> SocketPair<'a> {
    /// `sockets`: those of the tunnel, client first.
    pub(super) const fn new(direction: Direction, first: u32, sockets: [&'a TcpStream; 2]) -> Self {
        let (source, destination) = (sockets[direction.index()], sockets[direction.opposite().index()]);
        Self { direction, slot: slot_of(first, direction), source, destination }
    }

    /// Slot of the opposite direction. The two slots of a tunnel differ in the lowest bit.
    pub(super) const fn opposite_slot(&self) -> u32 {
        self.slot ^ 1
    }

    pub(super) fn fault_of_source(&self, error: impl Into<io::Error>) -> Fault {
        Fault::of_source(self.direction, error.into())
    }

    pub(super) fn fault_of_destination(&self, error: impl Into<io::Error>) -> Fault {
        Fault::of_destination(self.direction, error.into())
    }
}

/// Positions in both streams when the kernel took the direction over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamPositions {
    /// [`tcp::acknowledged_in_the_end`] of the destination.
    pub(super) acknowledged: u64,
    /// [`tcp::read_so_far`] of the source.
    received: u64,
}

impl StreamPositions {
    pub(super) fn now(pair: &SocketPair<'_>) -> io::Result<Self> {
        Ok(Self {
            acknowledged: tcp::acknowledged_in_the_end(pair.destination)?,
            received: tcp::read_so_far(pair.source)?,
        })
    }

    /// Bytes of those given to the destination since that it has not acknowledged. Bytes under way
    /// then may not be acknowledged yet, so that the difference may be negative.
    pub(super) const fn unacknowledged(&self, given: u64, acknowledged: u64) -> u64 {
        given.wrapping_sub(acknowledged.wrapping_sub(self.acknowledged))
    }

    /// Sequence numbers that the source has received since, its FIN included.
    pub(super) const fn received_since(&self, received: u64) -> u64 {
        received.wrapping_sub(self.received)
    }

    /// Tests whether all bytes given to the destination since are in its send buffer, or
    /// acknowledged. False if that cannot be read now.
    pub(super) fn has_all(&self, destination: &TcpStream, given: u64) -> bool {
        let written = tcp::acknowledged_in_the_end(destination);
        written.is_ok_and(|written| written.wrapping_sub(self.acknowledged) >= given)
    }
}
