//! Source of a worker's readiness events: the only difference between the engines `uring` and
//! `splice`.

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

/// A source of readiness events, on the thread of one worker.
pub(super) trait Poller: Sized {
    /// The engine using this poller.
    const ENGINE: Engine;

    /// Creates a poller for the calling thread; a write to the eventfd `wake` ends its wait.
    fn new(wake: &OwnedFd) -> io::Result<Self>;

    /// Registers a socket under `key`: reports its present readiness, and then each change to
    /// ready.
    fn watch(&mut self, socket: &TcpStream, key: Key) -> io::Result<()>;

    /// Watches only for the end and the failure of a socket from now on: a wake-up by every segment
    /// costs a third of the throughput.
    fn watch_end(&mut self, socket: &TcpStream, key: Key) -> io::Result<()>;

    /// Deregisters a socket. An event under way may still arrive.
    fn unwatch(&mut self, socket: &TcpStream, key: Key);

    /// Deregisters a socket about to be closed, after [`Poller::settle`].
    fn release(&mut self, socket: &TcpStream, key: Key) {
        self.unwatch(socket, key);
    }

    /// Makes the kernel drop its references to released sockets, so closing them really closes
    /// them.
    fn settle(&mut self) {}

    /// Registers the eventfd again after a possible loss of its events; sockets are registered
    /// again by their keys.
    fn watch_wake_anew(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Waits for events, at most for `limit`, and appends them.
    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Appends the pending events, as cheaply as possible: called in a loop while busy polling.
    fn poll_now(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
}

/// Subject of an event: one socket of one tunnel, for as long as one worker has the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The tunnel's id, from 1.
    pub(super) tunnel: u64,
    /// Counts the workers of the tunnel so far: a late event of an earlier worker is not mistaken
    /// for a new one.
    pub(super) generation: u8,
    /// The direction reading from the socket.
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

/// The packed key of the eventfd: no tunnel has the id 0.
const WAKE: u64 = 0;

/// An event of a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) key: Key,
    pub(super) mask: Mask,
}

/// Readiness of a socket, in the bits of poll(2), equal to those of epoll(7).
#[derive(Clone, Copy, Debug)]
pub(super) struct Mask(u32);

impl Mask {
    const IN: u32 = 0x001;
    const PRI: u32 = 0x002;
    const OUT: u32 = 0x004;
    const ERR: u32 = 0x008;
    const HUP: u32 = 0x010;
    const RDHUP: u32 = 0x2000;
    /// The socket cannot be watched; not a bit of the kernel's.
    const LOST: u32 = 1 << 31;
    /// The watch has ended; not a bit of the kernel's.
    const OVER: u32 = 1 << 30;

    /// Events watched on every socket.
    const INTEREST: u32 = Self::IN | Self::PRI | Self::OUT | Self::RDHUP;

    /// Events watched on the source of a redirected direction; failures are always reported.
    const END: u32 = Self::RDHUP;

    const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// A read returns something: bytes, the end, or the error.
    pub(super) const fn readable(self) -> bool {
        self.has(Self::IN | Self::PRI) || self.read_closed()
    }

    /// A write is accepted, or returns the error.
    pub(super) const fn writable(self) -> bool {
        self.has(Self::OUT | Self::ERR)
    }

    /// The peer has sent FIN or a reset.
    pub(super) const fn read_closed(self) -> bool {
        self.has(Self::RDHUP | Self::HUP | Self::ERR)
    }

    /// Urgent data may be in the stream: io_uring reports this with every byte.
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

    /// The kernel no longer watches the socket: it has to be registered again.
    pub(super) const fn over(self) -> bool {
        self.has(Self::OVER)
    }
}

#[cfg(test)]
pub(super) mod tampered;
#[cfg(test)]
mod tests;
