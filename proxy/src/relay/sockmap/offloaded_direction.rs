//! One direction that the kernel redirects.

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Instant;

use super::catch_up::{CatchUp, SHORTEST_PAUSE};
use super::socket_pair::{SocketPair, StreamPositions};
use super::spill::SpillBudget;
use crate::metrics::{self, Carrier};
use crate::relay::offload::SourceState;
use crate::relay::step::Step;
use crate::sys::bpf::{Counts, Directions};
use crate::sys::socket::{bound_receive_buffer, set_send_buffer};
use crate::sys::tcp;
use crate::tunnel::Flow;

/// Size of a send buffer in multiples of the backlog of bytes under way: the kernel counts the
/// memory of what it holds, which is more than its bytes, and a full buffer costs the kernel's
/// worker a pause of a clock tick (`net/core/skmsg.c`, `sk_psock_backlog`).
const BUFFERS: u64 = 4;

/// Size of the send buffer for a backlog, in bytes.
pub(in crate::relay) fn send_buffer(backlog: u64) -> usize {
    usize::try_from(backlog.saturating_mul(BUFFERS)).unwrap_or(usize::MAX)
}

/// One direction of an offloaded tunnel.
#[derive(Debug)]
pub(super) struct OffloadedDirection {
    point: StreamPositions,
    catch_up: CatchUp,
    /// Carrier of the bytes at the last step, and the time of that.
    carrier: Carrier,
    seen: Instant,
}

impl OffloadedDirection {
    /// Reads where both streams are, and gives the sockets the buffers that redirection needs.
    pub(super) fn prepare(
        pair: &SocketPair<'_>,
        directions: &Directions,
        backlog: u64,
        budget: &Arc<SpillBudget>,
    ) -> io::Result<Self> {
        let point = StreamPositions::now(pair)?;
        set_send_buffer(pair.destination, send_buffer(backlog))?;
        // Bytes left with the source are held for a slow reader, as are those under way.
        bound_receive_buffer(pair.source, usize::try_from(backlog).unwrap_or(usize::MAX))?;
        directions.reset(pair.slot, backlog, point.acknowledged);
        let catch_up = CatchUp::new(point, backlog, pair.source, budget)?;
        Ok(Self { point, catch_up, carrier: Carrier::Kernel, seen: Instant::now() })
    }

    pub(super) fn step(
        &mut self,
        pair: &SocketPair<'_>,
        directions: &Directions,
        flow: &Flow,
        source: SourceState<'_>,
    ) -> Step {
        let counts = directions.counts(pair.slot);
        self.count_time(&counts, source.now);
        if directions.is_torn(pair.slot) {
            let torn = io::Error::other("the stream has a gap, or a repeated segment that could not be trimmed");
            return Step::Failed(pair.fault_of_source(torn));
        }
        if self.catch_up.is_needed(&counts) {
            return self.catch_up.run(pair, directions, flow, source).unwrap_or_else(Step::Failed);
        }
        if source.read_closed && !source.broken {
            return self.pass_end(pair, directions);
        }
        self.catch_up.reset_pause();
        Step::Blocked
    }

    /// Tests whether the destination's send buffer has had all bytes. Bytes left with a source that
    /// broke are lost with it.
    pub(super) fn has_sent_all(&self, pair: &SocketPair<'_>, directions: &Directions) -> bool {
        let given = self.catch_up.given(&directions.counts(pair.slot));
        self.point.has_all(pair.destination, given)
    }

    /// Counts the time since the last step for the carrier that the direction had.
    fn count_time(&mut self, counts: &Counts, now: Instant) {
        let since = std::mem::replace(&mut self.seen, now);
        metrics::sockmap_time(self.carrier, now.saturating_duration_since(since));
        let carrier = if self.catch_up.is_behind(counts) { Carrier::Userspace } else { Carrier::Kernel };
        if (self.carrier, carrier) == (Carrier::Kernel, Carrier::Userspace) {
            metrics::ENGINE_FALLBACKS.counter(&["sockmap", "copy", "backlog"]).increment(1);
        }
        self.carrier = carrier;
    }

    /// Passes the end on once all bytes before it are in the destination's send buffer.
    fn pass_end(&mut self, pair: &SocketPair<'_>, directions: &Directions) -> Step {
        let source = match tcp::progress(pair.source) {
            Ok(source) => source,
            Err(error) => return Step::Failed(pair.fault_of_source(error)),
        };
        // The counts are read after the progress: the kernel reports the end before the program has
        // seen the bytes that came with it, but holds the socket, which reading its progress waits
        // for, until it has (`net/ipv4/tcp_input.c`, `tcp_ofo_queue` within `tcp_data_queue`).
        let counts = directions.counts(pair.slot);
        if self.catch_up.is_behind(&counts) {
            return Step::RetryAfter(SHORTEST_PAUSE);
        }
        // The FIN has a sequence number of its own.
        let has_seen_all = self.point.received_since(source.received) == counts.redirected + counts.passed + 1;
        if !has_seen_all && source.closed {
            // A reset. The kernel's worker that writes to this socket may have taken the error.
            return Step::Failed(pair.fault_of_source(ErrorKind::ConnectionReset));
        }
        if !has_seen_all {
            return Step::RetryAfter(SHORTEST_PAUSE);
        }
        if !self.point.has_all(pair.destination, self.catch_up.given(&counts)) {
            return Step::RetryAfter(self.catch_up.pause_without_progress());
        }
        match pair.destination.shutdown(Shutdown::Write) {
            Ok(()) => Step::Finished,
            Err(error) => Step::Failed(pair.fault_of_destination(error)),
        }
    }
}
