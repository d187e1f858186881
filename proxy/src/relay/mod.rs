//! Relay of established tunnels: chooses an engine, hands tunnels to it, falls back.
//!
//! | file | content |
//! |---|---|
//! | `engine` | list of the engines |
//! | `options` | their options at start |
//! | `workers` | worker threads of `uring`, `splice`, `sockmap`: scheduling, classes, moves, ends |
//! | `poller` | source of a worker's readiness events, io_uring or epoll: the only difference |
//! | `pump` | a worker's work for one tunnel: splice(2) through a pipe, half-close, failure |
//! | `pipes` | a worker's pool of pipes |
//! | `sockmap` | redirection in the kernel, and the pump's part in it |
//! | `copy` | the portable engine: read and write, on tokio; also for TLS |
//! | `selftest` | test of an engine on this host |
//! | `unavailable` | cause of an engine's failure on this host |
//! | `timeouts` | samples of TCP's counters: limits on sending, idle tunnels, vanished peers |

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

/// Bytes moved by a direction per step.
const QUANTUM: usize = 1 << 20;

/// Time without progress for the last bytes before a reset, until the other side is reset too. A
/// stopped reader is not worth a longer wait, and a retry waits for the reset.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// Interval of checks for the arrival of a broken tunnel's last bytes.
const LAST_BYTES_POLL: Duration = Duration::from_millis(2);

/// Bytes of `direction` acknowledged by its destination.
fn acknowledged(flow: &Flow, direction: Direction, destination: &impl AsFd) -> u64 {
    flow.moved(direction).saturating_sub(tcp::unacknowledged(destination).unwrap_or(0) as u64)
}

/// Time covered by the send buffer of a rate-limited socket while its writer waits for a core: the
/// kernel does not catch up on bytes it got too late.
const RATE_AHEAD: Duration = Duration::from_millis(20);

/// Sets the rate limit of a socket.
fn set_rate(socket: &impl AsFd, rate: Option<Rate>) {
    // The kernel refuses only descriptors other than sockets.
    let _ = pacing::set_max_pacing_rate(socket, rate.map(Rate::bytes));
    let ahead = rate.map_or(0, |rate| u128::from(rate.bytes()) * RATE_AHEAD.as_millis() / 1_000);
    // Below this size autotuning grows the buffer as needed.
    if let Some(ahead) = usize::try_from(ahead).ok().filter(|ahead| *ahead > MIN_SET_BUFFER_BYTES) {
        let _ = set_send_buffer(socket, ahead.min(MAX_SET_BUFFER_BYTES));
    }
}

/// Size from which the send buffer of a rate-limited socket is set explicitly, in bytes.
const MIN_SET_BUFFER_BYTES: usize = 4 << 20;

/// Maximum size set, in bytes.
const MAX_SET_BUFFER_BYTES: usize = 64 << 20;

/// Discards from a source the bytes peeked there and sent to its destination.
fn discard(source: &TcpStream, scratch: &mut [u8]) -> io::Result<()> {
    let mut left = scratch.len();
    while left > 0 {
        let (taken, _) = recv(source, &mut scratch[..left], RecvFlags::DONTWAIT)?;
        if taken == 0 {
            // The bytes were there a moment ago; waiting here would hold up every tunnel of the
            // worker.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= taken;
    }
    Ok(())
}

/// The running engines, best first.
#[derive(Debug)]
pub struct Relay {
    running: Vec<Running>,
    /// The engine for TLS tunnels, independent of the others.
    tls: Option<copy::Copy>,
    /// Wanted engines that failed their self-test.
    pub unavailable: Vec<EngineUnavailable>,
}

#[derive(Debug)]
enum Running {
    /// `uring`, `splice` or `sockmap`.
    Workers(Engine, workers::Workers),
    Copy(copy::Copy),
}

/// A tunnel carried by an engine.
#[derive(Debug)]
pub struct RelayedTunnel {
    /// The engine of the tunnel.
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
    /// Starts the first wanted engine to pass its self-test, and the copy engine as its fallback if
    /// it is wanted after it.
    ///
    /// # Errors
    /// Each engine's own error, if none passed.
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

    /// The preferred engine for tunnels.
    #[must_use]
    pub fn engine(&self) -> Option<Engine> {
        self.running.first().map(Running::engine)
    }

    /// Hands a tunnel to the best engine able to take it.
    ///
    /// # Errors
    /// [`Reason::EngineFailed`] if there is none; the tunnel is then reset.
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

    /// Hands a TLS tunnel to the copy engine: the kernel cannot move encrypted bytes from socket to
    /// socket.
    fn adopt_tls(&self, tunnel: Tunnel) -> Result<RelayedTunnel, Reason> {
        let adopted = match &self.tls {
            Some(copy) => copy.adopt(tunnel).map_err(|(tunnel, _)| tunnel),
            None => Err(Box::new(tunnel)),
        };
        adopted.map(|end| RelayedTunnel { engine: Engine::Copy, end }).map_err(|tunnel| reset_both(&tunnel))
    }
}

/// Resets a tunnel refused by every engine.
fn reset_both(tunnel: &Tunnel) -> Reason {
    let _ = tcp::reset(&tunnel.client);
    let _ = tcp::reset(&tunnel.origin);
    Reason::EngineFailed
}

type Adopted = Result<oneshot::Receiver<Reason>, (Box<Tunnel>, io::Error)>;

impl Running {
    /// Starts an engine and runs its self-test.
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

/// A failed socket and its error.
#[derive(Debug)]
struct Fault {
    /// The direction reading from the socket.
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

    /// End reason of the tunnel.
    fn reason(&self) -> Reason {
        use Direction::{ToClient, ToOrigin};
        use std::io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
            NotConnected, TimedOut,
        };
        // Not by error number: some errors do not come from a system call.
        match (self.source_of, self.error.kind()) {
            (ToOrigin, ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected) => Reason::ClientReset,
            (ToClient, ConnectionReset | BrokenPipe | ConnectionAborted | NotConnected) => Reason::OriginReset,
            (ToOrigin, TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown) => Reason::ClientLost,
            (ToClient, TimedOut | HostUnreachable | NetworkUnreachable | NetworkDown) => Reason::OriginLost,
            _ => Reason::EngineFailed,
        }
    }
}

/// End reason of a tunnel closed by FIN in both directions, `first` before the other.
const fn clean_end(first: Option<Direction>) -> Reason {
    match first {
        Some(Direction::ToClient) => Reason::OriginClosed,
        Some(Direction::ToOrigin) | None => Reason::ClientClosed,
    }
}
