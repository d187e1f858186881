//! Moves the bytes of established tunnels: chooses an engine, hands tunnels to it, falls back.
//!
//! | file | what is in it |
//! |---|---|
//! | `engine` | the engines there are |
//! | `options` | what they are told at start |
//! | `workers` | worker threads, which the engines `uring` and `splice` are: turns, classes, moves, ends |
//! | `poller` | where a worker's readiness comes from, io_uring or epoll: all that these two differ in |
//! | `pump` | what a worker does for one tunnel: splice(2) through a pipe, half-close, failure |
//! | `pipes` | a worker's stock of pipes |
//! | `sockmap` | what has the kernel redirect, and what the pump does for it then |
//! | `copy` | the portable engine: read and write, on tokio; also for what speaks TLS |
//! | `selftest` | whether an engine works on this host |
//! | `unavailable` | why one does not |
//! | `timeouts` | periodic samples of TCP's counters: what limits a tunnel, whether it is idle, whether a peer is gone |

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::sync::oneshot;

use crate::metrics;
use crate::rate::Rate;
use crate::reason::Reason;
use crate::sys::socket::set_send_buffer;
use crate::sys::{pacing, tcp};
use crate::tunnel::{Direction, Flow, Tunnel};

mod copy;
mod engine;
mod options;
mod pipes;
mod poller;
mod pump;
mod selftest;
mod sockmap;
mod timeouts;
mod unavailable;
mod workers;

pub use engine::Engine;
pub use options::{Options, SOCKMAP_BACKLOG, SPIN};
pub use sockmap::Program;
pub use unavailable::{Component, EngineUnavailable};
pub use workers::traffic_class::ClassThresholds;

use poller::{Epoll, Uring};
use unavailable::cause;

#[cfg(test)]
mod tests;

/// Bytes that a direction may move before the others have their turn.
const QUANTUM: usize = 1 << 20;

/// How long what was received before a reset may stand still on its way to the other side, before that
/// one is reset too. A reader that stops is not worth a longer wait, and a retry waits for the reset.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How often a tunnel that broke is asked whether its last bytes have arrived.
const LAST_BYTES_POLL: Duration = Duration::from_millis(2);

/// Bytes of `direction` that its destination has acknowledged.
fn acknowledged(flow: &Flow, direction: Direction, destination: &impl AsFd) -> u64 {
    flow.moved(direction).saturating_sub(tcp::unacknowledged(destination).unwrap_or(0) as u64)
}

/// What a socket that is held to a rate has to send for so long, while whoever fills it waits for a core: what the kernel
/// has not had in time it does not send sooner later.
const RATE_AHEAD: Duration = Duration::from_millis(20);

/// Holds what is sent on a socket to a rate.
fn set_rate(socket: &impl AsFd, rate: Option<Rate>) {
    // The kernel refuses only what is no socket.
    let _ = pacing::set_max_pacing_rate(socket, rate.map(Rate::bytes));
    let ahead = rate.map_or(0, |rate| u128::from(rate.bytes()) * RATE_AHEAD.as_millis() / 1_000);
    // Below that a buffer grows by itself to what is wanted.
    if let Some(ahead) = usize::try_from(ahead).ok().filter(|ahead| *ahead > MIN_SET_BUFFER_BYTES) {
        let _ = set_send_buffer(socket, ahead.min(MAX_SET_BUFFER_BYTES));
    }
}

/// From here on the send buffer of a socket that is held to a rate is given to it.
const MIN_SET_BUFFER_BYTES: usize = 4 << 20;

/// The most that it is given.
const MAX_SET_BUFFER_BYTES: usize = 64 << 20;

/// Takes away from a source what was seen there and given to its destination.
fn discard(source: &TcpStream, scratch: &mut [u8]) -> io::Result<()> {
    let mut left = scratch.len();
    while left > 0 {
        let (taken, _) = recv(source, &mut scratch[..left], RecvFlags::DONTWAIT)?;
        if taken == 0 {
            // It was seen a moment ago; waiting for it here would hold up every tunnel of the worker.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= taken;
    }
    Ok(())
}

/// The engines that run, best first.
#[derive(Debug)]
pub struct Relay {
    running: Vec<Running>,
    /// What tunnels go to that speak TLS, whatever else runs.
    tls: Option<copy::Copy>,
    /// Engines that were wanted and did not pass.
    pub unavailable: Vec<EngineUnavailable>,
}

#[derive(Debug)]
enum Running {
    /// `uring`, `splice` or `sockmap`.
    Workers(Engine, workers::Workers),
    Copy(copy::Copy),
}

/// A tunnel in the hands of an engine.
#[derive(Debug)]
pub struct RelayedTunnel {
    /// Which engine has it.
    pub engine: Engine,
    end: oneshot::Receiver<Reason>,
}

impl RelayedTunnel {
    /// Waits until the tunnel has ended.
    pub async fn end(self) -> Reason {
        self.end.await.unwrap_or(Reason::EngineFailed)
    }
}

impl Relay {
    /// Starts the first wanted engine that passes its self-test, and the copy engine, if it is wanted
    /// behind that, as its fallback.
    ///
    /// # Errors
    /// Every engine's own error, when none passed.
    pub fn start(options: &Options) -> Result<Self, Vec<EngineUnavailable>> {
        let mut relay = Self { running: Vec::new(), tls: None, unavailable: Vec::new() };
        for &engine in &options.engines {
            if let (Engine::Sockmap, Some(Err(unfit))) = (engine, &options.program) {
                relay.unavailable.push(unfit.again());
            } else if relay.running.is_empty() || engine == Engine::Copy {
                match Running::start(engine, options) {
                    Ok(running) => relay.running.push(running),
                    Err(refused) if engine == Engine::Sockmap => relay.unavailable.push(sockmap::unavailable(refused)),
                    Err((part, error)) => relay.unavailable.push(EngineUnavailable { engine, part, error, hint: None }),
                }
            }
        }
        if options.tls {
            let failed = |(part, error)| vec![EngineUnavailable { engine: Engine::Copy, part, error, hint: None }];
            relay.tls = Some(copy::Copy::start(options).map_err(|error| failed((Component::Threads, error)))?);
        }
        let Some(chosen) = relay.engine() else { return Err(relay.unavailable) };
        for unfit in &relay.unavailable {
            metrics::ENGINE_FALLBACKS.counter(&[unfit.engine.label(), chosen.label(), unfit.cause()]).increment(1);
        }
        Ok(relay)
    }

    /// The engine that tunnels go to.
    #[must_use]
    pub fn engine(&self) -> Option<Engine> {
        self.running.first().map(Running::engine)
    }

    /// Hands a tunnel to the best engine that takes it.
    ///
    /// # Errors
    /// [`Reason::EngineFailed`] when none does; the tunnel is reset then.
    pub fn adopt(&self, mut tunnel: Tunnel) -> Result<RelayedTunnel, Reason> {
        if tunnel.tls.iter().any(Option::is_some) {
            return self.adopt_tls(tunnel);
        }
        let mut refused: Option<(Engine, io::Error)> = None;
        for running in &self.running {
            let engine = running.engine();
            if let Some((from, error)) = &refused {
                metrics::ENGINE_FALLBACKS.counter(&[from.label(), engine.label(), cause(error)]).increment(1);
            }
            match running.adopt(tunnel) {
                Ok(end) => return Ok(RelayedTunnel { engine, end }),
                Err((back, error)) => {
                    tunnel = *back;
                    refused = Some((engine, error));
                }
            }
        }
        Err(reset_both(&tunnel))
    }

    /// Bytes that are encrypted are nothing that the kernel could move from socket to socket.
    fn adopt_tls(&self, tunnel: Tunnel) -> Result<RelayedTunnel, Reason> {
        let adopted = match &self.tls {
            Some(copy) => copy.adopt(tunnel).map_err(|(tunnel, _)| tunnel),
            None => Err(Box::new(tunnel)),
        };
        adopted.map(|end| RelayedTunnel { engine: Engine::Copy, end }).map_err(|tunnel| reset_both(&tunnel))
    }
}

/// Resets a tunnel that nobody takes.
fn reset_both(tunnel: &Tunnel) -> Reason {
    let _ = tcp::reset(&tunnel.client);
    let _ = tcp::reset(&tunnel.origin);
    Reason::EngineFailed
}

type Adopted = Result<oneshot::Receiver<Reason>, (Box<Tunnel>, io::Error)>;

impl Running {
    /// Starts an engine and tries it.
    fn start(engine: Engine, options: &Options) -> Result<Self, (Component, io::Error)> {
        if engine != Engine::Copy {
            selftest::splice().map_err(|error| (Component::Splice, error))?;
        }
        let running = match engine {
            Engine::Uring => workers::Workers::start::<Uring>(options).map(|loops| Self::Workers(engine, loops)),
            Engine::Splice => workers::Workers::start::<Epoll>(options).map(|loops| Self::Workers(engine, loops)),
            Engine::Sockmap => return sockmap::start(options).map(|loops| Self::Workers(engine, loops)),
            Engine::Copy => copy::Copy::start(options).map(Self::Copy),
        };
        let running = running.map_err(|error| (Component::Threads, error))?;
        selftest::run(|tunnel| running.adopt(tunnel)).map_err(|error| (Component::Tunnel, error))?;
        Ok(running)
    }

    const fn engine(&self) -> Engine {
        match self {
            Self::Workers(engine, _) => *engine,
            Self::Copy(_) => Engine::Copy,
        }
    }

    fn adopt(&self, tunnel: Tunnel) -> Adopted {
        match self {
            Self::Workers(_, loops) => loops.adopt(tunnel),
            Self::Copy(copy) => copy.adopt(tunnel),
        }
    }
}

/// A socket that failed: whose, and how.
#[derive(Debug)]
struct Fault {
    /// The direction that the socket is the source of.
    source_of: Direction,
    error: io::Error,
}

impl Fault {
    const fn of_source(direction: Direction, error: io::Error) -> Self {
        Self { source_of: direction, error }
    }

    const fn of_destination(direction: Direction, error: io::Error) -> Self {
        Self { source_of: direction.opposite(), error }
    }

    /// Why the tunnel ends.
    fn reason(&self) -> Reason {
        use Direction::{ToClient, ToOrigin};
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
            NotConnected, TimedOut,
        };
        // Not by its number: not every error comes from a call.
        match (self.source_of, self.error.kind()) {
            (ToOrigin, ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected) => Reason::ClientReset,
            (ToClient, ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected) => Reason::OriginReset,
            (ToOrigin, TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown) => Reason::ClientLost,
            (ToClient, TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown) => Reason::OriginLost,
            _ => Reason::EngineFailed,
        }
    }
}

/// Why a tunnel ends of which both directions ended by FIN, `first` before the other.
const fn clean_end(first: Option<Direction>) -> Reason {
    match first {
        Some(Direction::ToClient) => Reason::OriginClosed,
        Some(Direction::ToOrigin) | None => Reason::ClientClosed,
    }
}
