//! One connection from accept to its end, accounted exactly once: one log line, one increment of
//! each counter, one slot given back, however it ends.
//!
//! [`Account`] is a drop-guard. A handshake hands it what it learns; [`Account::refused`] or
//! [`Account::closed`] ends it with a reason, and dropping it (a cancelled task, a panic) ends it too,
//! so that no path through the code can forget to count.

mod clean;
mod ending;
mod limits;
mod live;
mod log;
mod meters;
mod rates;
mod registry;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::metrics;
use crate::reason::{Reason, Refusal};
use crate::target::Target;
use crate::tunnel::{Direction, Flow};

pub use clean::clean;
pub use limits::Limits;
pub use live::{INTERIM, TunnelView};
pub use rates::{Change, Limit, Rates, RatesView, Unknown};
pub use registry::Registry;

use limits::Slot;
use live::{Asked, Live};

/// One connection, accounted when this is consumed or dropped.
#[derive(Debug)]
pub struct Account {
    registry: Arc<Registry>,
    id: u64,
    client: SocketAddr,
    accepted: Instant,
    heard: bool,
    user: Option<Arc<str>>,
    tls: Option<&'static str>,
    target: Option<Target>,
    upgrade: Option<Arc<str>>,
    parent: Option<Arc<str>>,
    slot: Option<Slot>,
    live: Option<Arc<Live>>,
    ended: bool,
}

impl Account {
    fn new(registry: Arc<Registry>, id: u64, client: SocketAddr) -> Self {
        Self {
            registry,
            id,
            client: canonical(client),
            accepted: Instant::now(),
            heard: false,
            user: None,
            tls: None,
            target: None,
            upgrade: None,
            parent: None,
            slot: None,
            live: None,
            ended: false,
        }
    }

    /// The number of this connection, by which the log and `sluicegate kill` know it.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Who the client is by the word of a proxy before, which is to be believed.
    pub fn client(&mut self, client: SocketAddr) {
        self.client = canonical(client);
    }

    /// The client's address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.client
    }

    /// The client's address, without the port.
    #[must_use]
    pub const fn source(&self) -> IpAddr {
        self.client.ip()
    }

    /// The client sent at least a byte. One that leaves without any was a port check, and is logged
    /// at debug level only.
    pub const fn heard(&mut self) {
        self.heard = true;
    }

    /// Who it is: a configured user, or `None` where there is no authentication. It becomes a metric
    /// label with [`Account::established`], so it must not be a name that a stranger made up.
    pub fn user(&mut self, user: Option<Arc<str>>) {
        self.user = user;
    }

    /// The version of the TLS that the client speaks.
    pub const fn tls(&mut self, version: &'static str) {
        self.tls = Some(version);
    }

    /// Where it wants to go.
    pub fn target(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    /// What it wants the origin to switch to, by `Upgrade`; without that it wants a tunnel.
    pub fn upgrade(&mut self, protocols: &str) {
        self.upgrade = Some(protocols.into());
    }

    /// The parent proxy that is to open the way, if it is one.
    pub fn parent(&mut self, parent: Option<Arc<str>>) {
        self.parent = parent;
    }

    /// Takes one of the slots that [`Limits`] allow, for as long as this lives. The user must be
    /// known by now; `own` is the limit that he has instead of everybody's.
    ///
    /// # Errors
    /// The refusal, with the flag and the value that it ran into.
    pub fn reserve(&mut self, own: Option<usize>) -> Result<(), Refusal> {
        if self.slot.is_none() {
            self.slot = Some(self.registry.slots().take(self.user.clone(), own, self.client.ip())?);
        }
        Ok(())
    }

    /// Holds a tunnel to its rate that no engine has yet: one engine begins otherwise with what is held to none.
    pub fn pace(&self, flow: &Flow) {
        self.registry.pace_first(self.id, self.user.as_ref(), flow);
    }

    /// The tunnel stands: from here on it is in the registry under [`Account::id`], and its bytes are
    /// counted from `flow`. A second call changes nothing.
    pub fn established(&mut self, origin: SocketAddr, engine: &'static str, flow: Arc<Flow>) {
        if self.live.is_some() {
            return;
        }
        let meters = &self.registry.meters;
        let (established, duration) = meters.established();
        match &self.upgrade {
            None => established.increment(1),
            Some(_) => metrics::CONNECT_REQUESTS.counter(&["101", "established"]).increment(1),
        }
        duration.record(flow.started().saturating_duration_since(self.accepted));
        let engine = meters.engine(engine);
        engine.active.increment(1.0);
        let user = self.user.take().map(|name| meters.user(name));
        let asked = Asked {
            tls: self.tls,
            target: self.target.take(),
            upgrade: self.upgrade.take(),
            parent: self.parent.take(),
        };
        let live = Arc::new(Live::new(self.id, self.client, user, asked, origin, engine, flow));
        // In this order: who has read of it finds it listed.
        self.registry.insert(&live);
        log::established(&live);
        self.live = Some(live);
    }

    /// What the tunnel moved, once it is established.
    #[must_use]
    pub fn flow(&self) -> Option<&Arc<Flow>> {
        self.live.as_ref().map(|live| &live.flow)
    }

    /// Ends a handshake that came to nothing. (Of an established tunnel, as where the 200 could not be
    /// written, it is the end of the tunnel.)
    ///
    /// The connection counts as open until this is dropped: its client still has an answer to read.
    pub fn refused(&mut self, refusal: &Refusal) {
        self.end(refusal.reason, &refusal.detail);
    }

    /// Ends a tunnel. (Before [`Account::established`] it is the end of the handshake.)
    pub fn closed(mut self, reason: Reason) {
        self.end(reason, "");
    }

    fn end(&mut self, reason: Reason, detail: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if let Some(live) = &self.live {
            live.close(reason);
            self.registry.remove(self.id);
        } else {
            let code = reason.status().map(|status| status.0);
            let label = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
            metrics::CONNECT_REQUESTS.counter(&[&label, reason.label()]).increment(1);
            log::refused(self, reason, code, detail);
        }
        drop(self.slot.take());
    }

    /// What became of a connection that nobody ended: the task that served it was dropped or
    /// panicked.
    fn abandoned(&self) -> (Reason, &'static str) {
        if std::thread::panicking() {
            // Whichever half of its life it was in, the fault is the gateway's.
            (Reason::EngineFailed, "internal error: the task that served it panicked")
        } else if self.registry.stopping() {
            (Reason::Shutdown, "the gateway stopped")
        } else if self.live.is_some() {
            (Reason::EngineFailed, "internal error: the task that served it was dropped")
        } else {
            (Reason::ClientGone, "given up before it was answered")
        }
    }
}

/// A dual-stack listener reports ::ffff:a.b.c.d: the limits and the log know one form of it.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

impl Drop for Account {
    fn drop(&mut self) {
        if !self.ended {
            let (reason, detail) = self.abandoned();
            self.end(reason, detail);
        }
        // Last, so that whoever waits for all to be gone finds everything counted.
        self.registry.leave();
    }
}

/// Reasons for which there is no tunnel and that nobody is told here.
const UNANSWERED: [Reason; 6] =
    [Reason::Silent, Reason::ClientGone, Reason::NotProxied, Reason::TlsFailed, Reason::NotUpgraded, Reason::AnswerCut];

/// Puts every series whose labels are known beforehand at zero, so that a rate over the first event
/// is right and a graph of failures shows zero rather than nothing. `engines` are those that may run.
pub fn register_series(engines: &[&str]) {
    metrics::AUTH_FAILURES.counter(&[]).increment(0);
    for code in ["200", "101"] {
        metrics::CONNECT_REQUESTS.counter(&[code, "established"]).increment(0);
    }
    for reason in UNANSWERED {
        metrics::CONNECT_REQUESTS.counter(&["none", reason.label()]).increment(0);
    }
    for reason in Reason::ALL {
        let code = reason.status().map(|status| status.0.to_string());
        match code {
            Some(code) => metrics::CONNECT_REQUESTS.counter(&[&code, reason.label()]).increment(0),
            None if UNANSWERED.contains(reason) => {}
            None => engines.iter().for_each(|engine| {
                metrics::TUNNELS.counter(&[engine, reason.label()]).increment(0);
            }),
        }
    }
    for engine in engines {
        metrics::TUNNELS_ACTIVE.gauge(&[engine]).increment(0.0);
        for direction in Direction::BOTH {
            metrics::BYTES.counter(&[direction.label(), engine]).increment(0);
        }
    }
    for side in metrics::LimitedSide::ALL {
        for by in metrics::LimitedBy::ALL {
            metrics::TCP_LIMITED.counter(&[side.label(), by.label()]).increment(0);
        }
    }
    for by in metrics::Carrier::ALL {
        metrics::SOCKMAP_SECONDS.counter(&[by.label()]).increment(0);
    }
    // The exporter shows a histogram as soon as it is asked for.
    for metric in [metrics::HANDSHAKE_DURATION, metrics::DIAL_DURATION, metrics::TUNNEL_DURATION] {
        drop(metric.histogram());
    }
}

#[cfg(test)]
mod tests;
