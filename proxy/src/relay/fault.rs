//! Failure of one socket of a tunnel, and the reason that it ends the tunnel with.

use std::io;

use crate::reason::Reason;
use crate::tunnel::Direction;

/// A socket that failed, and its error.
#[derive(Debug)]
pub(super) struct Fault {
    /// Direction that the socket is the source of.
    pub(super) source_of: Direction,
    pub(super) error: io::Error,
}

impl Fault {
    pub(super) const fn of_source(direction: Direction, error: io::Error) -> Self {
        Self { source_of: direction, error }
    }

    pub(super) const fn of_destination(direction: Direction, error: io::Error) -> Self {
        Self { source_of: direction.opposite(), error }
    }

    /// Reason that the tunnel ends with.
    pub(super) fn reason(&self) -> Reason {
        use Direction::{ToClient, ToOrigin};
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
            NotConnected, TimedOut,
        };
        // By the kind, not by errno: some errors come from TLS and not from a system call.
        match (self.source_of, self.error.kind()) {
            (ToOrigin, ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected) => Reason::ClientReset,
            (ToClient, ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected) => Reason::OriginReset,
            (ToOrigin, TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown) => Reason::ClientLost,
            (ToClient, TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown) => Reason::OriginLost,
            _ => Reason::EngineFailed,
        }
    }
}

/// Reason of a tunnel whose directions both ended by FIN; `first` ended before the other one.
pub(super) const fn clean_end(first: Option<Direction>) -> Reason {
    match first {
        Some(Direction::ToClient) => Reason::OriginClosed,
        Some(Direction::ToOrigin) | None => Reason::ClientClosed,
    }
}
