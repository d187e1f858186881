//! Readiness from io_uring: a multishot poll for each socket. One system call submits and waits,
//! and a look for completions takes none.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;

use super::poll_source::{Event, Key, Mask, Poller, WAKE};
use crate::relay::engine::Engine;
use crate::sys::ring::{Polled, Ring};

/// A ring, and the eventfd that wakes it.
#[derive(Debug)]
pub(in crate::relay) struct Uring {
    ring: Ring,
    wake: OwnedFd,
}

impl Poller for Uring {
    const ENGINE: Engine = Engine::Uring;

    fn new(wake: &OwnedFd) -> io::Result<Self> {
        let mut this = Self { ring: Ring::new()?, wake: wake.try_clone()? };
        this.watch_wake()?;
        this.ring.submit()?;
        Ok(this)
    }

    fn watch(&mut self, socket: &TcpStream, key: Key) -> io::Result<()> {
        self.ring.poll(socket, Mask::INTEREST, key.pack())
    }

    fn watch_end(&mut self, socket: &TcpStream, key: Key) -> io::Result<()> {
        self.ring.cancel(key.pack())?;
        self.ring.poll(socket, Mask::END, key.pack())
    }

    fn unwatch(&mut self, _: &TcpStream, key: Key) {
        // It fails only where memory is short; the poll then ends with the ring.
        let _ = self.ring.cancel(key.pack());
    }

    /// A poll holds its file: closing the descriptor does not close the socket before the poll
    /// ends.
    fn settle(&mut self) {
        let _ = self.ring.submit();
    }

    fn rewatch_wake(&mut self) -> io::Result<()> {
        self.ring.cancel(WAKE)?;
        self.watch_wake()
    }

    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        if limit.is_some_and(|limit| limit.is_zero()) {
            return self.poll_now(events);
        }
        self.ring.wait(limit)?;
        self.take(events)
    }

    fn poll_now(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        if self.ring.has_deferred() {
            self.ring.submit()?;
        }
        self.take(events)
    }
}

impl Uring {
    fn watch_wake(&mut self) -> io::Result<()> {
        // Each write is an edge, so that the eventfd need not be read.
        self.ring.poll(&self.wake, Mask::IN, WAKE)
    }

    fn take(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        while let Some(Polled { key, events: polled, more }) = self.ring.take() {
            if key == WAKE {
                if !more && polled != Err(Errno::CANCELED) {
                    self.watch_wake()?;
                }
                continue;
            }
            let mask = match polled {
                Ok(mask) if more => mask,
                // The kernel ends the poll by this completion if it lacks memory for further ones
                // (`io_uring/poll.c`, `io_poll_check_events`).
                Ok(mask) => mask | Mask::OVER,
                Err(Errno::CANCELED) => continue,
                Err(_) => Mask::LOST,
            };
            events.push(Event { key: Key::unpack(key), mask: Mask(mask) });
        }
        Ok(())
    }
}
