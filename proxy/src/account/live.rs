//! A live tunnel: client, target, and the bytes already counted and logged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::meters::{OfEngine, OfUser};
use super::sanitize::sanitize;
use crate::rate::Rate;
use crate::target::Target;
use crate::tunnel::{Direction, Flow};

/// A tunnel in the registry.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: u64,
    pub(super) client: SocketAddr,
    user: Option<Arc<OfUser>>,
    pub(super) request: RequestInfo,
    pub(super) origin: SocketAddr,
    pub(super) engine: Arc<OfEngine>,
    pub(super) flow: Arc<Flow>,
    published: [AtomicU64; 2],
    /// Time and byte counts of the last log line; `None` once the closing line is written.
    logged: Mutex<Option<(Instant, [u64; 2])>>,
}

/// The client's request, and its transport.
#[derive(Clone, Debug)]
pub(super) struct RequestInfo {
    /// When its connection was accepted.
    pub(super) accepted: Instant,
    /// TLS version of the client's connection.
    pub(super) tls: Option<&'static str>,
    pub(super) target: Option<Target>,
    /// Protocols the client asked the origin to switch to.
    pub(super) upgrade: Option<Arc<str>>,
    /// Parent proxy of the tunnel.
    pub(super) parent: Option<Arc<str>>,
}

impl RequestInfo {
    /// Creates the description of a connection whose request is not read yet.
    pub(super) const fn accepted(accepted: Instant) -> Self {
        Self { accepted, tls: None, target: None, upgrade: None, parent: None }
    }
}

impl Live {
    pub(super) fn new(
        id: u64,
        client: SocketAddr,
        user: Option<Arc<OfUser>>,
        request: RequestInfo,
        origin: SocketAddr,
        engine: Arc<OfEngine>,
        flow: Arc<Flow>,
    ) -> Self {
        let logged = Mutex::new(Some((flow.started(), [0; 2])));
        Self { id, client, user, request, origin, engine, flow, published: Default::default(), logged }
    }

    /// Returns the user and their metrics.
    pub(super) fn user(&self) -> Option<&OfUser> {
        self.user.as_deref()
    }

    /// Returns the user's name in printable form.
    pub(super) fn user_text(&self) -> Option<String> {
        self.user().map(|user| sanitize(&user.name).into_owned())
    }

    /// Returns the label of the tunnel's engine.
    pub(super) fn engine(&self) -> &'static str {
        self.engine.label
    }

    /// Bytes moved so far, by [`Direction::index`].
    pub(super) fn moved(&self) -> [u64; 2] {
        Direction::BOTH.map(|way| self.flow.moved(way))
    }

    /// Time since a peer last sent or acknowledged a byte.
    pub(super) fn quiet(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.flow.last_activity())
    }

    /// Brings the byte counters up to date.
    pub(super) fn publish(&self) {
        for way in Direction::BOTH {
            self.publish_up_to(way, self.flow.moved(way));
        }
    }

    /// Publishes the part of `moved` not yet published. Several threads may call it: a maximum,
    /// unlike a swap, is not set back by a thread with an older reading, so no byte is counted
    /// twice.
    pub(super) fn publish_up_to(&self, way: Direction, moved: u64) {
        let before = self.published[way.index()].fetch_max(moved, Ordering::Relaxed);
        let more = moved.saturating_sub(before);
        if more > 0 {
            self.engine.bytes[way.index()].increment(more);
            if let Some(user) = &self.user {
                user.bytes[way.index()].increment(more);
            }
        }
    }

    /// Removes the tunnel from the open ones, with all its bytes; false if it was removed before.
    pub(super) fn leave(&self) -> bool {
        let is_open = self.logged().take().is_some();
        if is_open {
            self.publish();
            self.engine.active.decrement(1.0);
        }
        is_open
    }

    /// Locks the time and byte counts of the last log line; `None` once the closing line is
    /// written.
    pub(super) fn logged(&self) -> MutexGuard<'_, Option<(Instant, [u64; 2])>> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the target in printable form.
    pub(super) fn target_text(&self) -> String {
        self.request.target.as_ref().map(|target| sanitize(&target.to_string()).into_owned()).unwrap_or_default()
    }

    /// Returns the requested protocols in printable form.
    pub(super) fn upgrade(&self) -> Option<String> {
        self.request.upgrade.as_ref().map(|protocols| sanitize(protocols).into_owned())
    }

    /// Returns the parent proxy, as named in the configuration.
    pub(super) fn parent(&self) -> Option<&str> {
        self.request.parent.as_deref()
    }

    /// Returns the TLS version of the client's connection.
    pub(super) const fn tls(&self) -> Option<&'static str> {
        self.request.tls
    }

    pub(super) fn view(&self) -> TunnelView {
        let now = Instant::now();
        let [bytes_to_origin, bytes_to_client] = self.moved();
        TunnelView {
            id: self.id,
            client: self.client,
            user: self.user_text(),
            target: self.target_text(),
            tls: self.tls().map(str::to_owned),
            upgrade: self.upgrade(),
            parent: self.parent().map(str::to_owned),
            origin: self.origin,
            engine: self.engine().to_owned(),
            rate: self.flow.rate(),
            age_seconds: seconds(now.saturating_duration_since(self.flow.started())),
            quiet_seconds: seconds(self.quiet(now)),
            bytes_to_origin,
            bytes_to_client,
        }
    }
}

/// Converts to seconds with six decimals: less than a millisecond is not shown as 0.
pub(super) fn seconds(time: Duration) -> f64 {
    // Exact up to 285 years.
    time.as_micros() as f64 / 1_000_000.0
}

/// A live tunnel as the admin address shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelView {
    /// Number of the tunnel, for `sluicegate kill`.
    pub id: u64,
    /// The client's address.
    pub client: SocketAddr,
    /// The user, unless the gateway runs without authentication.
    pub user: Option<String>,
    /// Requested target.
    pub target: String,
    /// TLS version between client and gateway; absent without TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
    /// Protocols requested with `Upgrade`; absent for a CONNECT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<String>,
    /// Parent proxy of the tunnel; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Address the gateway connected to: the parent's if there is one.
    pub origin: SocketAddr,
    /// Engine that moves the bytes; `exchange` until the origin has answered an Upgrade with 101.
    pub engine: String,
    /// Rate limit in bytes per second and direction; absent if unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Seconds since the 200.
    pub age_seconds: f64,
    /// Seconds since a peer last sent or acknowledged a byte, whichever part of the host moved it,
    /// or since the 200.
    pub quiet_seconds: f64,
    /// Bytes from the client to the origin.
    pub bytes_to_origin: u64,
    /// Bytes from the origin to the client.
    pub bytes_to_client: u64,
}
