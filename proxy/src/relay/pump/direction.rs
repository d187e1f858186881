//! One direction at work: out of the source, through a pipe, into the destination.

use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::time::Instant;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::super::pipes::Pipes;
use super::super::{Fault, QUANTUM, discard};
use super::{Half, Leg, Step};
use crate::sys::tcp;
use crate::tunnel::{Direction, Flow};

/// A turn ends when it has moved this: a pipe full of what came in the largest segments is a little less
/// than [`QUANTUM`], and to move the little that is left costs two system calls and a small segment more.
const ENOUGH: usize = QUANTUM / 2;

/// One direction at work.
pub(super) struct DirectionPump<'a> {
    pub(super) direction: Direction,
    pub(super) source: &'a mut Leg,
    pub(super) destination: &'a mut Leg,
    pub(super) half: &'a mut Half,
    pub(super) flow: &'a Flow,
    pub(super) now: Instant,
}

impl DirectionPump<'_> {
    pub(super) fn run(&mut self, pipes: &mut Pipes, scratch: &mut [u8]) -> Step {
        let mut moved = 0;
        loop {
            match self.push() {
                Ok(bytes) => moved += bytes,
                Err(error) => return Step::Failed(Fault::of_destination(self.direction, error)),
            }
            if self.half.held > 0 || !self.half.prefix.is_empty() {
                return Step::Blocked;
            }
            if self.half.ended {
                return self.pass_end();
            }
            if !self.source.readable || self.half.sealed {
                return Step::Blocked;
            }
            if moved >= ENOUGH {
                return Step::Yielded;
            }
            match self.pull(pipes, scratch, QUANTUM - moved) {
                Ok(Some(bytes)) => moved += bytes,
                Ok(None) => return Step::Blocked,
                Err(fault) => return Step::Failed(fault),
            }
        }
    }

    /// Sends what is on the way, as far as the destination takes it.
    fn push(&mut self) -> io::Result<usize> {
        let mut pushed = 0;
        while self.destination.writable && !self.half.prefix.is_empty() {
            let sent = (&*self.destination.socket).write(&self.half.prefix);
            let sent = self.destination.note_write(sent)?;
            self.half.prefix.drain(..sent);
            pushed += sent;
            if self.half.prefix.is_empty() {
                self.half.prefix = Vec::new(); // gives the memory back too
            }
        }
        while self.destination.writable && self.half.held > 0 {
            let Some(pipe) = &self.half.pipe else { break };
            let sent = pipe.drain(&self.destination.socket, self.half.held);
            let sent = self.destination.note_write(sent)?;
            self.half.held -= sent;
            pushed += sent;
        }
        if pushed > 0 {
            self.flow.add(self.direction, pushed as u64, self.now);
        }
        Ok(pushed)
    }

    /// Takes what the source has received into a pipe. `None`: nothing there, or no room.
    ///
    /// It is called with an empty pipe alone, so that `WouldBlock` cannot mean a full one.
    fn pull(&mut self, pipes: &mut Pipes, scratch: &mut [u8], most: usize) -> Result<Option<usize>, Fault> {
        if self.source.urgent {
            let passed = self.pass_without_pipe(scratch);
            self.source.urgent = self.source.readable;
            return passed;
        }
        let Some(pipe) = self.half.pipe.take().or_else(|| pipes.borrow()) else {
            if !std::mem::replace(&mut self.half.no_pipe, true) {
                pipes.count_shortage();
            }
            return self.pass_without_pipe(scratch);
        };
        self.half.no_pipe = false;
        let filled = pipe.fill(&self.source.socket, most);
        let slots = pipe.capacity() / rustix::param::page_size();
        self.half.pipe = Some(pipe);
        if matches!(filled, Ok(0)) && self.source.has_more() {
            self.source.urgent = true;
            return Ok(Some(0));
        }
        self.half.held = self.note_read(filled)?.unwrap_or(0);
        // Fewer bytes than the pipe has slots cannot have filled it, so the socket is empty; unless
        // its end is near, which comes in the same event as the last bytes.
        if self.half.held < slots.min(most) && !self.source.read_closed {
            self.source.readable = false;
        }
        self.look_for_urgent();
        Ok(if self.half.held > 0 || self.half.ended || self.source.readable { Some(0) } else { None })
    }

    /// Where the source seems to be empty but urgent data is next, it is not.
    fn look_for_urgent(&mut self) {
        if !self.source.readable
            && std::mem::take(&mut self.source.maybe_urgent)
            && tcp::is_at_mark(&self.source.socket)
        {
            self.source.urgent = true;
            self.source.readable = true;
        }
    }

    /// Without a pipe: look at what the source holds, send that, then take away from the source what
    /// the destination took. At no moment are the bytes in this process alone.
    fn pass_without_pipe(&mut self, scratch: &mut [u8]) -> Result<Option<usize>, Fault> {
        if !self.destination.writable {
            return Ok(None);
        }
        let seen = recv(&self.source.socket, &mut *scratch, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        let Some(seen) = self.note_read(seen.map(|(bytes, _)| bytes).map_err(Into::into))? else { return Ok(None) };
        if seen == 0 {
            return Ok(Some(0));
        }
        let sent = send(&self.destination.socket, &scratch[..seen], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let sent = self.destination.note_write(sent.map_err(Into::into));
        let sent = sent.map_err(|error| Fault::of_destination(self.direction, error))?;
        discard(&self.source.socket, &mut scratch[..sent]).map_err(|error| Fault::of_source(self.direction, error))?;
        if sent > 0 {
            self.flow.add(self.direction, sent as u64, self.now);
        }
        Ok(Some(sent))
    }

    /// What a read said of the source: bytes, or `None` when there are none now or no more at all.
    fn note_read(&mut self, result: io::Result<usize>) -> Result<Option<usize>, Fault> {
        match result {
            Ok(0) => self.half.ended = true,
            Ok(bytes) => return Ok(Some(bytes)),
            // A peer that was given up for its silence sends nothing more.
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.source.broken => self.half.ended = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.source.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The error of a source known to be broken is the end of what it had received.
            Err(_) if self.source.broken => self.half.ended = true,
            Err(error) => return Err(Fault::of_source(self.direction, error)),
        }
        Ok(if self.half.ended || self.source.readable { Some(0) } else { None })
    }

    fn pass_end(&mut self) -> Step {
        if !self.source.broken
            && let Err(error) = self.destination.socket.shutdown(Shutdown::Write)
        {
            return Step::Failed(Fault::of_destination(self.direction, error));
        }
        self.half.finished = true;
        Step::Finished
    }

    /// Gives the pipe back unless bytes are in it.
    pub(super) fn return_pipe(&mut self, pipes: &mut Pipes) {
        if self.half.held == 0
            && let Some(pipe) = self.half.pipe.take()
        {
            pipes.give_back(pipe);
        }
    }
}

impl Leg {
    /// There are bytes to read although splice(2) said that the end was reached: it says so too where
    /// urgent data stands next and the end has come behind it (`net/ipv4/tcp.c`, `tcp_splice_read`).
    fn has_more(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(&self.socket, &mut [0; 1], flags).is_ok_and(|(bytes, _)| bytes > 0)
    }

    /// What a write said of this end: bytes taken, 0 when there is no room now.
    fn note_write(&mut self, result: io::Result<usize>) -> io::Result<usize> {
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
