//! Options of the engines at start.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::thread::CapabilitySet;

use super::{ClassThresholds, Engine, EngineUnavailable, Program, sockmap, timeouts};
use crate::sys::thread;

/// Default busy-poll time of an interactive worker: about the reply time of a peer on the same host
/// or in the same rack.
pub const SPIN: Duration = Duration::from_micros(50);

/// Options of the engines at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engines to try, in this order.
    pub engines: Vec<Engine>,
    /// Ends a tunnel if no byte was received from or acknowledged by either peer for this time;
    /// `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Gives up a peer that owes an answer and is silent for this time; zero: the kernel decides.
    pub user_timeout: Duration,
    /// Worker threads of each class, or threads of the copy engine.
    pub threads: usize,
    /// Cores for interactive workers, if there is one per thread; otherwise the scheduler places
    /// them.
    pub cores: Vec<usize>,
    /// Busy-poll time of an interactive worker before it sleeps, used while it pays; zero: none.
    pub spin: Duration,
    /// Thresholds of the bulk class.
    pub thresholds: ClassThresholds,
    /// Maximum of unacknowledged bytes per direction given to a destination by the engine
    /// `sockmap`.
    pub sockmap_backlog: u64,
    /// Maximum number of redirected tunnels.
    pub tunnels: usize,
    /// Tunnels may use TLS, which needs the copy engine.
    pub tls: bool,
    /// The program of the engine `sockmap`, or its load error, if loaded before capabilities were
    /// dropped ([`Options::load`]); otherwise the engine loads it at start.
    pub program: Option<Result<Arc<Program>, Arc<EngineUnavailable>>>,
}

/// Default backlog of the engine `sockmap`, in bytes: enough for 1 Gbit/s over a round trip of 130
/// ms, and a bearable cost of a stopped reader.
pub const SOCKMAP_BACKLOG: u64 = 16 << 20;

/// Default maximum of redirected tunnels.
const SOCKMAP_TUNNELS: usize = 4096;

impl Default for Options {
    fn default() -> Self {
        Self {
            engines: Engine::AUTO.to_vec(),
            idle_timeout: None,
            user_timeout: Duration::ZERO,
            threads: available_parallelism().map_or(1, Into::into),
            cores: thread::unthrottled_cpus(),
            spin: SPIN,
            thresholds: ClassThresholds::default(),
            sockmap_backlog: SOCKMAP_BACKLOG,
            tunnels: SOCKMAP_TUNNELS,
            tls: false,
            program: None,
        }
    }
}

impl Options {
    /// Loads the program of the engine `sockmap`, if it is among the engines to try, before the
    /// capabilities needed for it are dropped.
    pub fn load(&mut self) {
        if self.engines.contains(&Engine::Sockmap) {
            let loaded = Program::load(self.tunnels).map(Arc::new);
            self.program = Some(loaded.map_err(|refused| Arc::new(sockmap::unavailable(refused))));
        }
    }

    /// Capabilities used by the running engines. The pipes of `uring` and `splice` together exceed
    /// an unprivileged user's limit (`fs.pipe-user-pages-soft`, pipe(7)); `sockmap`, once loaded,
    /// fills pipes only by exception.
    #[must_use]
    pub fn capabilities(&self) -> CapabilitySet {
        let splices = self.engines.iter().any(|engine| matches!(engine, Engine::Uring | Engine::Splice));
        let redirects = matches!(self.program, Some(Ok(_)));
        if splices && !redirects { CapabilitySet::SYS_RESOURCE } else { CapabilitySet::empty() }
    }

    /// Send buffer for the sockets of a tunnel, in bytes; zero: autotuning.
    #[must_use]
    pub fn send_buffer(&self) -> usize {
        if self.engines.contains(&Engine::Sockmap) { sockmap::send_buffer(self.sockmap_backlog) } else { 0 }
    }

    /// Sampling interval of each tunnel: short enough for every time-out.
    pub(super) fn sample_interval(&self) -> Duration {
        let limits = [self.idle_timeout, Some(self.user_timeout).filter(|timeout| !timeout.is_zero())];
        let interval = limits.into_iter().flatten().map(|limit| limit / 4).fold(timeouts::INTERVAL, Duration::min);
        interval.max(Duration::from_millis(1))
    }
}
