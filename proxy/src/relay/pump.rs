//! The pump: what moves the bytes of one tunnel, wherever the readiness comes from.
//!
//! It holds two sockets, and for each direction the pipe that its bytes are in while they are on the
//! way. It never blocks and never waits: its owner tells it what the kernel said of the sockets
//! ([`Pump::ready`]), gives it turns ([`Pump::turn`]) and acts on the answer.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::pipes::Pipes;
use super::watch::Watch;
use super::{Fault, TURN};
use crate::metrics;
use crate::sys::pipe::Pipe;
use crate::tunnel::{Direction, Flow, Tunnel};

/// One end of a tunnel, as it is known to be.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) socket: TcpStream,
    /// Reading may give something. False only after the kernel said that there is nothing, and until
    /// it says otherwise.
    readable: bool,
    /// Writing may take something; likewise.
    writable: bool,
    /// The peer has sent FIN or a reset: an end is still to be read, whatever a short read suggests.
    read_closed: bool,
    /// Urgent data is, or was, in the stream: splice(2) stops before it (`net/ipv4/tcp.c`,
    /// `tcp_read_sock`), so it is passed without a pipe.
    urgent: bool,
    /// The connection broke; there may still be bytes to read that came before.
    broken: bool,
    pub(super) watch: Watch,
}

/// One direction.
#[derive(Debug)]
struct Half {
    /// Bytes from behind the head that are not sent yet; they go before everything else.
    prefix: Vec<u8>,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// The end of the stream was read.
    ended: bool,
    /// The end of the stream was passed on.
    finished: bool,
    /// No pipe was to be had at the last try.
    pipeless: bool,
}

/// What a turn came to.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing can be done until the kernel reports readiness.
    Waits,
    /// The turn is over and there is, or may be, more to do; no event will tell.
    More,
    /// The end of this direction was passed on.
    Finished,
    /// A socket failed.
    Failed(Fault),
}

/// What the kernel said of a socket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) read_closed: bool,
    pub(super) urgent: bool,
}

/// Both ends and both directions of a tunnel.
#[derive(Debug)]
pub(super) struct Pump {
    /// By [`Direction::index`] of the direction that the leg is the source of.
    legs: [Leg; 2],
    halves: [Half; 2],
    pub(super) flow: Arc<Flow>,
    /// The direction whose end was read first.
    pub(super) first_end: Option<Direction>,
}

impl Pump {
    pub(super) fn new(tunnel: Tunnel) -> Self {
        Self {
            legs: [Leg::new(tunnel.client), Leg::new(tunnel.origin)],
            halves: tunnel.prefix.map(Half::new),
            flow: tunnel.flow,
            first_end: None,
        }
    }

    /// Gives the sockets back; only before the first turn.
    pub(super) fn into_tunnel(self) -> Tunnel {
        let [client, origin] = self.legs.map(|leg| leg.socket);
        let prefix = self.halves.map(|mut half| std::mem::take(&mut half.prefix));
        Tunnel { client, origin, prefix, flow: self.flow }
    }

    /// The socket that `direction` reads from.
    pub(super) fn source(&mut self, direction: Direction) -> &mut Leg {
        &mut self.legs[direction.index()]
    }

    /// Takes note of what the kernel said of the source of `direction`.
    pub(super) fn ready(&mut self, direction: Direction, said: Readiness) {
        let leg = self.source(direction);
        leg.readable |= said.readable;
        leg.writable |= said.writable;
        leg.read_closed |= said.read_closed;
        leg.urgent |= said.urgent;
    }

    /// The end of this direction was read, and all that came before it was passed on.
    pub(super) fn is_drained(&self, direction: Direction) -> bool {
        let half = &self.halves[direction.index()];
        half.ended && half.held == 0 && half.prefix.is_empty()
    }

    /// The source of `direction` is broken: what it received before may still be passed on, but its
    /// end is no clean one.
    pub(super) fn break_source(&mut self, direction: Direction) {
        let leg = self.source(direction);
        leg.broken = true;
        leg.readable = true;
    }

    /// Moves bytes in `direction` until nothing more can be done or the turn is over.
    pub(super) fn turn(&mut self, direction: Direction, pipes: &mut Pipes, scratch: &mut [u8], now: Instant) -> Turn {
        if self.halves[direction.index()].finished {
            return Turn::Finished;
        }
        let mut way = self.way(direction, now);
        let result = way.run(pipes, scratch);
        way.settle(pipes);
        let ended = way.half.ended;
        if ended && self.first_end.is_none() {
            self.first_end = Some(direction);
        }
        result
    }

    fn way(&mut self, direction: Direction, now: Instant) -> Way<'_> {
        let [client, origin] = &mut self.legs;
        let (source, destination) = match direction {
            Direction::ToOrigin => (client, origin),
            Direction::ToClient => (origin, client),
        };
        Way { direction, source, destination, half: &mut self.halves[direction.index()], flow: &self.flow, now }
    }
}

impl Half {
    fn new(prefix: Vec<u8>) -> Self {
        Self { prefix, pipe: None, held: 0, ended: false, finished: false, pipeless: false }
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            Pipes::close(pipe);
        }
    }
}

impl Leg {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            readable: true,
            writable: true,
            read_closed: false,
            urgent: false,
            broken: false,
            watch: Watch::default(),
        }
    }
}

/// One direction at work.
struct Way<'a> {
    direction: Direction,
    source: &'a mut Leg,
    destination: &'a mut Leg,
    half: &'a mut Half,
    flow: &'a Flow,
    now: Instant,
}

impl Way<'_> {
    fn run(&mut self, pipes: &mut Pipes, scratch: &mut [u8]) -> Turn {
        let mut moved = 0;
        loop {
            match self.push() {
                Ok(bytes) => moved += bytes,
                Err(error) => return Turn::Failed(Fault::of_destination(self.direction, error)),
            }
            if self.half.held > 0 || !self.half.prefix.is_empty() {
                return Turn::Waits;
            }
            if self.half.ended {
                return self.pass_end();
            }
            if !self.source.readable {
                return Turn::Waits;
            }
            if moved >= TURN {
                return Turn::More;
            }
            match self.pull(pipes, scratch) {
                Ok(Some(bytes)) => moved += bytes,
                Ok(None) => return Turn::Waits,
                Err(fault) => return Turn::Failed(fault),
            }
        }
    }

    /// Sends what is on the way, as far as the destination takes it.
    fn push(&mut self) -> io::Result<usize> {
        let mut pushed = 0;
        while self.destination.writable && !self.half.prefix.is_empty() {
            let sent = (&self.destination.socket).write(&self.half.prefix);
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
    fn pull(&mut self, pipes: &mut Pipes, scratch: &mut [u8]) -> Result<Option<usize>, Fault> {
        if self.source.urgent {
            let passed = self.pass_without_pipe(scratch);
            self.source.urgent = self.source.readable;
            return passed;
        }
        let Some(pipe) = self.half.pipe.take().or_else(|| pipes.borrow()) else {
            if !std::mem::replace(&mut self.half.pipeless, true) {
                metrics::ENGINE_FALLBACKS.counter(&["splice", "copy", "no_pipe"]).increment(1);
            }
            return self.pass_without_pipe(scratch);
        };
        self.half.pipeless = false;
        let filled = pipe.fill(&self.source.socket);
        let capacity = pipe.capacity();
        self.half.pipe = Some(pipe);
        let Some(bytes) = self.note_read(filled)? else { return Ok(None) };
        self.half.held = bytes;
        // Fewer bytes than the pipe has slots cannot have filled it, so the socket is empty; unless
        // its end is near, which comes in the same event as the last bytes.
        if bytes < capacity / 4096 && !self.source.read_closed {
            self.source.readable = false;
        }
        Ok(Some(0))
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
        let mut left = sent;
        while left > 0 {
            let taken = recv(&self.source.socket, &mut scratch[..left], RecvFlags::DONTWAIT);
            let (taken, _) = taken.map_err(|error| Fault::of_source(self.direction, error.into()))?;
            left -= taken;
        }
        self.flow.add(self.direction, sent as u64, self.now);
        Ok(Some(sent))
    }

    /// What a read said of the source: bytes, or `None` when there are none now or no more at all.
    fn note_read(&mut self, result: io::Result<usize>) -> Result<Option<usize>, Fault> {
        match result {
            Ok(0) => self.half.ended = true,
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.source.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // The error of a source known to be broken is the end of what it had received.
            Err(_) if self.source.broken => self.half.ended = true,
            Err(error) => return Err(Fault::of_source(self.direction, error)),
        }
        Ok(if self.half.ended || self.source.readable { Some(0) } else { None })
    }

    fn pass_end(&mut self) -> Turn {
        if !self.source.broken
            && let Err(error) = self.destination.socket.shutdown(Shutdown::Write)
        {
            return Turn::Failed(Fault::of_destination(self.direction, error));
        }
        self.half.finished = true;
        Turn::Finished
    }

    /// Gives the pipe back unless bytes are in it.
    fn settle(&mut self, pipes: &mut Pipes) {
        if self.half.held == 0
            && let Some(pipe) = self.half.pipe.take()
        {
            pipes.give_back(pipe);
        }
    }
}

impl Leg {
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
