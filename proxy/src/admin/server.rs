//! The server of the three listeners.

use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::readiness::Readiness;
use crate::account::Registry;

/// Interval for moving histogram samples into buckets, so none pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// Content of the listeners; each is served in tasks of its own ([`Admin::run`]).
#[derive(Clone, Debug)]
pub struct Admin {
    pub(super) registry: Arc<Registry>,
    pub(super) readiness: Arc<Readiness>,
    pub(super) metrics: PrometheusHandle,
}

impl Admin {
    /// Makes a server for `registry`, `readiness` and the metrics of [`super::recorder`].
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
