//! Readiness of sockets: the interface of its two sources, and their reports.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::relay::engine::Engine;
use crate::tunnel::Direction;

/// A source of readiness, on the thread of one worker.
pub(in crate::relay) trait Poller: Sized {
    /// Engine whose workers use this poller.
    const ENGINE: Engine;

    /// Makes a poller for the calling thread. A write to the eventfd `wake` ends its waiting.
    fn new(wake: &OwnedFd) -> io::Result<Self>;

    /// Reports under `key` the readiness that the socket has now, and then each time that it
    /// becomes ready again.
    fn watch(&mut self, socket: &TcpStream, key: Key) -> io::Result<()>;

    /// Reports only the end and the failure of a socket from now on: a wake-up for every segment
    /// costs a third of the speed.
    fn watch_end(&mut self, socket: &TcpStream, key: Key) -> io::Result<()>;

    /// Ends the reports. One that is under way may still come.
    fn unwatch(&mut self, socket: &TcpStream, key: Key);

    /// Ends the reports of a socket that is closed next, after [`Poller::settle`].
    fn release(&mut self, socket: &TcpStream, key: Key) {
        self.unwatch(socket, key);
    }

    /// Makes the kernel drop its references to released sockets, so that closing them closes the
    /// connection.
    fn settle(&mut self) {}

    /// Registers the eventfd again after its reports may have been lost.
    fn rewatch_wake(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Waits until there is something to report, at most for `limit`, and appends it.
    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// Appends what there is to report already. It is called in a busy loop, so it has to be cheap.
    fn poll_now(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
}

/// Subject of a report: one socket of one tunnel, while one worker has the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) struct Key {
    /// Number of the tunnel, from 1.
    pub(in crate::relay) tunnel: u64,
    /// Number of migrations of the tunnel (modulo 256), so that a late report from before one is
    /// not taken for a new one.
    pub(in crate::relay) generation: u8,
    /// Direction that the socket is the source of.
    pub(in crate::relay) direction: Direction,
}

impl Key {
    pub(super) const fn pack(self) -> u64 {
        self.tunnel << 9 | (self.generation as u64) << 1 | self.direction.index() as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "one byte of the key")]
    pub(super) const fn unpack(packed: u64) -> Self {
        let direction = Direction::BOTH[(packed & 1) as usize];
        Self { tunnel: packed >> 9, generation: (packed >> 1) as u8, direction }
    }
}

/// Packed key of the eventfd: no tunnel has the number 0.
pub(super) const WAKE: u64 = 0;

/// A report about a socket.
#[derive(Clone, Copy, Debug)]
pub(in crate::relay) struct Event {
    pub(in crate::relay) key: Key,
    pub(in crate::relay) mask: Mask,
}

/// Readiness of a socket in the bits of poll(2), which are those of epoll(7).
#[derive(Clone, Copy, Debug)]
pub(in crate::relay) struct Mask(pub(super) u32);

impl Mask {
    pub(super) const IN: u32 = 0x001;
    const PRI: u32 = 0x002;
    const OUT: u32 = 0x004;
    const ERR: u32 = 0x008;
    const HUP: u32 = 0x010;
    const RDHUP: u32 = 0x2000;
    /// The socket cannot be watched; not a bit of the kernel.
    pub(super) const LOST: u32 = 1 << 31;
    /// The watch has ended; not a bit of the kernel either.
    pub(super) const OVER: u32 = 1 << 30;

    /// Bits that are reported of every socket.
    pub(super) const INTEREST: u32 = Self::IN | Self::PRI | Self::OUT | Self::RDHUP;

    /// Bits that are reported of an offloaded socket; failures always are.
    pub(super) const END: u32 = Self::RDHUP;

    const fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    /// A read returns bytes, the end, or the error.
    pub(in crate::relay) const fn readable(self) -> bool {
        self.has(Self::IN | Self::PRI) || self.read_closed()
    }

    /// A write takes bytes, or returns the error.
    pub(in crate::relay) const fn writable(self) -> bool {
        self.has(Self::OUT | Self::ERR)
    }

    /// The peer has sent FIN or a reset.
    pub(in crate::relay) const fn read_closed(self) -> bool {
        self.has(Self::RDHUP | Self::HUP | Self::ERR)
    }

    /// Urgent data may be in the stream: io_uring reports it with every byte.
    pub(in crate::relay) const fn urgent(self) -> bool {
        self.has(Self::PRI)
    }

    /// The socket has an error.
    pub(in crate::relay) const fn broken(self) -> bool {
        self.has(Self::ERR)
    }

    /// The kernel cannot watch the socket.
    pub(in crate::relay) const fn lost(self) -> bool {
        self.has(Self::LOST)
    }

    /// The kernel has ended its watch on the socket, which has to be registered again.
    pub(in crate::relay) const fn over(self) -> bool {
        self.has(Self::OVER)
    }
}
