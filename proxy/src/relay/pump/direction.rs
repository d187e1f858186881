//! One direction of the pump: out of the source, through a pipe, into the destination.

use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::time::Instant;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::super::pipes::Pipes;
use super::super::{Fault, QUANTUM, discard};
use super::{Half, Leg, Step};
use crate::sys::tcp;
use crate::tunnel::{Direction, Flow};

/// Bytes after which a step ends. A pipe full of the largest segments holds a little less than
/// [`QUANTUM`], and moving the small rest costs two more system calls and one more small segment.
const ENOUGH: usize = QUANTUM / 2;

/// One direction of a tunnel during one step.
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

    /// Sends the bytes in the prefix and the pipe, as far as the destination accepts them.
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

    /// Moves bytes from the source into a pipe. `None`: the source is empty, or the destination has
    /// no room.
    ///
    /// Called with an empty pipe only: `WouldBlock` then means an empty source, never a full pipe.
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
        // Fewer bytes than the pipe has slots cannot have filled the pipe, so the socket is empty.
        // Exception: once the peer has closed, the end of the stream may follow, and no further
        // event reports it.
        if self.half.held < slots.min(most) && !self.source.read_closed {
            self.source.readable = false;
        }
        self.look_for_urgent();
        Ok(if self.half.held > 0 || self.half.ended || self.source.readable { Some(0) } else { None })
    }

    /// Marks the source readable again if urgent data is next: the socket only seemed to be empty.
    fn look_for_urgent(&mut self) {
        if !self.source.readable
            && std::mem::take(&mut self.source.maybe_urgent)
            && tcp::is_at_mark(&self.source.socket)
        {
            self.source.urgent = true;
            self.source.readable = true;
        }
    }

    /// Moves bytes without a pipe: peeks at the source, sends the bytes, then discards from the
    /// source as many bytes as the destination accepted. The bytes are always in a socket as well,
    /// never in this process alone.
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

    /// Records the result of a read from the source. Returns the bytes read; 0 at the end of the
    /// stream or after an interrupt; `None` if the source is empty.
    fn note_read(&mut self, result: io::Result<usize>) -> Result<Option<usize>, Fault> {
        match result {
            Ok(0) => self.half.ended = true,
            Ok(bytes) => return Ok(Some(bytes)),
            // A peer given up for its silence sends nothing more.
            Err(error) if error.kind() == ErrorKind::WouldBlock && self.source.broken => self.half.ended = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.source.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // An error from a source known to be broken marks the end of its received bytes.
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

    /// Returns the pipe to the pool unless it holds bytes.
    pub(super) fn return_pipe(&mut self, pipes: &mut Pipes) {
        if self.half.held == 0
            && let Some(pipe) = self.half.pipe.take()
        {
            pipes.give_back(pipe);
        }
    }
}

impl Leg {
    /// Checks for bytes after splice(2) has reported the end of the stream: splice(2) reports the
    /// end too early if urgent data is next and a FIN follows it (`net/ipv4/tcp.c`,
    /// `tcp_splice_read`).
    fn has_more(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(&self.socket, &mut [0; 1], flags).is_ok_and(|(bytes, _)| bytes > 0)
    }

    /// Records the result of a write to this end. Returns the bytes accepted, 0 if there is no room
    /// now.
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
