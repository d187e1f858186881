//! The race of whatever a client waits for against its end.

use std::sync::atomic::AtomicBool;

use crate::reason::{Reason, Refusal};
use crate::sys::stream::{Departure, SplitStream};

/// Runs `work` unless the client leaves first: `work` is dropped then. `work` is polled first, so
/// it may read from the client as well, and set `early` once it has bytes of the client's tunnel:
/// from then on the end of the client's stream is not its departure.
///
/// # Errors
/// Errors of `work`, or [`Reason::ClientGone`].
pub async fn cancel_if_client_leaves<T>(
    client: SplitStream<'_>,
    early: &AtomicBool,
    work: impl Future<Output = Result<T, Refusal>>,
) -> Result<T, Refusal> {
    tokio::select! {
        biased;
        done = work => done,
        departure = client.departure(early) => {
            let how = match departure {
                Departure::Reset => "reset its connection",
                Departure::Closed => "closed its connection",
            };
            Err(Refusal::new(Reason::ClientGone, format!("client {how} before it was answered")))
        }
    }
}
