//! Metrics, health, the live tunnels, rates and a status page, over plain HTTP/1.
//!
//! There are up to three listeners, and [`routes`] is the one table of their paths:
//!
//! | listener | option | serves |
//! |---|---|---|
//! | [`Access::Metrics`] | `--metrics ADDR:PORT` | `/metrics`, `/healthz` and `/readyz` alone |
//! | [`Access::Read`] | `--admin ADDR:PORT` | those, the status page and all reads of the API |
//! | [`Access::Control`] | `--control PATH` | all, and changes, for the gateway's user and root |
//!
//! | path | methods | answer |
//! |---|---|---|
//! | `/` | GET | the status page |
//! | `/metrics` | GET | Prometheus text, its series in a fixed order |
//! | `/healthz` | GET | 200 while the process lives |
//! | `/readyz` | GET | 200, or 503 and the reason for taking no new tunnel |
//! | `/api/tunnels` | GET | every live tunnel, as a JSON array of [`TunnelView`] |
//! | `/api/tunnels/ID` | GET, DELETE | one of them; DELETE ends it and answers 204 |
//! | `/api/rates` | GET, PATCH | rates, as a [`RatesView`]; PATCH takes a [`Change`] |
//! | `/api/drain` | GET, POST | drain, as a [`DrainView`]; POST starts one, as SIGTERM does |
//!
//! One request a connection: scrapes are seconds apart, so keeping connections alive would only
//! mean more to bound.
//!
//! [`TunnelView`]: crate::account::TunnelView
//! [`RatesView`]: crate::account::RatesView
//! [`Change`]: crate::account::Change

mod answer;
pub mod client;
mod connections;
mod control;
mod guard;
mod readiness;
mod recorder;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use crate::account::Registry;

pub use connections::{Listener, MAX_CONNECTIONS};
pub use control::{BindError, ControlSocket, default_path};
pub use readiness::{Readiness, Ready};
pub use recorder::{build, recorder};

/// Interval for moving histogram samples into buckets, so none pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Access of a listener's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Metrics and health: `--metrics`.
    Metrics,
    /// All reads: `--admin`.
    Read,
    /// Everything: `--control`.
    Control,
}

impl Access {
    /// Name of the listener, for messages.
    #[must_use]
    pub const fn listener(self) -> &'static str {
        match self {
            Self::Metrics => "metrics address",
            Self::Read => "admin address",
            Self::Control => "control socket",
        }
    }
}

/// Progress of a drain: the content of `/api/drain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// A drain has begun.
    pub draining: bool,
    /// The listeners for clients are open.
    pub accepting: bool,
    /// Live tunnels.
    pub tunnels: usize,
    /// Connections without a tunnel.
    pub handshakes: usize,
}

/// Content of the listeners; each is served in tasks of its own ([`Admin::run`]).
#[derive(Clone, Debug)]
pub struct Admin {
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    metrics: PrometheusHandle,
}

impl Admin {
    /// Makes a server for `registry`, `readiness` and the metrics of [`recorder`].
    #[must_use]
    pub const fn new(registry: Arc<Registry>, readiness: Arc<Readiness>, metrics: PrometheusHandle) -> Self {
        Self { registry, readiness, metrics }
    }

    /// Keeps the recorder up, until the future is dropped.
    pub async fn upkeep(self) {
        let mut ticks = interval(UPKEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.metrics.run_upkeep();
        }
    }
}

#[cfg(test)]
mod tests;
