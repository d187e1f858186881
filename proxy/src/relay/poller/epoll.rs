//! Readiness from epoll(7). Edge-triggered, so that the only system calls for a tunnel are those
//! that move its bytes.

use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::poll_source::{Event, Key, Mask, Poller, WAKE};
use crate::relay::engine::Engine;

/// Events per system call.
const EVENTS: usize = 256;

/// An epoll instance.
pub(in crate::relay) struct Epoll {
    epoll: OwnedFd,
    taken: Vec<epoll::Event>,
}

impl Poller for Epoll {
    const ENGINE: Engine = Engine::Splice;

    fn new(wake: &OwnedFd) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Each write is an edge, so that the eventfd need not be read.
        epoll::add(&epoll, wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN | epoll::EventFlags::ET)?;
        Ok(Self { epoll, taken: Vec::with_capacity(EVENTS) })
    }

    fn watch(&mut self, socket: &TcpStream, key: Key) -> io::Result<()> {
        let interest = epoll::EventFlags::from_bits_retain(Mask::INTEREST) | epoll::EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(key.pack()), interest)?)
    }

    fn watch_end(&mut self, socket: &TcpStream, key: Key) -> io::Result<()> {
        let interest = epoll::EventFlags::from_bits_retain(Mask::END) | epoll::EventFlags::ET;
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(key.pack()), interest)?)
    }

    fn unwatch(&mut self, socket: &TcpStream, _: Key) {
        // It fails only if the socket is not there.
        let _ = epoll::delete(&self.epoll, socket);
    }

    /// Closing the last descriptor of a file removes it from every instance (epoll(7)).
    fn release(&mut self, _: &TcpStream, _: Key) {}

    fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        self.taken.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.taken), limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let of_sockets = self.taken.iter().filter(|event| event.data.u64() != WAKE);
        events.extend(of_sockets.map(|event| {
            let flags = event.flags;
            Event { key: Key::unpack(event.data.u64()), mask: Mask(flags.bits()) }
        }));
        Ok(())
    }

    fn poll_now(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.wait(Some(Duration::ZERO), events)
    }
}
