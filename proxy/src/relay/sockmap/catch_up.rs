//! Userspace's part in a direction whose destination does not keep up.
//!
//! Above the backlog the program leaves every segment with the source, whose window closes.
//! Userspace forwards these bytes to the destination, in order, behind all that was redirected
//! before. When none is left and half of the backlog is free, the program redirects again
//! ([`sluicegate_ebpf::Direction::judge`]).
//!
//! Each piece (up to the scratch buffer) is sent before it is removed from the source, because the
//! removal opens the window. A sender faster than this copying keeps the direction here until it
//! pauses, usually within tenths of a second. Sending the whole window before removing any of it
//! would avoid that, but was a fifth slower.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_quickack, socket_send_buffer_size};
use rustix::net::{SendFlags, send};

use super::socket_pair::{SocketPair, StreamPositions};
use super::spill::{Spill, SpillBudget};
use crate::relay::fault::Fault;
use crate::relay::offload::SourceState;
use crate::relay::peek::{discard, peek_now};
use crate::relay::step::{QUANTUM, Step};
use crate::sys::bpf::{Counts, Directions};
use crate::sys::socket::{ReceiveMemory, receive_memory};
use crate::sys::tcp;
use crate::tunnel::Flow;

/// Shortest and longest time until a slow destination is looked at again.
pub(super) const SHORTEST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Bytes taken at once out of a receive buffer that has no room.
const PIECE: usize = 64 << 10;

/// Free space for two segments of maximum size without TCP options; with less, the window may stay
/// closed.
const WINDOW_OPENS_AT: u32 = 128 << 10;

/// Time given to the kernel's worker that has yet to make bytes readable: a clock tick at 250 Hz.
const KERNEL_TICK: Duration = Duration::from_millis(4);

/// State of a direction for userspace.
#[derive(Debug)]
pub(super) struct CatchUp {
    point: StreamPositions,
    /// Bytes that the destination may have unacknowledged.
    backlog: u64,
    /// Bytes forwarded by userspace.
    forwarded_bytes: u64,
    spill: Spill,
    /// Segments that the source had dropped at the last look.
    dropped: u32,
    /// The opposite direction is kept in userspace, see [`CatchUp::set_opposite_in_userspace`].
    has_opposite_in_userspace: bool,
    /// Pause before the next look.
    pause: Duration,
    /// Bytes that the destination had acknowledged at the last look.
    acknowledged: u64,
}

/// Result of forwarding one piece.
enum Forwarded {
    Bytes(Sent),
    /// The destination has no room; look again after the pause.
    Full(Duration),
    /// The bytes are not readable yet.
    Unreadable,
}

/// Bytes that the destination took, by where they were.
#[derive(Clone, Copy)]
enum Sent {
    /// In memory that they were spilled to.
    Spilled(usize),
    /// In the source's receive buffer, where they still are.
    Peeked(usize),
}

impl Sent {
    const fn len(self) -> usize {
        let (Self::Spilled(bytes) | Self::Peeked(bytes)) = self;
        bytes
    }
}

impl CatchUp {
    pub(super) fn new(
        point: StreamPositions,
        backlog: u64,
        source: &TcpStream,
        budget: &Arc<SpillBudget>,
    ) -> io::Result<Self> {
        let dropped = receive_memory(source)?.dropped;
        Ok(Self { point, backlog, dropped, acknowledged: point.acknowledged, ..Self::within(budget.clone()) })
    }

    fn within(budget: Arc<SpillBudget>) -> Self {
        Self {
            point: StreamPositions::default(),
            backlog: 0,
            forwarded_bytes: 0,
            spill: Spill::within(budget),
            dropped: 0,
            has_opposite_in_userspace: false,
            pause: SHORTEST_PAUSE,
            acknowledged: 0,
        }
    }

    /// Tests whether the program has left bytes with the source that are not forwarded yet.
    pub(super) const fn is_behind(&self, counts: &Counts) -> bool {
        counts.passed > self.forwarded_bytes
    }

    /// Tests whether there is anything to do here.
    pub(super) const fn is_needed(&self, counts: &Counts) -> bool {
        self.is_behind(counts) || self.has_opposite_in_userspace
    }

    /// Bytes given to the destination since the kernel took over, by the kernel and by userspace.
    pub(super) const fn given(&self, counts: &Counts) -> u64 {
        counts.redirected + self.forwarded_bytes
    }

    /// Resets the pause: nothing is left to forward.
    pub(super) const fn reset_pause(&mut self) {
        self.pause = SHORTEST_PAUSE;
    }

    /// Forwards what was left with the source, up to a quantum.
    pub(super) fn run(
        &mut self,
        pair: &SocketPair<'_>,
        directions: &Directions,
        flow: &Flow,
        source: SourceState<'_>,
    ) -> Result<Step, Fault> {
        let SourceState { broken, scratch, now, .. } = source;
        let mut moved = 0;
        while moved < QUANTUM {
            let counts = directions.counts(pair.slot);
            if !self.is_behind(&counts) {
                self.set_opposite_in_userspace(pair, directions, false);
                break;
            }
            let sent = match self.forward(pair, &counts, scratch)? {
                Forwarded::Bytes(sent) => sent,
                Forwarded::Full(pause) => {
                    if self.make_room(pair.source, scratch).map_err(|error| pair.fault_of_source(error))? {
                        self.set_opposite_in_userspace(pair, directions, true);
                    }
                    return Ok(Step::RetryAfter(pause));
                }
                // A connection that broke took along what was left in it.
                Forwarded::Unreadable if broken => return Ok(Step::Blocked),
                Forwarded::Unreadable => return Ok(Step::RetryAfter(KERNEL_TICK)),
            };
            flow.add(pair.direction, sent.len() as u64, now);
            self.forwarded_bytes += sent.len() as u64;
            // Before the bytes leave the source, which opens the window for bytes to redirect.
            directions.set_relayed(pair.slot, self.forwarded_bytes);
            match sent {
                Sent::Spilled(bytes) => self.spill.give_up(bytes),
                Sent::Peeked(bytes) => {
                    discard(pair.source, &mut scratch[..bytes]).map_err(|error| pair.fault_of_source(error))?;
                }
            }
            moved += sent.len();
            self.pause = SHORTEST_PAUSE;
        }
        // Also when nothing is left: one more step checks for a FIN. The acknowledgement at once is
        // for speed alone: the sender waits for a window update, which may be delayed otherwise.
        let _ = set_tcp_quickack(pair.source, true);
        Ok(Step::Yielded)
    }

    /// Sends the next piece to the destination, if that keeps up.
    fn forward(&mut self, pair: &SocketPair<'_>, counts: &Counts, scratch: &mut [u8]) -> Result<Forwarded, Fault> {
        let destination = tcp::progress(pair.destination).map_err(|error| pair.fault_of_destination(error))?;
        let buffer = socket_send_buffer_size(pair.destination).map_err(|error| pair.fault_of_destination(error))?;
        // Half of the backlog at which the program redirects, so that it does when this is under
        // way.
        let most_under_way = self.backlog.min(buffer as u64 / 2) / 2;
        let given = self.given(counts);
        if self.point.unacknowledged(given, destination.acknowledged) > most_under_way
            || !self.point.has_all(pair.destination, given)
        {
            return Ok(Forwarded::Full(self.next_pause(destination.acknowledged)));
        }
        if self.spill.len() > 0 {
            let sent = send_now(pair, self.spill.next())?;
            return Ok(self.outcome_of(sent.map(Sent::Spilled)));
        }
        let left = usize::try_from(counts.passed - self.forwarded_bytes).unwrap_or(usize::MAX);
        let most = left.min(scratch.len());
        let peeked = peek_now(pair.source, &mut scratch[..most]).map_err(|error| pair.fault_of_source(error))?;
        if peeked == 0 {
            return Ok(Forwarded::Unreadable);
        }
        let sent = send_now(pair, &scratch[..peeked])?;
        Ok(self.outcome_of(sent.map(Sent::Peeked)))
    }

    fn outcome_of(&mut self, sent: Option<Sent>) -> Forwarded {
        sent.map_or_else(|| Forwarded::Full(self.next_pause(self.acknowledged)), Forwarded::Bytes)
    }

    /// Keeps the opposite direction in userspace, or gives it back to the kernel.
    ///
    /// Bytes redirected there are in one queue with the bytes left here (`net/core/skmsg.c`,
    /// `sk_psock_verdict_apply`), and those in the queue count as read, so that the window stays
    /// open for more than the receive buffer can hold.
    fn set_opposite_in_userspace(&mut self, pair: &SocketPair<'_>, directions: &Directions, keeps: bool) {
        if std::mem::replace(&mut self.has_opposite_in_userspace, keeps) != keeps {
            directions.enable(pair.opposite_slot(), !keeps);
        }
    }

    /// Makes room in the source's receive buffer for everything that its window had let through
    /// before it closed. Usually that is a few segments; more if the kernel's worker was late
    /// ([`CatchUp::set_opposite_in_userspace`]). Not so much that the window opens, which it does
    /// when a sixteenth is free (`net/ipv4/tcp_output.c`, `__tcp_select_window`).
    ///
    /// Returns true if a segment was dropped, after freeing enough for the window to open. The
    /// window may have shrunk below data already in flight; until it grows back, the kernel also
    /// drops every acknowledgement that follows (`net/ipv4/tcp_input.c`, `tcp_sequence`), and the
    /// opposite direction stalls.
    ///
    /// When the memory for spilled bytes is used up nothing more is taken out: the window stays
    /// closed and the sender waits; after a drop the opposite direction may wait with it.
    fn make_room(&mut self, source: &TcpStream, scratch: &mut [u8]) -> io::Result<bool> {
        let ReceiveMemory { mut taken, buffer, dropped } = receive_memory(source)?;
        let has_dropped = std::mem::replace(&mut self.dropped, dropped) != dropped && taken > buffer - buffer / 16;
        let room = if has_dropped { (buffer / 8).max(WINDOW_OPENS_AT) } else { buffer / 32 };
        let full = buffer.saturating_sub(room);
        while taken > full {
            let wanted = ((taken - full) as usize).clamp(PIECE / 16, PIECE);
            if !self.spill.reserve(wanted, self.backlog) {
                break;
            }
            let peeked = peek_now(source, &mut scratch[..wanted]);
            self.spill.release(wanted - peeked.as_ref().map_or(0, |peeked| *peeked));
            let peeked = peeked?;
            if peeked == 0 {
                break;
            }
            self.spill.keep(&scratch[..peeked]);
            discard(source, &mut scratch[..peeked])?;
            taken = receive_memory(source)?.taken;
        }
        Ok(has_dropped)
    }

    /// Pause before the next look: short if the destination takes bytes, doubled while it takes
    /// none. `acknowledged`: bytes that it has acknowledged by now.
    fn next_pause(&mut self, acknowledged: u64) -> Duration {
        let taken = acknowledged.saturating_sub(std::mem::replace(&mut self.acknowledged, acknowledged));
        self.pause = if taken > self.backlog / 16 { SHORTEST_PAUSE } else { (self.pause * 2).min(LONGEST_PAUSE) };
        self.pause
    }

    /// Pause while the kernel has yet to write everything to the destination.
    pub(super) fn pause_without_progress(&mut self) -> Duration {
        self.next_pause(self.acknowledged)
    }
}

/// Sends bytes to the destination; `None` if it has no room.
fn send_now(pair: &SocketPair<'_>, bytes: &[u8]) -> Result<Option<usize>, Fault> {
    match send(pair.destination, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        // FAULT: where memory for TCP is short the kernel may compute that less than nothing is
        // left, and sends nothing (`net/ipv4/tcp.c`, `tcp_wmem_schedule`: memory that stays with a
        // socket is charged to it unasked).
        Err(Errno::AGAIN | Errno::FAULT) => Ok(None),
        sent => sent.map(Some).map_err(|error| pair.fault_of_destination(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use rustix::net::sockopt::{
        set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, socket_recv_buffer_size,
    };

    use super::*;
    use crate::relay::tests::{DEADLINE, pair};

    /// Four receive buffers of bytes came in before the window closed: those without room are taken
    /// out in order, and no more.
    #[test]
    fn what_has_no_room_is_spilled() {
        let (mut sender, source) = pair();
        // More than `net.core.rmem_max` may allow, which takes a privilege.
        let granted = set_socket_recv_buffer_size_force(&source, 4 << 20);
        if granted.or_else(|_| set_socket_recv_buffer_size(&source, 4 << 20)).is_err()
            || socket_recv_buffer_size(&source).unwrap() < 4 << 20
        {
            return eprintln!("skipped: without CAP_NET_ADMIN it takes net.core.rmem_max=4194304");
        }
        let sent: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_ne_bytes).collect();
        sender.write_all(&sent).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while rustix::io::ioctl_fionread(&source).unwrap() < sent.len() as u64 {
            assert!(Instant::now() < deadline, "the bytes do not come");
        }
        set_socket_recv_buffer_size(&source, 128 << 10).unwrap();
        let mut scratch = vec![0; PIECE];
        // Where the budget is used up nothing is taken.
        let mut direction = CatchUp::within(Arc::default());
        while direction.spill.reserve(PIECE, 0) {
            direction.spill.keep(&[0; PIECE]);
        }
        let spilled = direction.spill.len();
        direction.make_room(&source, &mut scratch).unwrap();
        assert!(direction.spill.len() < spilled + PIECE);
        let mut direction = CatchUp::within(Arc::default());
        assert!(!direction.make_room(&source, &mut scratch).unwrap());
        let ReceiveMemory { taken, buffer, .. } = receive_memory(&source).unwrap();
        assert!(taken <= buffer, "{taken} of {buffer}");
        let spilled = direction.spill.len();
        let room = sent.len() - buffer as usize;
        assert!(spilled >= room && spilled < room + 3 * PIECE, "{spilled} of {}", sent.len());
        direction.make_room(&source, &mut scratch).unwrap();
        assert_eq!(direction.spill.len(), spilled);
        let mut read = 0;
        while direction.spill.len() > 0 {
            let piece = direction.spill.next().len();
            assert!(direction.spill.next() == &sent[read..read + piece], "after {read}");
            direction.spill.give_up(piece);
            read += piece;
        }
        assert_eq!(read, spilled);
        // A segment was dropped since, so that the window has to open.
        set_socket_recv_buffer_size(&source, 96 << 10).unwrap();
        direction.dropped = direction.dropped.wrapping_sub(1);
        assert!(direction.make_room(&source, &mut scratch).unwrap());
        let ReceiveMemory { taken, buffer, .. } = receive_memory(&source).unwrap();
        assert!(taken <= buffer - WINDOW_OPENS_AT, "{taken} of {buffer}");
        assert!(!direction.make_room(&source, &mut scratch).unwrap(), "nothing more");
    }
}
