//! One redirected direction: its position in both streams, the work of userspace while its
//! destination does not keep up ([`behind`]), and its end.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::State;
use crate::metrics::{self, Carrier};
use crate::relay::Fault;
use crate::relay::pump::Step;
use crate::sys::bpf::{Counts, Directions};
use crate::sys::socket::{bound_receive_buffer, receive_memory, set_send_buffer};
use crate::sys::tcp;
use crate::tunnel::{Direction, Flow};

mod behind;
mod spill;

pub(super) use spill::SpillBudget;

use behind::SOONEST;
use spill::Spill;

/// Size of a send buffer in multiples of the bytes that may be under way. The kernel accounts
/// memory, which exceeds the bytes held, and a full buffer costs the kernel's worker a pause of a
/// clock tick (`net/core/skmsg.c`, `sk_psock_backlog`).
const BUFFERS: u64 = 4;

/// Send buffer for a limit, in bytes.
pub(in crate::relay) fn send_buffer(limit: u64) -> usize {
    usize::try_from(limit.saturating_mul(BUFFERS)).unwrap_or(usize::MAX)
}

/// The two sockets of a direction: the one it reads from and the one it writes to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ends<'a> {
    pub(super) direction: Direction,
    pub(super) slot: u32,
    pub(super) source: &'a TcpStream,
    pub(super) destination: &'a TcpStream,
}

/// One direction of a tunnel in the maps.
#[derive(Debug)]
pub(super) struct OffloadedDirection {
    /// The kernel redirects this direction.
    pub(super) redirects: bool,
    /// [`tcp::acknowledged_in_the_end`] of the destination before the first byte.
    acknowledged_before: u64,
    /// [`tcp::read_so_far`] of the source: bytes read by the pump.
    received_before: u64,
    limit: u64,
    /// Bytes copied to the destination by userspace.
    relayed: u64,
    spill: Spill,
    /// Segments dropped by the source up to the last check.
    dropped: u32,
    /// The opposite direction is kept with userspace, see [`OffloadedDirection::hold`].
    holds: bool,
    /// Delay set before the next check.
    pause: Duration,
    /// Bytes acknowledged by the destination up to the last check.
    acknowledged: u64,
    /// Time of the last check.
    seen: Instant,
    userspace: bool,
}

impl Default for OffloadedDirection {
    fn default() -> Self {
        Self {
            redirects: false,
            acknowledged_before: 0,
            received_before: 0,
            limit: 0,
            relayed: 0,
            spill: Spill::default(),
            dropped: 0,
            holds: false,
            pause: SOONEST,
            acknowledged: 0,
            seen: Instant::now(),
            userspace: false,
        }
    }
}

impl OffloadedDirection {
    /// Records the position in both streams and sets the buffer sizes for redirection.
    pub(super) fn prepare(
        ends: &Ends<'_>,
        directions: &Directions,
        limit: u64,
        budget: &Arc<SpillBudget>,
    ) -> io::Result<Self> {
        let acknowledged_before = tcp::acknowledged_in_the_end(ends.destination)?;
        set_send_buffer(ends.destination, send_buffer(limit))?;
        // Bytes left with a source are held for a stopped reader, as are bytes under way.
        bound_receive_buffer(ends.source, usize::try_from(limit).unwrap_or(usize::MAX))?;
        directions.reset(ends.slot, limit, acknowledged_before);
        Ok(Self {
            received_before: tcp::read_so_far(ends.source)?,
            acknowledged_before,
            acknowledged: acknowledged_before,
            dropped: receive_memory(ends.source)?.dropped,
            limit,
            spill: Spill::within(budget.clone()),
            ..Self::default()
        })
    }

    pub(super) fn step(&mut self, ends: &Ends<'_>, directions: &Directions, flow: &Flow, state: State<'_>) -> Step {
        let counts = directions.counts(ends.slot);
        self.note(&counts, state.now);
        if directions.is_torn(ends.slot) {
            let torn = io::Error::other("a part of the stream is missing, or came again and could not be taken off");
            return Step::Failed(Fault::of_source(ends.direction, torn));
        }
        if counts.passed > self.relayed || self.holds {
            return self.relay(ends, directions, flow, state).unwrap_or_else(Step::Failed);
        }
        if state.read_closed && !state.broken {
            return self.pass_end(ends, directions);
        }
        self.pause = SOONEST;
        Step::Blocked
    }

    /// See [`super::Pair::is_drained`]. Bytes left with a broken source are lost with it.
    pub(super) fn is_drained(&self, ends: &Ends<'_>, directions: &Directions) -> bool {
        let counts = directions.counts(ends.slot);
        self.has_all(ends, &counts)
    }

    /// Accounts the time since the last check.
    fn note(&mut self, counts: &Counts, now: Instant) {
        let since = std::mem::replace(&mut self.seen, now);
        let carrier = if self.userspace { Carrier::Userspace } else { Carrier::Kernel };
        metrics::sockmap_time(carrier, now.saturating_duration_since(since));
        let userspace = counts.passed > self.relayed;
        if userspace && !self.userspace {
            metrics::ENGINE_FALLBACKS.counter(&["sockmap", "copy", "backlog"]).increment(1);
        }
        self.userspace = userspace;
    }

    /// Tests if all bytes of this direction are in the destination's send buffer; false if unknown.
    fn has_all(&self, ends: &Ends<'_>, counts: &Counts) -> bool {
        let written = tcp::acknowledged_in_the_end(ends.destination);
        written.is_ok_and(|written| written.wrapping_sub(self.acknowledged_before) >= counts.redirected + self.relayed)
    }

    /// Passes the end on once all bytes before it are in the destination's send buffer.
    fn pass_end(&mut self, ends: &Ends<'_>, directions: &Directions) -> Step {
        let source = match tcp::progress(ends.source) {
            Ok(source) => source,
            Err(error) => return Step::Failed(Fault::of_source(ends.direction, error)),
        };
        let received = source.received.wrapping_sub(self.received_before);
        // Read in this order: the kernel reports the end before the program has seen the bytes
        // arriving with it, and keeps the socket locked until then (`net/ipv4/tcp_input.c`,
        // `tcp_ofo_queue` within `tcp_data_queue`); the counters above waited for the lock.
        let counts = directions.counts(ends.slot);
        if counts.passed > self.relayed {
            return Step::RetryAfter(SOONEST);
        }
        // The FIN counts as one. Without it bytes are still missing.
        if received != counts.redirected + counts.passed + 1 {
            // The kernel's worker, writing to this socket, may have taken the error that reported a
            // reset.
            let reset = || Fault::of_source(ends.direction, ErrorKind::ConnectionReset.into());
            return if source.closed { Step::Failed(reset()) } else { Step::RetryAfter(SOONEST) };
        }
        if !self.has_all(ends, &counts) {
            return Step::RetryAfter(self.put_off(self.acknowledged));
        }
        match ends.destination.shutdown(Shutdown::Write) {
            Ok(()) => Step::Finished,
            Err(error) => Step::Failed(Fault::of_destination(ends.direction, error)),
        }
    }
}
