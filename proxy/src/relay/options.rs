//! What the engines are told at start.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::thread::CapabilitySet;

use super::{ClassThresholds, Engine, EngineUnavailable, Program, sockmap, timeouts};
use crate::sys::thread;

/// How long an interactive worker spins unless told otherwise: about the time in which a peer on the same
/// host, or in the same rack, answers.
pub const SPIN: Duration = Duration::from_micros(50);

/// What the engines are told at start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The engines to try, in this order.
    pub engines: Vec<Engine>,
    /// Ends a tunnel when no byte was received from or acknowledged by either peer for so long; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Gives up a peer that was asked and has answered nothing for so long; zero: the kernel decides.
    pub user_timeout: Duration,
    /// Worker threads of each class, or threads of the copy engine.
    pub threads: usize,
    /// The cores that interactive workers keep to, if there are as many as threads; otherwise the scheduler places them.
    pub cores: Vec<usize>,
    /// How long an interactive worker looks for work before it sleeps, where that pays; zero: not at all.
    pub spin: Duration,
    /// Where bulk begins.
    pub thresholds: ClassThresholds,
    /// Bytes of one direction that the engine `sockmap` gives to a side that has not acknowledged them, at most.
    pub sockmap_backlog: u64,
    /// Tunnels that it has room for.
    pub tunnels: usize,
    /// Whether tunnels may speak TLS, which only the copy engine does.
    pub tls: bool,
    /// The program of the engine `sockmap`, or why it was refused, where the process has given its capabilities up
    /// since ([`Options::load`]); otherwise it is loaded when the engine starts.
    pub program: Option<Result<Arc<Program>, Arc<EngineUnavailable>>>,
}

/// Unless told otherwise, enough for 1 Gbit/s over a round trip of 130 ms, and what a stopped reader may cost.
pub const SOCKMAP_BACKLOG: u64 = 16 << 20;

/// Tunnels that the engine `sockmap` has room for unless told otherwise.
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
    /// Loads the program of the engine `sockmap`, if that is among those to try, before the capabilities that this
    /// takes are given up.
    pub fn load(&mut self) {
        if self.engines.contains(&Engine::Sockmap) {
            let loaded = Program::load(self.tunnels).map(Arc::new);
            self.program = Some(loaded.map_err(|refused| Arc::new(sockmap::unavailable(refused))));
        }
    }

    /// Capabilities that the engines use while they run. The pipes of `uring` and `splice` are larger in sum than an
    /// unprivileged user's (`fs.pipe-user-pages-soft`, pipe(7)); `sockmap`, once loaded, fills them only by exception.
    #[must_use]
    pub fn capabilities(&self) -> CapabilitySet {
        let splices = self.engines.iter().any(|engine| matches!(engine, Engine::Uring | Engine::Splice));
        let redirects = matches!(self.program, Some(Ok(_)));
        if splices && !redirects { CapabilitySet::SYS_RESOURCE } else { CapabilitySet::empty() }
    }

    /// The send buffer that the sockets of a tunnel should have, in bytes; zero: what they grow to.
    #[must_use]
    pub fn send_buffer(&self) -> usize {
        if self.engines.contains(&Engine::Sockmap) { sockmap::send_buffer(self.sockmap_backlog) } else { 0 }
    }

    /// How often each tunnel is sampled: often enough for every time-out.
    pub(super) fn sample_interval(&self) -> Duration {
        let limits = [self.idle_timeout, Some(self.user_timeout).filter(|timeout| !timeout.is_zero())];
        let interval = limits.into_iter().flatten().map(|limit| limit / 4).fold(timeouts::INTERVAL, Duration::min);
        interval.max(Duration::from_millis(1))
    }
}
