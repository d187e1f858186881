//! One connection from accept to its end, accounted exactly once: one log line, one increment of
//! each counter, one slot given back, however it ends.
//!
//! [`Account`] is a drop-guard. A handshake records its progress in it; [`Account::refused`] or
//! [`Account::closed`] ends it with a reason, and dropping it (a cancelled task, a panic) ends it
//! too, so no path through the code can forget to count.

mod access_log;
mod dials;
mod ending;
mod handshakes;
mod lifecycle;
mod limits;
mod live;
mod meters;
mod rates;
mod registry;
mod sanitize;
mod series;

pub use access_log::INTERIM;
pub use handshakes::Stage;
pub use lifecycle::Account;
pub use limits::Limits;
pub use live::TunnelView;
pub use meters::EXCHANGE;
pub use rates::{Change, Limit, Rates, RatesView, Unknown};
pub use registry::{Connection, Registry};
pub use sanitize::sanitize;
pub use series::register_series;

#[cfg(test)]
mod tests;
