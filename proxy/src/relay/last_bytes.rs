//! Delivery of the bytes that were received before a socket failed.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::sys::tcp;
use crate::tunnel::{Direction, Flow};

/// Time without progress after which the sound side of a broken tunnel is reset, although bytes
/// received before the failure are still on their way to it. A reader that stops is not worth a
/// longer wait, and a client that retries waits for the reset.
pub(super) const LAST_BYTES: Duration = Duration::from_secs(1);

/// Interval at which a broken tunnel is checked for the arrival of its last bytes.
pub(super) const LAST_BYTES_POLL: Duration = Duration::from_millis(2);

/// Bytes of `direction` that its destination has acknowledged.
pub(super) fn acknowledged(flow: &Flow, direction: Direction, destination: &impl AsFd) -> u64 {
    flow.moved(direction).saturating_sub(tcp::unacknowledged(destination).unwrap_or(0) as u64)
}
