//! Moves the bytes of established tunnels: chooses an engine, hands tunnels to it, falls back.
//!
//! | file | what is in it |
//! |---|---|
//! | `splice` | the default engine: loop threads, epoll readiness |
//! | `pump` | what such a loop does for one tunnel: splice(2) through a pipe, half-close, failure |
//! | `pipes` | a loop's stock of pipes |
//! | `copy` | the portable engine: read and write, on tokio |
//! | `selftest` | whether an engine works on this host |
//! | `watch` | what TCP says of a tunnel every few seconds |

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::metrics;
use crate::reason::Reason;
use crate::tunnel::{Direction, Tunnel};

mod copy;
mod pipes;
mod pump;
mod selftest;
mod splice;
mod watch;

#[cfg(test)]
mod tests;

/// Bytes that a direction may move before the others have their turn.
const TURN: usize = 1 << 20;

/// How long what was received before a reset may take to reach the other side, before that one is
/// reset too. A connection that broke is not worth a longer wait, and a retry waits for the reset.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// How to move bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// epoll and splice(2): the kernel moves the bytes from socket to socket through a pipe.
    Splice,
    /// read(2) and write(2).
    Copy,
}

impl Engine {
    /// All of them, best first: what `auto` tries.
    pub const ALL: &[Self] = &[Self::Splice, Self::Copy];

    /// The value of the `engine` label and of `--engine`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Copy => "copy",
        }
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|engine| engine.label() == text);
        found.copied().ok_or_else(|| format!("no engine is called '{text}': use auto, splice or copy"))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What the engines are told at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engines to try, in this order.
    pub engines: Vec<Engine>,
    /// A tunnel without a byte for so long is ended; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// `TCP_USER_TIMEOUT` of both legs, which is lifted while a reader is slow; zero: not set.
    pub user_timeout: Duration,
    /// Loop threads, or threads of the copy engine.
    pub threads: usize,
}

impl Options {
    /// How often each tunnel is looked at: often enough for every time-out.
    fn look_interval(&self) -> Duration {
        let limits = [self.idle_timeout, Some(self.user_timeout).filter(|timeout| !timeout.is_zero())];
        let interval = limits.into_iter().flatten().map(|limit| limit / 4).fold(watch::INTERVAL, Duration::min);
        interval.max(Duration::from_millis(1))
    }
}

/// An engine that did not work on this host, and why.
#[derive(Debug)]
pub struct Unfit {
    /// Which.
    pub engine: Engine,
    /// What its self-test said.
    pub error: io::Error,
}

/// The engines that run, best first.
#[derive(Debug)]
pub struct Relay {
    running: Vec<Running>,
    /// Engines that were wanted and did not pass.
    pub unfit: Vec<Unfit>,
}

#[derive(Debug)]
enum Running {
    Splice(splice::Splice),
    Copy(copy::Copy),
}

/// A tunnel in the hands of an engine.
#[derive(Debug)]
pub struct Carried {
    /// Which engine has it.
    pub engine: Engine,
    end: oneshot::Receiver<Reason>,
}

impl Carried {
    /// Waits until the tunnel has ended.
    pub async fn end(self) -> Reason {
        self.end.await.unwrap_or(Reason::EngineFailed)
    }
}

impl Relay {
    /// Starts the first wanted engine that passes its self-test, and those wanted behind it as its
    /// fallback.
    ///
    /// # Errors
    /// Every engine's own error, when none passed.
    pub fn start(options: &Options) -> Result<Self, Vec<Unfit>> {
        let mut relay = Self { running: Vec::new(), unfit: Vec::new() };
        for &engine in &options.engines {
            match Running::start(engine, options).and_then(|running| running.tested()) {
                Ok(running) => relay.running.push(running),
                Err(error) => relay.unfit.push(Unfit { engine, error }),
            }
        }
        let Some(chosen) = relay.engine() else { return Err(relay.unfit) };
        for Unfit { engine, error } in &relay.unfit {
            metrics::ENGINE_FALLBACKS.counter(&[engine.label(), chosen.label(), cause(error)]).increment(1);
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
    pub fn adopt(&self, mut tunnel: Tunnel) -> Result<Carried, Reason> {
        let mut refused: Option<(Engine, io::Error)> = None;
        for running in &self.running {
            let engine = running.engine();
            if let Some((from, error)) = &refused {
                metrics::ENGINE_FALLBACKS.counter(&[from.label(), engine.label(), cause(error)]).increment(1);
            }
            match running.adopt(tunnel) {
                Ok(end) => return Ok(Carried { engine, end }),
                Err((back, error)) => {
                    tunnel = *back;
                    refused = Some((engine, error));
                }
            }
        }
        let _ = crate::sys::tcp::reset(&tunnel.client);
        let _ = crate::sys::tcp::reset(&tunnel.origin);
        Err(Reason::EngineFailed)
    }
}

type Adopted = Result<oneshot::Receiver<Reason>, (Box<Tunnel>, io::Error)>;

impl Running {
    fn start(engine: Engine, options: &Options) -> io::Result<Self> {
        Ok(match engine {
            Engine::Splice => {
                selftest::splice()?;
                Self::Splice(splice::Splice::start(options)?)
            }
            Engine::Copy => Self::Copy(copy::Copy::start(options)?),
        })
    }

    fn tested(self) -> io::Result<Self> {
        selftest::run(|tunnel| self.adopt(tunnel))?;
        Ok(self)
    }

    const fn engine(&self) -> Engine {
        match self {
            Self::Splice(_) => Engine::Splice,
            Self::Copy(_) => Engine::Copy,
        }
    }

    fn adopt(&self, tunnel: Tunnel) -> Adopted {
        match self {
            Self::Splice(splice) => splice.adopt(tunnel),
            Self::Copy(copy) => copy.adopt(tunnel),
        }
    }
}

/// The `cause` label of a fallback: an error's name without its numbers.
fn cause(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "not_permitted",
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => "not_supported",
        Some(libc::EMFILE | libc::ENFILE) => "descriptors",
        Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => "memory",
        _ => match error.kind() {
            io::ErrorKind::TimedOut => "self_test_timeout",
            _ => "self_test",
        },
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
        let errno = self.error.raw_os_error().unwrap_or(0);
        match (self.source_of, errno) {
            (ToOrigin, libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED | libc::ENOTCONN) => Reason::ClientReset,
            (ToClient, libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED | libc::ENOTCONN) => Reason::OriginReset,
            (ToOrigin, libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN) => Reason::ClientLost,
            (ToClient, libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN) => Reason::OriginLost,
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
