//! One connection from accept to its end, accounted exactly once: one log line, one increment of
//! each counter, one slot given back, however it ends.
//!
//! [`Account`] is a drop-guard. A handshake records its progress in it; [`Account::refused`] or
//! [`Account::closed`] ends it with a reason, and dropping it (a cancelled task, a panic) ends it
//! too, so no path through the code can forget to count.

mod dials;
mod ending;
mod exchange;
mod handshakes;
mod limits;
mod live;
mod log;
mod meters;
mod progress;
mod rates;
mod registry;
mod sanitize;
mod series;

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use tokio::task::AbortHandle;

use crate::metrics;
use crate::reason::{Reason, Refusal};
use crate::target::Target;
use crate::tunnel::Flow;

pub use handshakes::Stage;
pub use limits::Limits;
pub use live::{EXCHANGE, INTERIM, TunnelView};
pub use rates::{Change, Limit, Rates, RatesView, Unknown};
pub use registry::{Connection, Registry};
pub use sanitize::sanitize;
pub use series::register_series;

use dials::DialPermit;
use handshakes::Absence;
use limits::Slot;
use live::{Asked, Live};
use log::Refused;

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
    stage: Option<Stage>,
    /// Ends the task that serves the connection, once it no longer counts as a handshake.
    task: Option<AbortHandle>,
    /// It had to make room for another connection.
    evicted: bool,
    permit: Option<DialPermit>,
    slot: Option<Slot>,
    /// The exchange before a 101, while it lasts.
    exchange: Option<Arc<Live>>,
    live: Option<Arc<Live>>,
    ended: bool,
}

impl Account {
    fn new(registry: Arc<Registry>, id: u64, client: SocketAddr) -> Self {
        let stage = Some(Stage::default());
        registry.handshakes.moved(None, stage);
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
            stage,
            task: None,
            evicted: false,
            permit: None,
            slot: None,
            exchange: None,
            live: None,
            ended: false,
        }
    }

    /// Returns the number of the connection, used by the log and `sluicegate kill`.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
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

    /// Records that the client sent at least a byte. A client that leaves without any was a port
    /// check, and is logged at debug level only.
    pub const fn received_bytes(&mut self) {
        self.heard = true;
    }

    /// Sets the user: a configured one, or `None` without authentication. The name becomes a metric
    /// label with [`Account::established`], so it must not be one made up by a stranger.
    pub fn set_user(&mut self, user: Option<Arc<str>>) {
        self.user = user;
    }

    /// Sets the TLS version of the client's connection.
    pub const fn set_tls(&mut self, version: &'static str) {
        self.tls = Some(version);
    }

    /// Where it wants to go.
    pub fn set_target(&mut self, target: &Target) {
        self.target = Some(target.clone());
    }

    /// Sets the protocols requested with `Upgrade`; without them the request is a CONNECT.
    pub fn set_upgrade(&mut self, protocols: &str) {
        self.upgrade = Some(protocols.into());
    }

    /// Sets the parent proxy of the tunnel, if any.
    pub fn set_parent(&mut self, parent: Option<Arc<str>>) {
        self.parent = parent;
    }

    /// Applies the rate to a tunnel without an engine yet: an engine may start differently for an
    /// unlimited tunnel.
    pub fn limit_rate(&self, flow: &Flow) {
        self.registry.set_first_rate(self.id, self.user.as_ref(), self.exchange.is_some(), flow);
    }

    /// The tunnel stands: from here on it is in the registry under [`Account::id`], and its bytes
    /// are
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
            accepted: self.accepted,
            tls: self.tls,
            target: self.target.take(),
            upgrade: self.upgrade.take(),
            parent: self.parent.take(),
        };
        let live = Arc::new(Live::new(self.id, self.client, user, asked, origin, engine, flow));
        // In this order: a reader of the log line finds the tunnel listed.
        self.register(&live);
        // A tunnel has no task: the handle would keep the task's memory.
        self.task = None;
        self.permit = None;
        self.registry.handshakes.moved(self.stage.take(), None);
        log::established(&live);
        self.live = Some(live);
    }

    /// Returns the bytes moved by the tunnel, once it is established.
    #[must_use]
    pub fn flow(&self) -> Option<&Arc<Flow>> {
        self.live.as_ref().map(|live| &live.flow)
    }

    /// Ends a failed handshake. (For an established tunnel, as when the 200 could not be written,
    /// it ends the tunnel.)
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
        // Before the tunnel is logged and unlisted: an observer of either finds the slot free.
        self.permit = None;
        drop(self.slot.take());
        if let Some(live) = &self.live {
            live.close(reason);
            self.registry.remove(self.id);
        } else if let Some(exchange) = self.exchange.take() {
            exchange.refuse(reason, detail);
            self.registry.remove(self.id);
        } else {
            log::refused(&Refused {
                id: self.id,
                client: self.client,
                user: self.user.as_deref(),
                target: self.target.as_ref(),
                tls: self.tls,
                upgrade: self.upgrade.as_deref(),
                parent: self.parent.as_deref(),
                heard: self.heard,
                moved: None,
                accepted: self.accepted,
                reason,
                detail,
            });
        }
        if self.live.is_none() && !self.evicted {
            self.enter(Stage::Answer);
            // It takes room again until its client has read the answer.
            if let Some(task) = self.task.take() {
                let Connection { id, source } = self.connection();
                self.registry.handshakes.enter(id, source, task);
            }
        }
    }

    /// Returns the end of a connection dropped without a reason: its task was dropped or panicked.
    fn abandoned(&self) -> (Reason, Cow<'static, str>) {
        if std::thread::panicking() {
            // Whichever half of its life it was in, the fault is the gateway's.
            (Reason::EngineFailed, "internal error: the task that served it panicked".into())
        } else if self.evicted {
            (Reason::HandshakeLimit, self.made_room().into())
        } else if self.registry.stopping() {
            (Reason::Shutdown, "the gateway stopped".into())
        } else if self.live.is_some() {
            (Reason::EngineFailed, "internal error: the task that served it was dropped".into())
        } else {
            (Reason::ClientGone, "abandoned before it was answered".into())
        }
    }
}

/// A dual-stack listener reports ::ffff:a.b.c.d: the limits and the log know one form of it.
fn canonical(client: SocketAddr) -> SocketAddr {
    SocketAddr::new(client.ip().to_canonical(), client.port())
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.live.is_none() {
            let left = self.registry.handshakes.leave(self.id);
            self.evicted |= left.is_err_and(|absence| absence == Absence::Evicted);
        }
        // No client is left to read an answer.
        self.task = None;
        if !self.ended {
            let (reason, detail) = self.abandoned();
            self.end(reason, &detail);
        }
        self.registry.handshakes.moved(self.stage.take(), None);
        // Last, so that a caller waiting for all connections to leave finds everything counted.
        self.registry.leave();
    }
}

#[cfg(test)]
mod tests;
