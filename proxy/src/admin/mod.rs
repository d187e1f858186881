//! The admin address: metrics, health, the live tunnels and a status page, over plain HTTP/1.
//!
//! | path | methods | answer |
//! |---|---|---|
//! | `/` | GET | the status page |
//! | `/metrics` | GET | Prometheus text |
//! | `/healthz` | GET | 200 while the process lives |
//! | `/readyz` | GET | 200, or 503 and why no new tunnel is taken |
//! | `/api/tunnels` | GET | every live tunnel, as a JSON array of [`crate::account::TunnelView`] |
//! | `/api/tunnels/ID` | GET, DELETE | one of them; DELETE ends it and answers 204 |
//! | `/api/rates` | GET, PATCH | how fast tunnels may be, as a [`crate::account::RatesView`]; PATCH takes a [`crate::account::Change`] |
//!
//! One request a connection: scrapes are seconds apart, so keeping connections alive would only mean
//! more to bound.

mod answer;
pub mod client;
mod guard;
mod recorder;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::account::Registry;

pub use recorder::{build, recorder};

/// Connections served at once; the next ones wait in the listener's backlog.
const CONNECTIONS: usize = 64;
const PATIENCE: Patience = Patience { head: Duration::from_secs(5), whole: Duration::from_secs(30) };
/// The most a request head may hold; hyper answers 431 past it.
const HEAD_BYTES: usize = 16 * 1024;
/// How often the recorder moves histogram samples into buckets, so that none pile up between scrapes.
const UPKEEP: Duration = Duration::from_secs(5);
/// The wait after an accept that failed: the cause, such as too many open files, is not over at once.
const BACK_OFF: Duration = Duration::from_millis(100);

/// How long a connection may take.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Until its request head is complete.
    head: Duration,
    /// Until it is over, however slowly its peer reads.
    whole: Duration,
}

/// Whether the gateway takes new tunnels.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

/// A state of [`Readiness`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ready {
    /// Not listening yet.
    Starting = 0,
    /// Taking tunnels.
    Ready = 1,
    /// Taking no more until some of those that are open end: `--max-tunnels`.
    Full = 3,
    /// Taking no more, and waiting for those that are open.
    Draining = 2,
}

impl Readiness {
    /// Enters a state.
    pub fn set(&self, state: Ready) {
        self.0.store(state as u8, Ordering::Release);
    }

    /// The state.
    #[must_use]
    pub fn get(&self) -> Ready {
        match self.0.load(Ordering::Acquire) {
            0 => Ready::Starting,
            1 => Ready::Ready,
            _ => Ready::Draining,
        }
    }
}

/// The admin server.
#[derive(Clone, Debug)]
pub struct Admin {
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    metrics: PrometheusHandle,
}

impl Admin {
    /// A server that shows `registry` and `readiness`, and the metrics of [`recorder`].
    #[must_use]
    pub const fn new(registry: Arc<Registry>, readiness: Arc<Readiness>, metrics: PrometheusHandle) -> Self {
        Self { registry, readiness, metrics }
    }

    /// Serves `listener`, and keeps the recorder up, until the future is dropped.
    pub async fn run(self, listener: TcpListener) {
        self.run_with(listener, PATIENCE).await;
    }

    async fn run_with(self, listener: TcpListener, patience: Patience) {
        let mut connections = JoinSet::new();
        let mut upkeep = interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = upkeep.tick() => self.metrics.run_upkeep(),
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(self.clone().serve(stream, patience));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the admin address cannot accept");
                        sleep(BACK_OFF).await;
                    }
                },
            }
        }
    }

    /// Serves one connection. What goes wrong on it is its peer's affair.
    async fn serve(self, stream: TcpStream, patience: Patience) {
        let service = service_fn(|request| async { Ok::<_, std::convert::Infallible>(self.respond(request).await) });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.head)
            .max_buf_size(HEAD_BYTES)
            .keep_alive(false)
            .half_close(true)
            .serve_connection(TokioIo::new(stream), service);
        let ended = timeout(patience.whole, connection).await;
        tracing::trace!(?ended, "an admin connection ended");
    }
}

#[cfg(test)]
mod tests;
