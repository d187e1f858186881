//! End of tunnels at a worker: a clean close, or a reset behind the last bytes.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::active_tunnel::Broken;
use super::worker::Worker;
use crate::reason::Reason;
use crate::relay::poller::Poller;
use crate::relay::{Fault, LAST_BYTES};
use crate::sys::tcp;
use crate::tunnel::Direction;

impl<P: Poller> Worker<P> {
    /// Handles a failed socket: nothing more can be sent to it. Bytes received from it earlier may
    /// still be passed on for a moment; then the other side is reset.
    pub(super) fn break_off(&mut self, id: u64, fault: &Fault, now: Instant) {
        let Some(carried) = self.carried.get_mut(&id) else { return };
        if let Some(Broken { why, last, .. }) = carried.broken {
            if last != fault.source_of {
                // The other side failed as well: no receiver is left.
                self.remove(id, why);
            }
            return;
        }
        let (last, why, until) = (fault.source_of, fault.reason(), now + LAST_BYTES);
        if why == Reason::EngineFailed {
            tracing::warn!(engine = %self.pool.engine, error = %fault.error, "a tunnel is reset: its engine failed");
        }
        carried.broken = Some(Broken { last, why, until, acknowledged: carried.acknowledged(last), excused: false });
        carried.pump.break_source(fault.source_of);
        self.breaking.push(id);
        self.enqueue(id);
    }

    /// Resets the sound side of each broken tunnel whose last bytes have arrived or timed out.
    pub(super) fn finish_breaking(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.breaking) {
            let Some(carried) = self.carried.get_mut(&id) else { continue };
            let acknowledged = carried.broken.map_or(0, |broken| carried.acknowledged(broken.last));
            let Some(broken) = &mut carried.broken else { continue };
            // If the process was suspended, the waiting bytes get their time once more.
            let late = now.saturating_duration_since(broken.until) > LAST_BYTES;
            broken.excused = late && !broken.excused;
            if acknowledged > broken.acknowledged || broken.excused {
                (broken.acknowledged, broken.until) = (acknowledged, now + LAST_BYTES);
            }
            let broken = *broken;
            let drained = carried.pump.is_drained(broken.last);
            let sound = &carried.pump.leg(broken.last.opposite()).socket;
            if now >= broken.until || (drained && tcp::unacknowledged(sound).is_ok_and(|bytes| bytes == 0)) {
                self.remove(id, broken.why);
            } else {
                self.breaking.push(id);
            }
        }
    }

    /// Ends a tunnel: resets both sides unless it closed cleanly.
    pub(super) fn remove(&mut self, id: u64, why: Reason) {
        let Some(mut carried) = self.carried.remove(&id) else { return };
        // A reset clears the TCP counters: this is the last chance to sample activity.
        let _ = carried.pump.sample(self.timeouts);
        carried.reset_unless_clean();
        for direction in Direction::BOTH {
            self.poller.release(&carried.pump.leg(direction).socket, carried.key(direction));
        }
        self.handle().load.fetch_sub(1, Ordering::Relaxed);
        self.ended.push((carried, why));
    }

    /// Closes the sockets of ended tunnels, then reports each end: the sockets are closed before
    /// the report.
    pub(super) fn close_ended(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        self.poller.settle();
        for (mut carried, why) in self.ended.drain(..) {
            let end = carried.end.take();
            drop(carried);
            let _ = end.map(|end| end.send(why));
        }
    }
}
