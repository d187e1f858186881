//! The rate limit of one socket, enforced by the kernel's pacing.

use std::os::fd::AsFd;
use std::time::Duration;

use crate::rate::Rate;
use crate::sys::pacing;
use crate::sys::socket::set_send_buffer;

/// Time that the send buffer of a paced socket has to last while the thread that fills it waits for
/// a core: the kernel does not catch up on bytes that were not there in time.
const RATE_AHEAD: Duration = Duration::from_millis(20);

/// Send buffer above which the size is set; up to here autotuning reaches it.
const MIN_SET_BUFFER_BYTES: usize = 4 << 20;

/// Maximum of the size that is set.
const MAX_SET_BUFFER_BYTES: usize = 64 << 20;

/// Limits the sending on a socket to a rate, or lifts the limit.
pub(super) fn set_rate(socket: &impl AsFd, rate: Option<Rate>) {
    // The kernel refuses only what is no socket.
    let _ = pacing::set_max_pacing_rate(socket, rate.map(Rate::bytes));
    let ahead = rate.map_or(0, |rate| u128::from(rate.bytes()) * RATE_AHEAD.as_millis() / 1_000);
    if let Some(ahead) = usize::try_from(ahead).ok().filter(|ahead| *ahead > MIN_SET_BUFFER_BYTES) {
        let _ = set_send_buffer(socket, ahead.min(MAX_SET_BUFFER_BYTES));
    }
}
