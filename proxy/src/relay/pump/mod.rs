//! The pump: what moves the bytes of one tunnel, wherever the readiness comes from.
//!
//! The engines `uring`, `splice` and `sockmap` share it; `copy` does not. It holds two sockets, and for each direction
//! the pipe that its bytes are in while they are on the way, or the place in the maps by which the kernel redirects
//! them. It never blocks and never waits: its owner tells it what the kernel said of the sockets
//! ([`Pump::ready`]), gives it turns ([`Pump::turn`]) and acts on the answer.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pipes::Pipes;
use super::sockmap::Pair;
use super::timeouts::{ActivityMeter, Expired, Timeouts, Watch};
use super::{Fault, set_rate};
use crate::rate::Rate;
use crate::sys::pipe::Pipe;
use crate::sys::tcp;
use crate::tunnel::{ActivitySource, Direction, Flow, Tunnel};

mod direction;
mod kernel;

pub(super) use kernel::Redirect;

use direction::DirectionPump;

/// One end of a tunnel, as it is known to be.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) socket: Arc<TcpStream>,
    /// Reading may give something: false until the kernel says so, and once it said that nothing is left.
    readable: bool,
    /// Writing may take something; likewise.
    writable: bool,
    /// The peer has sent FIN or a reset: an end is still to be read, whatever a short read suggests.
    read_closed: bool,
    /// Urgent data may be in the stream. io_uring says so with every byte, since it tells what the
    /// waker woke for (`io_uring/poll.c`, `io_poll_wake`; `net/core/sock.c`, `sock_def_readable`).
    maybe_urgent: bool,
    /// Urgent data is next in the stream: splice(2) stops before it (`net/ipv4/tcp.c`,
    /// `tcp_read_sock`), so it is passed without a pipe.
    urgent: bool,
    /// The connection broke; there may still be bytes to read that came before.
    broken: bool,
}

/// Both sockets, as the source of [`Flow::last_activity`].
#[derive(Debug)]
struct Sockets {
    /// In the order of [`Pump::legs`].
    sockets: [Arc<TcpStream>; 2],
    meter: ActivityMeter,
}

impl ActivitySource for Sockets {
    fn last_activity(&self) -> Option<Instant> {
        self.meter.sample(self.sockets.each_ref()).activity
    }
}

/// Lends the sockets to a [`Flow`] until it is dropped: they are closed when their pump is.
#[derive(Debug)]
struct SharedSockets {
    flow: Arc<Flow>,
    sockets: Arc<Sockets>,
}

impl SharedSockets {
    fn new(flow: &Arc<Flow>, legs: &[Leg; 2]) -> Self {
        let sockets = legs.each_ref().map(|leg| leg.socket.clone());
        let sockets = Arc::new(Sockets { sockets, meter: ActivityMeter::default() });
        flow.attach_activity(sockets.clone());
        Self { flow: flow.clone(), sockets }
    }
}

impl Drop for SharedSockets {
    fn drop(&mut self) {
        self.flow.detach_activity();
    }
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
    no_pipe: bool,
    /// The source was seen empty, and nothing is read from it until the kernel has been asked to redirect.
    sealed: bool,
}

/// What a turn came to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing can be done until the kernel reports readiness.
    Blocked,
    /// The turn is over and there is, or may be, more to do; no event will tell.
    Yielded,
    /// There is something to do after so long, of which no event will tell.
    RetryAfter(Duration),
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
    /// Perhaps: see [`Leg::maybe_urgent`].
    pub(super) urgent: bool,
}

/// Both ends and both directions of a tunnel.
#[derive(Debug)]
pub(super) struct Pump {
    /// By [`Direction::index`] of the direction that the leg is the source of.
    legs: [Leg; 2],
    halves: [Half; 2],
    /// What the kernel redirects.
    pair: Option<Pair>,
    /// It was asked to redirect, and did or would not.
    asked: bool,
    /// It was not asked, for the rate that the tunnel was held to.
    kept: bool,
    pub(super) flow: Arc<Flow>,
    shared: SharedSockets,
    watch: Watch,
    /// The rate that both sockets are held to.
    rate_limit: Option<Rate>,
    /// The direction whose end was read first.
    pub(super) first_end: Option<Direction>,
}

impl Pump {
    pub(super) fn new(tunnel: Tunnel) -> Self {
        let legs = [Leg::new(tunnel.client), Leg::new(tunnel.origin)];
        Self {
            shared: SharedSockets::new(&tunnel.flow, &legs),
            watch: Watch::new(Instant::now()),
            legs,
            halves: tunnel.prefix.map(Half::new),
            pair: None,
            asked: false,
            kept: false,
            flow: tunnel.flow,
            rate_limit: None,
            first_end: None,
        }
    }

    /// Gives the tunnel back; only before the first turn.
    pub(super) fn into_tunnel(self) -> Tunnel {
        drop(self.shared);
        let own = |leg: Leg| Arc::into_inner(leg.socket).expect("the only one that is left");
        let [client, origin] = self.legs.map(own);
        let prefix = self.halves.map(|mut half| std::mem::take(&mut half.prefix));
        Tunnel::plain(client, origin, prefix, self.flow)
    }

    /// The leg that `direction` reads from, to look at.
    pub(super) const fn leg(&self, direction: Direction) -> &Leg {
        &self.legs[direction.index()]
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
        leg.maybe_urgent |= said.urgent;
    }

    /// The end of this direction was read, and all that came before it was passed on.
    pub(super) fn is_drained(&self, direction: Direction) -> bool {
        if let Some(pair) = self.pair.as_ref().filter(|pair| pair.redirects(direction)) {
            return pair.is_drained(direction, self.sockets());
        }
        let half = &self.halves[direction.index()];
        half.ended && half.held == 0 && half.prefix.is_empty()
    }

    /// Both ends were passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.halves.iter().all(|half| half.finished)
    }

    /// Both sides have acknowledged all that was passed on to them: the sockets can be closed. Closed
    /// earlier they would be orphans, whom the kernel gives up while a reader is only slow.
    pub(super) fn is_delivered(&self) -> bool {
        self.legs.iter().all(|leg| tcp::is_delivered(&leg.socket))
    }

    /// Lets closing the sockets be a clean end; false where the kernel does not let it.
    pub(super) fn may_close(&self) -> bool {
        self.legs.iter().all(|leg| tcp::reset_on_close(&leg.socket, false).is_ok())
    }

    /// Holds both sockets to the rate of the tunnel, if that is another one now.
    pub(super) fn apply_rate(&mut self) {
        let rate = self.flow.rate();
        if rate != self.rate_limit {
            self.rate_limit = rate;
            self.legs.iter().for_each(|leg| set_rate(&leg.socket, rate));
        }
    }

    /// Samples both connections ([`Watch::sample`]).
    pub(super) fn sample(&mut self, timeouts: Timeouts) -> Option<Expired> {
        let Sockets { sockets, meter } = &*self.shared.sockets;
        self.watch.sample(sockets.each_ref(), meter, &self.flow, timeouts)
    }

    /// The source of `direction` is broken: what it received before may still be passed on, but its
    /// end is no clean one.
    pub(super) fn break_source(&mut self, direction: Direction) {
        let leg = self.source(direction);
        leg.broken = true;
        leg.readable = true;
    }

    /// Moves bytes in `direction` until nothing more can be done or the turn is over.
    pub(super) fn step(&mut self, direction: Direction, pipes: &mut Pipes, scratch: &mut [u8], now: Instant) -> Step {
        if self.halves[direction.index()].finished {
            return Step::Finished;
        }
        if self.redirects(direction) {
            return self.step_offloaded(direction, scratch, now);
        }
        let mut pump = self.direction(direction, now);
        let result = pump.run(pipes, scratch);
        pump.return_pipe(pipes);
        let ended = pump.half.ended;
        if ended && self.first_end.is_none() {
            self.first_end = Some(direction);
        }
        result
    }

    fn direction(&mut self, direction: Direction, now: Instant) -> DirectionPump<'_> {
        let [client, origin] = &mut self.legs;
        let (source, destination) = match direction {
            Direction::ToOrigin => (client, origin),
            Direction::ToClient => (origin, client),
        };
        DirectionPump {
            direction,
            source,
            destination,
            half: &mut self.halves[direction.index()],
            flow: &self.flow,
            now,
        }
    }
}

impl Half {
    fn new(prefix: Vec<u8>) -> Self {
        Self { prefix, pipe: None, held: 0, ended: false, finished: false, no_pipe: false, sealed: false }
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
            socket: Arc::new(socket),
            readable: false,
            writable: false,
            read_closed: false,
            maybe_urgent: false,
            urgent: false,
            broken: false,
        }
    }
}
