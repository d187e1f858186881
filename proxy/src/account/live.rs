//! A tunnel while it lives: who, where to, and how much of its bytes is counted and logged already.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::metrics::Counter;
use serde::{Deserialize, Serialize};

use super::{clean, log};
use crate::metrics;
use crate::reason::Reason;
use crate::target::Target;
use crate::tunnel::{Direction, Flow};

/// A tunnel that lives longer than this is logged this often.
pub const INTERIM: Duration = Duration::from_secs(600);

/// A tunnel in the registry.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: u64,
    pub(super) client: SocketAddr,
    pub(super) user: Option<Arc<str>>,
    pub(super) target: Option<Target>,
    pub(super) origin: SocketAddr,
    pub(super) engine: &'static str,
    pub(super) flow: Arc<Flow>,
    published: [AtomicU64; 2],
    bytes: [Counter; 2],
    user_bytes: Option<[Counter; 2]>,
    /// When the last line was written and what it said; `None` once the closing line is.
    logged: Mutex<Option<(Instant, [u64; 2])>>,
}

impl Live {
    pub(super) fn new(
        id: u64,
        client: SocketAddr,
        user: Option<Arc<str>>,
        target: Option<Target>,
        origin: SocketAddr,
        engine: &'static str,
        flow: Arc<Flow>,
    ) -> Self {
        let bytes = Direction::BOTH.map(|way| metrics::BYTES.counter(&[way.label(), engine]));
        let user_bytes =
            user.as_deref().map(|user| Direction::BOTH.map(|way| metrics::USER_BYTES.counter(&[user, way.label()])));
        let logged = Mutex::new(Some((flow.started(), [0; 2])));
        Self {
            id,
            client,
            user,
            target,
            origin,
            engine,
            flow,
            published: Default::default(),
            bytes,
            user_bytes,
            logged,
        }
    }

    /// Bytes moved so far, by [`Direction::index`].
    pub(super) fn moved(&self) -> [u64; 2] {
        Direction::BOTH.map(|way| self.flow.moved(way))
    }

    /// Brings the byte counters up to date.
    pub(super) fn publish(&self) {
        for way in Direction::BOTH {
            self.publish_up_to(way, self.flow.moved(way));
        }
    }

    /// Publishes what of `moved` is not yet. Several threads may: a maximum, unlike a swap, is not set
    /// back by the one that read the flow first and comes last, so that no byte is counted again.
    pub(super) fn publish_up_to(&self, way: Direction, moved: u64) {
        let before = self.published[way.index()].fetch_max(moved, Ordering::Relaxed);
        let more = moved.saturating_sub(before);
        if more > 0 {
            self.bytes[way.index()].increment(more);
            if let Some(user_bytes) = &self.user_bytes {
                user_bytes[way.index()].increment(more);
            }
        }
    }

    /// Counts and logs the end.
    pub(super) fn close(&self, reason: Reason) {
        self.publish();
        metrics::TUNNELS_ACTIVE.gauge(&[self.engine]).decrement(1.0);
        metrics::TUNNELS.counter(&[self.engine, reason.label()]).increment(1);
        metrics::TUNNEL_DURATION.histogram().record(self.flow.started().elapsed());
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        *logged = None;
        log::closed(self, reason, Instant::now());
    }

    /// Writes a line if the last one is [`INTERIM`] ago and the tunnel still lives.
    pub(super) fn interim(&self, now: Instant) {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, before)) = *logged
            && now.saturating_duration_since(at) >= INTERIM
        {
            let moved = self.moved();
            log::open(self, [moved[0] - before[0], moved[1] - before[1]], moved, now);
            *logged = Some((now, moved));
        }
    }

    /// The target as a log, a page and a table show it.
    pub(super) fn target_text(&self) -> String {
        self.target.as_ref().map(|target| clean(&target.to_string()).into_owned()).unwrap_or_default()
    }

    pub(super) fn view(&self) -> TunnelView {
        let now = Instant::now();
        let [bytes_to_origin, bytes_to_client] = self.moved();
        TunnelView {
            id: self.id,
            client: self.client,
            user: self.user.as_deref().map(|user| clean(user).into_owned()),
            target: self.target_text(),
            origin: self.origin,
            engine: self.engine.to_owned(),
            age_seconds: seconds(now.saturating_duration_since(self.flow.started())),
            quiet_seconds: seconds(now.saturating_duration_since(self.flow.last_moved())),
            bytes_to_origin,
            bytes_to_client,
        }
    }
}

/// Seconds to three decimals.
pub(super) fn seconds(time: Duration) -> f64 {
    // Exact up to 285,000 years.
    time.as_millis() as f64 / 1_000.0
}

/// A live tunnel as the admin address shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelView {
    /// What `sluicegate kill` takes.
    pub id: u64,
    /// The client's address.
    pub client: SocketAddr,
    /// The user, unless the gateway runs without authentication.
    pub user: Option<String>,
    /// What the client asked for.
    pub target: String,
    /// The address that this led to.
    pub origin: SocketAddr,
    /// The engine that moves the bytes.
    pub engine: String,
    /// Seconds since the 200.
    pub age_seconds: f64,
    /// Seconds since a byte last moved, or since the 200.
    pub quiet_seconds: f64,
    /// Bytes from the client to the origin.
    pub bytes_to_origin: u64,
    /// Bytes from the origin to the client.
    pub bytes_to_client: u64,
}
