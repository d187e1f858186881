//! One socket of a tunnel, and the readiness that the kernel reported for it.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::Arc;

use crate::relay::peek::peek;
use crate::relay::poller::Mask;

/// Readiness of a socket, as reported by a poller.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::relay) struct Readiness {
    pub(in crate::relay) readable: bool,
    pub(in crate::relay) writable: bool,
    pub(in crate::relay) read_closed: bool,
    /// See [`Leg::maybe_urgent`].
    pub(in crate::relay) urgent: bool,
}

impl From<Mask> for Readiness {
    fn from(mask: Mask) -> Self {
        Self {
            readable: mask.readable(),
            writable: mask.writable(),
            read_closed: mask.read_closed(),
            urgent: mask.urgent(),
        }
    }
}

/// One leg of a tunnel: a socket and its readiness.
#[derive(Debug)]
pub(in crate::relay) struct Leg {
    pub(in crate::relay) socket: Arc<TcpStream>,
    /// A read may succeed: false until the kernel says so, and after a read that found nothing.
    pub(super) readable: bool,
    /// A write may succeed; false likewise.
    pub(super) writable: bool,
    /// The peer has sent FIN or a reset: the end is still to be read, even after a short read.
    pub(super) read_closed: bool,
    /// Urgent data may be in the stream. io_uring reports this with every byte, since it reports
    /// all that the waker woke for (`io_uring/poll.c`, `io_poll_wake`; `net/core/sock.c`,
    /// `sock_def_readable`).
    pub(super) maybe_urgent: bool,
    /// Urgent data is next in the stream. splice(2) stops before it (`net/ipv4/tcp.c`,
    /// `tcp_read_sock`), so it is passed without a pipe.
    pub(super) urgent: bool,
    /// The connection broke; bytes received before may still be there to read.
    pub(super) broken: bool,
}

impl Leg {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket: Arc::new(socket),
            readable: false,
            writable: false,
            read_closed: false,
            maybe_urgent: false,
            urgent: false,
            broken: false,
        }
    }

    /// Records what the kernel reported.
    pub(super) fn set_ready(&mut self, reported: Readiness) {
        self.readable |= reported.readable;
        self.writable |= reported.writable;
        self.read_closed |= reported.read_closed;
        self.maybe_urgent |= reported.urgent;
    }

    /// Tests whether there are bytes to read after splice(2) reported the end. It does so too if
    /// urgent data is next and the end has come behind it (`net/ipv4/tcp.c`, `tcp_splice_read`).
    pub(super) fn has_more(&self) -> bool {
        peek(&self.socket, &mut [0; 1]).is_ok_and(|bytes| bytes > 0)
    }

    /// Records the result of a write: bytes written, 0 if there is no room now.
    pub(super) fn wrote(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.writable = false;
                Ok(0)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(0),
            other => other,
        }
    }
}
