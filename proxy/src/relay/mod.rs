//! Moves the bytes of established tunnels: starts an engine, hands tunnels to it, falls back to
//! another.
//!
//! | file | contents |
//! |---|---|
//! | `engine` | names of the engines |
//! | `options` | their options |
//! | `workers` | the worker threads of `uring`, `splice` and `sockmap` |
//! | `poller` | where a worker learns readiness from: io_uring or epoll |
//! | `pump` | one tunnel of a worker: splice(2) through a pipe, half-close, failure |
//! | `pipes` | a worker's stock of pipes |
//! | `step` | the outcome of a turn of a direction |
//! | `offload` | the boundary to an engine whose tunnels the kernel carries |
//! | `sockmap` | that engine |
//! | `copy` | the portable engine: read and write on tokio, also for tunnels that speak TLS |
//! | `fault`, `last_bytes` | failure of a socket, and delivery of bytes received before it |
//! | `peek`, `rate_limit` | bytes forwarded without a pipe; the rate of a socket |
//! | `timeouts` | periodic samples of TCP's counters, and the time-outs judged by them |
//! | `selftest` | the test of an engine before it is used |
//! | `unavailable` | the cause for which an engine is not used |

use std::io;

use tokio::sync::oneshot;

use crate::metrics;
use crate::reason::Reason;
use crate::sys::tcp;
use crate::tunnel::Tunnel;

mod copy;
mod engine;
mod fault;
mod last_bytes;
mod offload;
mod options;
mod peek;
mod pipes;
mod poller;
mod pump;
mod rate_limit;
mod selftest;
mod sockmap;
mod step;
mod timeouts;
mod unavailable;
mod workers;

pub use engine::Engine;
pub use options::{Options, SOCKMAP_BACKLOG, SPIN};
pub use sockmap::Program;
pub use unavailable::{Component, EngineUnavailable};
pub use workers::traffic_class::ClassThresholds;

use engine::Adopted;
use poller::{Epoll, Uring};
use sockmap::hint::unavailable;
use unavailable::cause;

#[cfg(test)]
mod tests;

/// The running engines, best first.
#[derive(Debug)]
pub struct Relay {
    running: Vec<Running>,
    /// The engine of tunnels that speak TLS.
    tls: Option<copy::Copy>,
    /// Engines that were wanted and are unavailable.
    pub unavailable: Vec<EngineUnavailable>,
}

#[derive(Debug)]
enum Running {
    /// `uring`, `splice` or `sockmap`.
    Workers(Engine, workers::Workers),
    Copy(copy::Copy),
}

/// A tunnel that an engine carries.
#[derive(Debug)]
pub struct RelayedTunnel {
    /// Engine that carries it.
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
    /// Starts the first wanted engine that passes its self-test, and as its fallback the copy
    /// engine, if that is wanted behind it.
    ///
    /// # Errors
    /// The error of each engine, if none passed.
    pub fn start(options: &Options) -> Result<Self, Vec<EngineUnavailable>> {
        let mut relay = Self { running: Vec::new(), tls: None, unavailable: Vec::new() };
        for &engine in &options.engines {
            if let (Engine::Sockmap, Some(Err(failure))) = (engine, &options.program) {
                relay.unavailable.push(failure.duplicate());
            } else if relay.running.is_empty() || engine == Engine::Copy {
                match Running::start(engine, options) {
                    Ok(running) => relay.running.push(running),
                    Err(refused) if engine == Engine::Sockmap => relay.unavailable.push(unavailable(refused)),
                    Err((part, error)) => relay.unavailable.push(EngineUnavailable { engine, part, error, hint: None }),
                }
            }
        }
        if options.tls {
            let failed = |(part, error)| vec![EngineUnavailable { engine: Engine::Copy, part, error, hint: None }];
            relay.tls = Some(copy::Copy::start(options).map_err(|error| failed((Component::Threads, error)))?);
        }
        let Some(chosen) = relay.engine() else { return Err(relay.unavailable) };
        for failure in &relay.unavailable {
            metrics::ENGINE_FALLBACKS.counter(&[failure.engine.label(), chosen.label(), failure.cause()]).increment(1);
        }
        Ok(relay)
    }

    /// Engine that tunnels are handed to.
    #[must_use]
    pub fn engine(&self) -> Option<Engine> {
        self.running.first().map(Running::engine)
    }

    /// Hands a tunnel to the best engine that takes it.
    ///
    /// # Errors
    /// [`Reason::EngineFailed`] if none does; the tunnel is reset then.
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

    /// Hands over a tunnel that speaks TLS. Its bytes are decrypted and encrypted by this process,
    /// so that the kernel cannot move them from socket to socket.
    fn adopt_tls(&self, tunnel: Tunnel) -> Result<RelayedTunnel, Reason> {
        let adopted = match &self.tls {
            Some(copy) => copy.adopt(tunnel).map_err(|(tunnel, _)| tunnel),
            None => Err(Box::new(tunnel)),
        };
        adopted.map(|end| RelayedTunnel { engine: Engine::Copy, end }).map_err(|tunnel| reset_both(&tunnel))
    }
}

/// Resets a tunnel that no engine takes.
fn reset_both(tunnel: &Tunnel) -> Reason {
    let _ = tcp::reset(&tunnel.client);
    let _ = tcp::reset(&tunnel.origin);
    Reason::EngineFailed
}

impl Running {
    /// Starts an engine and tests it.
    fn start(engine: Engine, options: &Options) -> Result<Self, (Component, io::Error)> {
        if engine != Engine::Copy {
            selftest::splice().map_err(|error| (Component::Splice, error))?;
        }
        let running = match engine {
            Engine::Uring => workers::Workers::start::<Uring>(options).map(|workers| Self::Workers(engine, workers)),
            Engine::Splice => workers::Workers::start::<Epoll>(options).map(|workers| Self::Workers(engine, workers)),
            Engine::Sockmap => return sockmap::start(options).map(|workers| Self::Workers(engine, workers)),
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
            Self::Workers(_, workers) => workers.adopt(tunnel),
            Self::Copy(copy) => copy.adopt(tunnel),
        }
    }
}
