//! One turn of one direction: out of the source, through a pipe, into the destination.

use std::io::{self, ErrorKind, Write};
use std::net::Shutdown;
use std::time::Instant;

use rustix::net::{SendFlags, send};

use super::half::{Half, Life};
use super::leg::Leg;
use crate::relay::fault::Fault;
use crate::relay::peek::{discard, peek};
use crate::relay::pipes::Pipes;
use crate::relay::step::{QUANTUM, Step};
use crate::sys::tcp;
use crate::tunnel::{Direction, Flow};

/// Bytes after which a turn ends. A pipe filled by the largest segments holds a little less than
/// [`QUANTUM`], and moving the small rest would cost two more system calls and a small segment.
const TURN_BYTES: usize = QUANTUM / 2;

/// Result of a read from the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Bytes(usize),
    /// There is nothing to read now.
    WouldBlock,
    /// A signal came first; the read is repeated.
    Interrupted,
    /// The end of the stream.
    End,
}

/// Result of pulling bytes out of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pull {
    /// There may be bytes in the pipe or an end to pass on: push, then pull again.
    Again,
    /// Bytes sent to the destination without a pipe.
    SentWithoutPipe(usize),
    /// Nothing can be read, or the destination has no room.
    Blocked,
}

/// One direction during its turn.
pub(super) struct DirectionPump<'a> {
    pub(super) direction: Direction,
    pub(super) source: &'a mut Leg,
    pub(super) destination: &'a mut Leg,
    pub(super) half: &'a mut Half,
    /// The source is not read from, see [`super::offloading::OffloadState::Emptying`].
    pub(super) paused: bool,
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
            if self.half.is_under_way() {
                return Step::Blocked;
            }
            if self.half.life != Life::Open {
                return self.pass_end();
            }
            if !self.source.readable || self.paused {
                return Step::Blocked;
            }
            if moved >= TURN_BYTES {
                return Step::Yielded;
            }
            match self.pull(pipes, scratch, QUANTUM - moved) {
                Ok(Pull::Again) => {}
                Ok(Pull::SentWithoutPipe(bytes)) => moved += bytes,
                Ok(Pull::Blocked) => return Step::Blocked,
                Err(fault) => return Step::Failed(fault),
            }
        }
    }

    /// Sends bytes that were read before, as many as the destination takes.
    fn push(&mut self) -> io::Result<usize> {
        let mut pushed = 0;
        while self.destination.writable && !self.half.prefix.is_empty() {
            let sent = (&*self.destination.socket).write(&self.half.prefix);
            let sent = self.destination.wrote(sent)?;
            self.half.prefix.drain(..sent);
            pushed += sent;
            if self.half.prefix.is_empty() {
                self.half.prefix = Vec::new(); // frees its memory
            }
        }
        while self.destination.writable && self.half.held > 0 {
            let Some(pipe) = &self.half.pipe else { break };
            let sent = pipe.drain(&self.destination.socket, self.half.held);
            let sent = self.destination.wrote(sent)?;
            self.half.held -= sent;
            pushed += sent;
        }
        if pushed > 0 {
            self.flow.add(self.direction, pushed as u64, self.now);
        }
        Ok(pushed)
    }

    /// Reads at most `most` bytes into a pipe, or passes bytes on without one if splice(2) cannot
    /// read them or there is no pipe.
    fn pull(&mut self, pipes: &mut Pipes, scratch: &mut [u8], most: usize) -> Result<Pull, Fault> {
        if self.source.urgent {
            let passed = self.pass_without_pipe(scratch);
            self.source.urgent = self.source.readable;
            return passed;
        }
        if self.half.pipe.is_none() {
            self.half.pipe = pipes.borrow();
        }
        let had_no_pipe = std::mem::replace(&mut self.half.no_pipe, self.half.pipe.is_none());
        let Some(pipe) = &self.half.pipe else {
            if !had_no_pipe {
                pipes.count_shortage();
            }
            return self.pass_without_pipe(scratch);
        };
        // The pipe is empty, so that `WouldBlock` is about the source.
        let filled = pipe.fill(&self.source.socket, most);
        let slots = pipe.capacity() / rustix::param::page_size();
        if matches!(filled, Ok(0)) && self.source.has_more() {
            self.source.urgent = true;
            return Ok(Pull::Again);
        }
        let read = self.classify(filled)?;
        if let Read::Bytes(bytes) = read {
            self.half.held = bytes;
            // Fewer bytes than the pipe has slots cannot have filled it, so the socket is empty;
            // but the last bytes and the end come in one event.
            if bytes < slots.min(most) && !self.source.read_closed {
                self.source.readable = false;
            }
        }
        self.find_urgent();
        let is_blocked = read == Read::WouldBlock && !self.source.readable;
        Ok(if is_blocked { Pull::Blocked } else { Pull::Again })
    }

    /// Marks the source readable if urgent data is next, which splice(2) does not show.
    fn find_urgent(&mut self) {
        if !self.source.readable
            && std::mem::take(&mut self.source.maybe_urgent)
            && tcp::is_at_mark(&self.source.socket)
        {
            self.source.urgent = true;
            self.source.readable = true;
        }
    }

    /// Peeks at the source, sends that, and takes from the source what the destination took.
    fn pass_without_pipe(&mut self, scratch: &mut [u8]) -> Result<Pull, Fault> {
        if !self.destination.writable {
            return Ok(Pull::Blocked);
        }
        let peeked = peek(&self.source.socket, scratch);
        let bytes = match self.classify(peeked)? {
            Read::Bytes(bytes) => bytes,
            Read::WouldBlock => return Ok(Pull::Blocked),
            Read::Interrupted | Read::End => return Ok(Pull::Again),
        };
        let sent = send(&self.destination.socket, &scratch[..bytes], SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let sent = self.destination.wrote(sent.map_err(Into::into));
        let sent = sent.map_err(|error| Fault::of_destination(self.direction, error))?;
        discard(&self.source.socket, &mut scratch[..sent]).map_err(|error| Fault::of_source(self.direction, error))?;
        if sent > 0 {
            self.flow.add(self.direction, sent as u64, self.now);
        }
        Ok(Pull::SentWithoutPipe(sent))
    }

    /// Records the result of a read.
    ///
    /// # Errors
    /// A failure of the source that was not known before.
    fn classify(&mut self, result: io::Result<usize>) -> Result<Read, Fault> {
        let read = match result {
            Ok(0) => Read::End,
            Ok(bytes) => Read::Bytes(bytes),
            Err(error) if error.kind() == ErrorKind::Interrupted => Read::Interrupted,
            // Any error of a broken source is the end of what it had received, and a peer that was
            // given up for its silence sends nothing more.
            Err(_) if self.source.broken => Read::End,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Read::WouldBlock,
            Err(error) => return Err(Fault::of_source(self.direction, error)),
        };
        match read {
            Read::End => self.half.life = Life::EndRead,
            Read::WouldBlock => self.source.readable = false,
            Read::Bytes(_) | Read::Interrupted => {}
        }
        Ok(read)
    }

    fn pass_end(&mut self) -> Step {
        if !self.source.broken
            && let Err(error) = self.destination.socket.shutdown(Shutdown::Write)
        {
            return Step::Failed(Fault::of_destination(self.direction, error));
        }
        self.half.life = Life::Finished;
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
