//! Runs the gateway: accepts, watches signals, drains.
//!
//! | file | content |
//! |---|---|
//! | `control` | the threads, one for each core if possible |
//! | `listen` | binding, before anything else can fail |
//! | `accept` | the accept loop, its back-off and its limit |
//! | `descriptors` | the descriptor limit and its division |
//! | `reload` | the thread for re-reading files |

use std::io;
use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use crate::account::Registry;
use crate::admin::{Access, Admin, ControlSocket, Listener as AdminListener, Readiness, Ready};
use crate::connection::Gateway;
use crate::reason::Reason;
use crate::sys::signals;
use crate::sys::stream::Listener;

mod accept;
mod control;
pub mod descriptors;
mod listen;
mod reload;

pub use control::Control;
pub use listen::{Addresses, ControlChoice, Listeners};
pub use reload::{Reloader, log_bad_lines};

use control::Worker;

/// Interval of housekeeping: changed users, expired users, interim log lines of long tunnels.
const TICK: Duration = Duration::from_secs(1);

/// Time for ended tunnels to write their log lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// A gateway ready to run.
#[derive(Debug)]
pub struct Server {
    /// Everything needed to serve connections.
    pub gateway: Arc<Gateway>,
    /// The live tunnels.
    pub registry: Arc<Registry>,
    /// State reported by `/readyz`.
    pub readiness: Arc<Readiness>,
    /// Time limit for live tunnels after the first SIGTERM; `None`: unlimited.
    pub drain_timeout: Option<Duration>,
    /// Re-reads files at run time.
    pub reloader: Reloader,
}

impl Server {
    /// Accepts connections until the first SIGTERM or SIGINT, or `sluicegate drain`, then drains:
    /// it closes the listeners, so clients with several gateways use another one; open tunnels live
    /// on until they end, `drain_timeout` is over, or a second signal comes.
    ///
    /// This thread serves the first listeners; each of the others has a worker.
    async fn run(self, signals: Signals, listeners: Listeners, admin: Admin, workers: &[Worker]) -> io::Result<()> {
        let Signals { mut stop, hangup } = signals;
        let Listeners { clients, admin: read, metrics, control, .. } = listeners;
        let mut background = JoinSet::new();
        background.spawn(admin.clone().upkeep());
        let (end, ending) = watch::channel(false);
        let (control, _control_file) = control.map(ControlSocket::into_parts).transpose()?.unzip();
        let metrics = metrics.map(TcpListener::from_std).transpose()?;
        let admins = [AdminListener::Tcp(TcpListener::from_std(read)?, Access::Read)].into_iter();
        let admins = admins.chain(metrics.map(|metrics| AdminListener::Tcp(metrics, Access::Metrics)));
        let admins = admins.chain(control.map(AdminListener::Control));
        let mut admins: JoinSet<()> = admins.map(|listener| admin.clone().run(listener, ending.clone())).collect();
        let registry = self.registry.clone();
        background.spawn(async move { registry.keep_rebalanced().await });
        background.spawn(housekeeping(self.gateway.clone(), self.registry.clone(), self.reloader.clone(), hangup));
        let mut accepting = JoinSet::new();
        let (drain, draining) = watch::channel(false);
        let runtimes = iter::once(Handle::current()).chain(workers.iter().map(|worker| worker.runtime.clone()));
        for (runtime, listeners) in runtimes.zip(clients) {
            // The runtime of the accepted connections also watches the listener.
            let _context = runtime.enter();
            for (listener, secure) in listeners {
                let (gateway, registry) = (self.gateway.clone(), self.registry.clone());
                let accept = accept::accept(Listener::new(listener)?, secure, gateway, registry, draining.clone());
                accepting.spawn_on(accept, &runtime);
            }
        }
        self.readiness.set(Ready::Ready);
        notify(&[NotifyState::Ready]);

        let signal = tokio::select! {
            signal = stop.next() => Some(signal),
            () = self.readiness.drain_requested() => None,
        };
        self.readiness.set(Ready::Draining);
        notify(&[NotifyState::Stopping]);
        drain.send_replace(true);
        while accepting.join_next().await.is_some() {}
        self.readiness.set_closed();
        let command = signal.is_none().then_some("drain");
        info!(signal, command, tunnels = self.registry.active(), "draining: no more connections are accepted");
        self.drain(&mut stop).await;
        // Answers the request for the drain.
        end.send_replace(true);
        while admins.join_next().await.is_some() {}
        info!("stopped");
        Ok(())
    }

    async fn drain(&self, stop: &mut Stop) {
        let mut connections = self.registry.connections();
        let limit = async {
            match self.drain_timeout {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = connections.wait_for(|open| *open == 0) => return,
            () = limit => warn!(tunnels = self.registry.active(), "--drain-timeout is over: open tunnels are reset"),
            signal = stop.next() => warn!(signal, tunnels = self.registry.active(), "second stop request: open tunnels are reset"),
        }
        self.registry.stop_all(Reason::Shutdown);
        let _ = timeout(LAST_LINES, connections.wait_for(|open| *open == 0)).await;
        self.registry.close_all(Reason::Shutdown);
    }
}

/// The signals handled by the gateway.
#[derive(Debug)]
pub struct Signals {
    stop: Stop,
    hangup: Signal,
}

impl Signals {
    /// Watches the signals from now on, in place of the handlers of start-up
    /// ([`signals::prepare`]). To be called in the context of a runtime, before the gateway
    /// announces itself.
    ///
    /// # Errors
    /// The error of sigaction(2).
    pub fn watch() -> io::Result<Self> {
        let watched = Self { stop: Stop::new()?, hangup: signal(SignalKind::hangup())? };
        signals::watched();
        Ok(watched)
    }
}

/// The signals for ending the gateway.
#[derive(Debug)]
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Notifies systemd, if systemd started the gateway.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify systemd");
    }
}

/// Has changed files re-read, ends the tunnels of expired users, and has long tunnels write a log
/// line.
async fn housekeeping(gateway: Arc<Gateway>, registry: Arc<Registry>, reloader: Reloader, mut hangup: Signal) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = signals::take_early_hangup();
    loop {
        reloader.look(asked);
        asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = ticks.tick() => false,
        };
        let ending = gateway.authenticator.ending(SystemTime::now());
        if !ending.is_empty() {
            registry.stop_users(|user| ending.iter().any(|ending| **ending == *user), Reason::Expired);
        }
        registry.interim(Instant::now());
    }
}
