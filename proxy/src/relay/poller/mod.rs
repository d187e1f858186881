//! Where a worker learns what its sockets are ready for: all that the engines `uring` and `splice` differ
//! in.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::Engine;
use crate::tunnel::Direction;

mod epoll;
mod uring;

pub(super) use epoll::Epoll;
pub(super) use uring::Uring;

/// A source of readiness, on the thread of one worker.
pub(super) trait Poller: Sized {
    /// The engine whose workers wait by this.
    const ENGINE: Engine;

    /// Makes one for the calling thread, that a write to the eventfd `wake` ends the waiting of.
    fn new(wake: &OwnedFd) -> io::Result<Self>;

    /// Has everything reported under `key` that the socket is ready for by now, and then each time that
    /// it becomes ready again.
    fn watch(&mut self, socket: &TcpStream, key: Key) -> io::Result<()>;

    /// Has only its end and its failure reported from now on: to be woken by every segment costs a third of the speed.
    fn watch_end(&mut self, socket: &TcpStream, key: Key) -> io::Result<()>;

    /// Ends that. A report that is under way may still come.
    fn unwatch(&mut self, socket: &TcpStream, key: Key);

    /// Ends it for a socket that is closed next, after [`Poller::settle`].
    fn release(&mut self, socket: &TcpStream, key: Key) {
        self.unwatch(socket, key);
    }

    /// Lets the kernel forget the sockets that were released: closing them is the end of them then.
    fn settle(&mut self) {}

    /// Watches the eventfd anew, where its reports may have been lost; those of sockets are watched by their keys.
    fn watch_wake_anew(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Waits until there is something to report, or for as long as `limit` says, and appends it.
    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Appends what there is to report already, as cheaply as can be: it is called again and again.
    fn poll_now(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
}

/// What a report is about: one socket of one tunnel, for as long as one worker has that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The tunnel's number, from 1.
    pub(super) tunnel: u64,
    /// Counts the workers that the tunnel has been with, so that a late report of an earlier one is not
    /// taken for a new one.
    pub(super) generation: u8,
    /// The direction that the socket is the source of.
    pub(super) direction: Direction,
}

impl Key {
    const fn pack(self) -> u64 {
        self.tunnel << 9 | (self.generation as u64) << 1 | self.direction.index() as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "the byte that is wanted")]
    const fn unpack(packed: u64) -> Self {
        let direction = Direction::BOTH[(packed & 1) as usize];
        Self { tunnel: packed >> 9, generation: (packed >> 1) as u8, direction }
    }
}

/// The packed key of the eventfd: no tunnel has the number 0.
const WAKE: u64 = 0;

/// What is reported of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) key: Key,
    pub(super) mask: Mask,
}

/// What a socket is ready for, in the bits of poll(2), which are those of epoll(7).
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask(u32);

impl Mask {
    const IN: u32 = 0x001;
    const PRI: u32 = 0x002;
    const OUT: u32 = 0x004;
    const ERR: u32 = 0x008;
    const HUP: u32 = 0x010;
    const RDHUP: u32 = 0x2000;
    /// The socket cannot be watched; no bit of the kernel's.
    const LOST: u32 = 1 << 31;
    /// The watching is over; likewise.
    const OVER: u32 = 1 << 30;

    /// What is wanted to know of every socket.
    const INTEREST: u32 = Self::IN | Self::PRI | Self::OUT | Self::RDHUP;

    /// What is wanted to know of one that the kernel redirects from; of failures it always tells.
    const END: u32 = Self::RDHUP;

    const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// Reading gives something: bytes, the end, or the error.
    pub(super) const fn readable(self) -> bool {
        self.has(Self::IN | Self::PRI) || self.read_closed()
    }

    /// Writing takes something, or tells the error.
    pub(super) const fn writable(self) -> bool {
        self.has(Self::OUT | Self::ERR)
    }

    /// The peer has sent FIN or a reset.
    pub(super) const fn read_closed(self) -> bool {
        self.has(Self::RDHUP | Self::HUP | Self::ERR)
    }

    /// Urgent data is in the stream, perhaps: io_uring says so with every byte.
    pub(super) const fn urgent(self) -> bool {
        self.has(Self::PRI)
    }

    /// The socket has an error.
    pub(super) const fn broken(self) -> bool {
        self.has(Self::ERR)
    }

    /// The kernel cannot watch the socket.
    pub(super) const fn lost(self) -> bool {
        self.has(Self::LOST)
    }

    /// The kernel watches the socket no longer: it has to be asked again.
    pub(super) const fn over(self) -> bool {
        self.has(Self::OVER)
    }
}

#[cfg(test)]
pub(super) mod tampered;
#[cfg(test)]
mod tests;
