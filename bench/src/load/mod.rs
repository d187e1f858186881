//! What is measured, one function each, over any [`Way`](crate::socket::Way).

mod bulk;
mod connects;
mod idle;
mod ping;
mod verify;

pub use bulk::{Bulk, bulk};
pub use connects::{Connects, connects};
pub use idle::{Idle, idle};
pub use ping::ping;
pub use verify::verify;
