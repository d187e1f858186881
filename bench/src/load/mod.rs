//! Measurements, one function each, over any [`Route`](crate::socket::Route).

mod bulk;
mod connects;
mod idle;
mod ping;
mod verify;

pub use bulk::{Bulk, Load, bulk, pause};
pub use connects::{Connects, connects, short, touch};
pub use idle::{Idle, idle, open};
pub use ping::{PingBesideLoad, beside, paced, ping};
pub use verify::verify;
