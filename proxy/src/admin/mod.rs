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

mod access;
mod answer;
pub mod client;
mod connections;
mod control;
mod readiness;
mod recorder;
mod routes;
mod server;
mod web_guard;

pub use access::Access;
pub use connections::{Listener, MAX_CONNECTIONS};
pub use control::{BindError, ControlSocket, default_path};
pub use readiness::{DrainView, Readiness, Ready};
pub use recorder::{build, recorder};
pub use server::Admin;

#[cfg(test)]
mod tests;
