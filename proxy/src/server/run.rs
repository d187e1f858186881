//! A running gateway: accepting, housekeeping, draining.

use std::io;
use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sd_notify::NotifyState;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::accept::accept;
use super::listen::{ClientListener, Listeners};
use super::reload::Reloader;
use super::signals::{Signals, Stop};
use crate::account::Registry;
use crate::admin::{Access, Admin, ControlSocket, Listener as AdminListener, Readiness, Ready};
use crate::connection::Gateway;
use crate::reason::Reason;
use crate::sys::signals;
use crate::sys::stream::Listener;

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
    /// This thread serves the first listeners, and each of `workers` the ones of its core.
    pub(super) async fn run(
        self,
        signals: Signals,
        listeners: Listeners,
        admin: Admin,
        workers: Vec<Handle>,
    ) -> io::Result<()> {
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
        let runtimes = iter::once(Handle::current()).chain(workers);
        for (runtime, listeners) in runtimes.zip(clients) {
            // The runtime of the accepted connections also watches the listener.
            let _context = runtime.enter();
            for ClientListener { socket, transport } in listeners {
                let (gateway, registry) = (self.gateway.clone(), self.registry.clone());
                let accept = accept(Listener::new(socket)?, transport, gateway, registry, draining.clone());
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

/// Notifies systemd, if systemd started the gateway.
fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "cannot notify systemd");
    }
}

/// Requests checks of the files, ends the tunnels of expired users, and writes the log lines of
/// long tunnels.
async fn housekeeping(gateway: Arc<Gateway>, registry: Arc<Registry>, reloader: Reloader, mut hangup: Signal) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut forced = signals::take_early_hangup();
    loop {
        reloader.request(forced);
        forced = tokio::select! {
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
