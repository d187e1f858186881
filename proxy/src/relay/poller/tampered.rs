//! A poller whose reports a test changes.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::poll_source::{Event, Key, Poller};
use crate::relay::engine::Engine;

/// A change to the reports of one worker.
pub(in crate::relay) trait Tamper: Default {
    /// Gets each list of reports before the worker does; an error is one of the wait.
    fn tamper(&mut self, events: &mut Vec<Event>) -> io::Result<()>;
}

/// A poller passing its events through a [`Tamper`].
pub(in crate::relay) struct Tampered<P, T> {
    sound: P,
    tamper: T,
}

impl<P: Poller, T: Tamper> Poller for Tampered<P, T> {
    const ENGINE: Engine = P::ENGINE;

    fn new(wake: &OwnedFd) -> io::Result<Self> {
        Ok(Self { sound: P::new(wake)?, tamper: T::default() })
    }

    fn watch(&mut self, socket: &TcpStream, key: Key) -> io::Result<()> {
        self.sound.watch(socket, key)
    }

    fn watch_end(&mut self, socket: &TcpStream, key: Key) -> io::Result<()> {
        self.sound.watch_end(socket, key)
    }

    fn unwatch(&mut self, socket: &TcpStream, key: Key) {
        self.sound.unwatch(socket, key);
    }

    fn settle(&mut self) {
        self.sound.settle();
    }

    fn rewatch_wake(&mut self) -> io::Result<()> {
        self.sound.rewatch_wake()
    }

    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        self.sound.wait(limit, events)?;
        self.tamper.tamper(events)
    }

    fn poll_now(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.sound.poll_now(events)?;
        self.tamper.tamper(events)
    }
}
