//! The pump: moves the bytes of one tunnel, independent of the source of readiness events.
//!
//! The engines `uring`, `splice` and `sockmap` share the pump; `copy` does not use it. A pump owns
//! two sockets and, per direction, a pipe for the bytes on their way, or the slots in the BPF maps
//! by which the kernel redirects them. The pump never blocks and never waits: its worker reports
//! readiness ([`Pump::ready`]), runs it ([`Pump::step`]) and acts on the result.

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

/// One end of a tunnel and its last known state.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) socket: Arc<TcpStream>,
    /// A read may return bytes: set by a readiness event, cleared when a read finds the socket
    /// empty.
    readable: bool,
    /// A write may accept bytes: set by a readiness event, cleared when a write finds the buffer
    /// full.
    writable: bool,
    /// The peer has sent FIN or a reset. The end is still to be read, even after a short read.
    read_closed: bool,
    /// Urgent data may be in the stream. io_uring sets this with every byte: it reports the flags
    /// of the wake-up (`io_uring/poll.c`, `io_poll_wake`; `net/core/sock.c`, `sock_def_readable`).
    maybe_urgent: bool,
    /// Urgent data is next in the stream. splice(2) stops before it (`net/ipv4/tcp.c`,
    /// `tcp_read_sock`), so it is passed without a pipe.
    urgent: bool,
    /// The connection is broken. Bytes received earlier may still be unread.
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

/// Lends the sockets to a [`Flow`] until dropped, so dropping the pump closes the sockets.
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

/// State of one direction.
#[derive(Debug)]
struct Half {
    /// Bytes received behind the head and not yet sent. They precede all others.
    prefix: Vec<u8>,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    /// The end of the stream was read.
    ended: bool,
    /// The end of the stream was passed on.
    finished: bool,
    /// The last attempt to borrow a pipe failed.
    no_pipe: bool,
    /// The source was seen empty; nothing is read from it until the kernel has been asked to
    /// redirect.
    sealed: bool,
}

/// Result of a step.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing can be done until the kernel reports readiness.
    Blocked,
    /// The quantum is used up. More work may be left, and no event reports it.
    Yielded,
    /// Work is due after this delay, and no event reports it.
    RetryAfter(Duration),
    /// The end of this direction was passed on.
    Finished,
    /// A socket failed.
    Failed(Fault),
}

/// Readiness of a socket as reported by the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    pub(super) read_closed: bool,
    /// Urgent data is possible: see [`Leg::maybe_urgent`].
    pub(super) urgent: bool,
}

/// Both ends and both directions of a tunnel.
#[derive(Debug)]
pub(super) struct Pump {
    /// Indexed by [`Direction::index`]: the leg at `direction` is its source.
    legs: [Leg; 2],
    halves: [Half; 2],
    /// The tunnel in the BPF maps, if the kernel redirects at least one direction.
    pair: Option<Pair>,
    /// The kernel was asked to redirect the tunnel, and accepted or refused.
    asked: bool,
    /// The kernel was not asked because the tunnel was rate-limited.
    kept: bool,
    pub(super) flow: Arc<Flow>,
    shared: SharedSockets,
    watch: Watch,
    /// Rate limit set on both sockets.
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

    /// Converts the pump back into its tunnel; valid only before the first step.
    pub(super) fn into_tunnel(self) -> Tunnel {
        drop(self.shared);
        let own = |leg: Leg| Arc::into_inner(leg.socket).expect("the only one that is left");
        let [client, origin] = self.legs.map(own);
        let prefix = self.halves.map(|mut half| std::mem::take(&mut half.prefix));
        Tunnel::plain(client, origin, prefix, self.flow)
    }

    /// The leg read by `direction`, by shared reference.
    pub(super) const fn leg(&self, direction: Direction) -> &Leg {
        &self.legs[direction.index()]
    }

    /// The leg read by `direction`.
    pub(super) fn source(&mut self, direction: Direction) -> &mut Leg {
        &mut self.legs[direction.index()]
    }

    /// Records the readiness of the source of `direction`.
    pub(super) fn ready(&mut self, direction: Direction, said: Readiness) {
        let leg = self.source(direction);
        leg.readable |= said.readable;
        leg.writable |= said.writable;
        leg.read_closed |= said.read_closed;
        leg.maybe_urgent |= said.urgent;
    }

    /// Tests if the end of `direction` was read and all bytes before it were passed on.
    pub(super) fn is_drained(&self, direction: Direction) -> bool {
        if let Some(pair) = self.pair.as_ref().filter(|pair| pair.redirects(direction)) {
            return pair.is_drained(direction, self.sockets());
        }
        let half = &self.halves[direction.index()];
        half.ended && half.held == 0 && half.prefix.is_empty()
    }

    /// Tests if both ends were passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.halves.iter().all(|half| half.finished)
    }

    /// Tests if both sides have acknowledged all bytes passed on to them, so the sockets can be
    /// closed. Closed earlier they become orphans, and the kernel drops orphans while a reader is
    /// merely slow.
    pub(super) fn is_delivered(&self) -> bool {
        self.legs.iter().all(|leg| tcp::is_delivered(&leg.socket))
    }

    /// Makes closing the sockets a clean end (FIN). Returns false if the kernel refuses the option.
    pub(super) fn may_close(&self) -> bool {
        self.legs.iter().all(|leg| tcp::reset_on_close(&leg.socket, false).is_ok())
    }

    /// Applies the tunnel's rate limit to both sockets if the limit has changed.
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

    /// Marks the source of `direction` as broken: bytes received earlier may still be passed on,
    /// but its end is not clean.
    pub(super) fn break_source(&mut self, direction: Direction) {
        let leg = self.source(direction);
        leg.broken = true;
        leg.readable = true;
    }

    /// Moves bytes in `direction` until nothing more can be done or the quantum is used up.
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
