//! Last bytes of a broken tunnel.

use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep};

use super::Pair;
use crate::relay::{Fault, LAST_BYTES, LAST_BYTES_POLL, acknowledged};
use crate::sys::tcp;
use crate::tunnel::Direction;

impl Pair {
    /// Lets bytes received before a failure reach the sound side, for a moment; dropping the
    /// sockets then resets it.
    pub(super) async fn pass_last(&self, direction: Direction, passing: impl Future<Output = Result<(), Fault>>) {
        let (_, sound) = self.ends(direction);
        let arrived = async {
            if !self.passed[direction.index()].load(Ordering::Relaxed) {
                let _ = passing.await;
            }
            while tcp::unacknowledged(sound).is_ok_and(|bytes| bytes > 0) {
                sleep(LAST_BYTES_POLL).await;
            }
        };
        let standstill = async {
            let mut before = acknowledged(&self.flow, direction, sound);
            let mut excused = false;
            loop {
                let since = Instant::now();
                sleep(LAST_BYTES).await;
                // If the process was suspended, the waiting bytes get their time once more.
                excused = since.elapsed() > LAST_BYTES * 2 && !excused;
                let now = acknowledged(&self.flow, direction, sound);
                if std::mem::replace(&mut before, now) == now && !excused {
                    return;
                }
            }
        };
        tokio::select! { () = arrived => {} () = standstill => {} }
    }

    /// Tests if the source of a direction, ending without notice, had received all of the other
    /// direction by then, including the end that came `first`. Such a peer left a finished tunnel
    /// and was not cut off.
    pub(super) fn is_answered(&self, direction: Direction, first: Direction) -> bool {
        let (left, _) = self.ends(direction);
        let other = direction.opposite();
        first == other
            && self.passed[other.index()].load(Ordering::Relaxed)
            && !self.broken[other.index()].load(Ordering::Relaxed)
            && tcp::is_delivered(left)
    }
}
