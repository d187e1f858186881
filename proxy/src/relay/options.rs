//! Options of the engines.

use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use rustix::thread::CapabilitySet;

use super::engine::Engine;
use super::sockmap::hint::unavailable;
use super::sockmap::offloaded_direction::send_buffer;
use super::sockmap::program::Program;
use super::timeouts::{self, Timeouts};
use super::unavailable::EngineUnavailable;
use super::workers::traffic_class::ClassThresholds;
use crate::sys::thread;

/// Default of the longest busy poll of an interactive worker: about the time in which a peer on the
/// same host, or in the same rack, answers.
pub const SPIN: Duration = Duration::from_micros(50);

/// Options of the engines.
#[derive(Clone, Debug)]
pub struct Options {
    /// Engines to try, in this order.
    pub engines: Vec<Engine>,
    /// Time after which a tunnel ends if no byte was received from or acknowledged by either peer;
    /// `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Time after which a peer is given up that owes an answer and sends nothing; zero: the kernel
    /// decides.
    pub user_timeout: Duration,
    /// Worker threads of each class, or threads of the copy engine.
    pub threads: usize,
    /// Cores that interactive workers are pinned to, if there are as many as threads; otherwise the
    /// scheduler places them.
    pub cores: Vec<usize>,
    /// Longest busy poll of an interactive worker before it sleeps, where that pays; zero: none.
    pub spin: Duration,
    /// Thresholds between interactive and bulk.
    pub thresholds: ClassThresholds,
    /// Limit of unacknowledged bytes that the engine `sockmap` has under way in one direction.
    pub sockmap_backlog: u64,
    /// Tunnels that the engine `sockmap` has room for.
    pub tunnels: usize,
    /// Tunnels may speak TLS, which only the copy engine does.
    pub tls: bool,
    /// Program of the engine `sockmap`, or the reason for which it was refused, if the process has
    /// dropped its capabilities since ([`Options::load`]); otherwise it is loaded when the engine
    /// starts.
    pub program: Option<Result<Arc<Program>, Arc<EngineUnavailable>>>,
}

/// Default of [`Options::sockmap_backlog`]: enough for 1 Gbit/s over a round trip of 130 ms. A
/// stopped reader may cost as much.
pub const SOCKMAP_BACKLOG: u64 = 16 << 20;

/// Default of [`Options::tunnels`].
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
    /// Loads the program of the engine `sockmap`, if that is to be tried. Called before the process
    /// drops the capabilities that this takes.
    pub fn load(&mut self) {
        if self.engines.contains(&Engine::Sockmap) {
            let loaded = Program::load(self.tunnels, self.sockmap_backlog).map(Arc::new);
            self.program = Some(loaded.map_err(|refused| Arc::new(unavailable(refused))));
        }
    }

    /// Capabilities that the engines use while they run. The pipes of `uring` and `splice` are
    /// larger in sum than an unprivileged user may have (`fs.pipe-user-pages-soft`, pipe(7));
    /// `sockmap`, once loaded, uses few.
    #[must_use]
    pub fn capabilities(&self) -> CapabilitySet {
        let splices = self.engines.iter().any(|engine| matches!(engine, Engine::Uring | Engine::Splice));
        let redirects = matches!(self.program, Some(Ok(_)));
        if splices && !redirects { CapabilitySet::SYS_RESOURCE } else { CapabilitySet::empty() }
    }

    /// Size of the send buffers of a tunnel's sockets, in bytes; zero: autotuned.
    #[must_use]
    pub fn send_buffer(&self) -> usize {
        if self.engines.contains(&Engine::Sockmap) { send_buffer(self.sockmap_backlog) } else { 0 }
    }

    /// The time-outs of each tunnel.
    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts { idle: self.idle_timeout, user: self.user_timeout, interval: self.sample_interval() }
    }

    /// Interval at which each tunnel is sampled: short enough for every time-out.
    pub(super) fn sample_interval(&self) -> Duration {
        let limits = [self.idle_timeout, Some(self.user_timeout).filter(|timeout| !timeout.is_zero())];
        let interval = limits.into_iter().flatten().map(|limit| limit / 4).fold(timeouts::INTERVAL, Duration::min);
        interval.max(Duration::from_millis(1))
    }
}
