//! Work of userspace for a direction whose destination does not keep up.
//!
//! Over the limit, the program leaves every segment with its source, and the source's window
//! closes. Userspace passes the remaining bytes to the destination, in order, behind all bytes
//! redirected before. When nothing remains and half of the limit is free, the program redirects
//! again ([`sluicegate_ebpf::Direction::judge`]). From a closed window as many bytes as possible
//! are sent at once and only then taken from the source; taking them opens the window for segments
//! to be redirected. A sender faster than the copying fills the window again before this; its
//! direction stays with userspace until the sender pauses, for tenths of a second. Passing on all
//! remaining bytes before taking any ends this at once, but was slower by a fifth: the sender
//! stands still meanwhile.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_quickack, socket_send_buffer_size};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Ends, OffloadedDirection};
use crate::relay::pump::Step;
use crate::relay::sockmap::State;
use crate::relay::{Fault, QUANTUM, discard};
use crate::sys::bpf::{Counts, Directions};
use crate::sys::socket::{ReceiveMemory, receive_memory};
use crate::sys::tcp;
use crate::tunnel::Flow;

/// Minimum and maximum delay until the next check of a destination that does not keep up.
pub(super) const SOONEST: Duration = Duration::from_micros(200);
const LATEST: Duration = Duration::from_millis(100);

/// Bytes taken at a time out of a receive buffer without room.
const PIECE: usize = 64 << 10;

/// Room for two of the largest segments without options; with less the window may not open.
const OPENS: u32 = 128 << 10;

/// Time for the kernel's worker to make bytes readable: a clock tick of the slowest kind.
const WORKER: Duration = Duration::from_millis(4);

impl OffloadedDirection {
    /// Passes the bytes left with the source to the destination.
    pub(super) fn relay(
        &mut self,
        ends: &Ends<'_>,
        directions: &Directions,
        flow: &Flow,
        state: State<'_>,
    ) -> Result<Step, Fault> {
        let State { broken, scratch, now, .. } = state;
        let mut moved = 0;
        while moved < QUANTUM {
            let counts = directions.counts(ends.slot);
            if counts.passed == self.relayed {
                self.hold(ends, directions, false);
                break;
            }
            if let Some(pause) = self.behind(ends, &counts)? {
                self.wait(ends, directions, scratch)?;
                return Ok(Step::RetryAfter(pause));
            }
            let sent = match self.give(ends, &counts, scratch)? {
                Given::Bytes(sent) => sent,
                Given::Full => {
                    self.wait(ends, directions, scratch)?;
                    return Ok(Step::RetryAfter(self.put_off(self.acknowledged)));
                }
                // A broken connection took the remaining bytes along.
                Given::Nothing => return Ok(if broken { Step::Blocked } else { Step::RetryAfter(WORKER) }),
            };
            flow.add(ends.direction, sent.len() as u64, now);
            self.relayed += sent.len() as u64;
            // Update the count first: taking the bytes opens the window for segments to be
            // redirected.
            directions.set_relayed(ends.slot, self.relayed);
            match sent {
                Sent::Spilled(bytes) => self.spill.give_up(bytes),
                Sent::Seen(bytes) => {
                    discard(ends.source, &mut scratch[..bytes]).map_err(|error| of_source(ends, error))?;
                }
            }
            moved += sent.len();
            self.pause = SOONEST;
        }
        // The sender waits for a window update, carried by the next acknowledgement; without this
        // the acknowledgement may be delayed. Only for speed.
        let _ = set_tcp_quickack(ends.source, true);
        Ok(Step::Yielded)
    }

    /// Delay before the destination gets more bytes, if it does not keep up.
    fn behind(&mut self, ends: &Ends<'_>, counts: &Counts) -> Result<Option<Duration>, Fault> {
        let of_destination = |error| Fault::of_destination(ends.direction, error);
        let destination = tcp::progress(ends.destination).map_err(of_destination)?;
        let given = counts.redirected + self.relayed;
        // Bytes under way at the start may not be acknowledged yet, so the difference may be
        // negative.
        let under_way = given.wrapping_sub(destination.acknowledged.wrapping_sub(self.acknowledged_before));
        // Half of the program's limit, so the program redirects once these bytes are under way.
        let buffer = socket_send_buffer_size(ends.destination).map_err(|error| of_destination(error.into()))?;
        let enough = self.limit.min(buffer as u64 / 2) / 2;
        let behind = under_way > enough || !self.has_all(ends, counts);
        Ok(behind.then(|| self.put_off(destination.acknowledged)))
    }

    /// Passes the next piece to the destination.
    fn give(&mut self, ends: &Ends<'_>, counts: &Counts, scratch: &mut [u8]) -> Result<Given, Fault> {
        let of_destination = |error| Fault::of_destination(ends.direction, error);
        let send = |bytes: &[u8]| match send(ends.destination, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            // FAULT: short of memory for TCP, the kernel may compute a negative amount of room and
            // send nothing (`net/ipv4/tcp.c`, `tcp_wmem_schedule`: bytes left with a socket are
            // charged to it unasked).
            Err(Errno::AGAIN | Errno::FAULT) => Ok(None),
            sent => sent.map(Some).map_err(|error| of_destination(error.into())),
        };
        if self.spill.len() > 0 {
            return Ok(send(self.spill.next())?.map_or(Given::Full, |sent| Given::Bytes(Sent::Spilled(sent))));
        }
        let left = usize::try_from(counts.passed - self.relayed).unwrap_or(usize::MAX);
        let most = left.min(scratch.len());
        let seen = look(ends.source, &mut scratch[..most]).map_err(|error| of_source(ends, error))?;
        if seen == 0 {
            return Ok(Given::Nothing);
        }
        Ok(send(&scratch[..seen])?.map_or(Given::Full, |sent| Given::Bytes(Sent::Seen(sent))))
    }

    /// Keeps the other direction going while this one waits.
    fn wait(&mut self, ends: &Ends<'_>, directions: &Directions, scratch: &mut [u8]) -> Result<(), Fault> {
        if self.make_room(ends.source, scratch).map_err(|error| of_source(ends, error))? {
            self.hold(ends, directions, true);
        }
        Ok(())
    }

    /// Keeps the opposite direction with userspace (`holds`) or returns it to the kernel. Its
    /// redirected bytes share a queue with the bytes left here (`net/core/skmsg.c`,
    /// `sk_psock_verdict_apply`). Bytes in the queue count as read, so the window stays open for
    /// more bytes than the receive buffer finally holds.
    fn hold(&mut self, ends: &Ends<'_>, directions: &Directions, holds: bool) {
        if std::mem::replace(&mut self.holds, holds) != holds {
            // The two slots of a tunnel differ in the lowest bit.
            directions.enable(ends.slot ^ 1, !holds);
        }
    }

    /// Makes room in the source's receive buffer for all bytes its window let through before
    /// closing: usually a few segments, more if the kernel's worker was late
    /// ([`OffloadedDirection::hold`]). The room stays too small to open the window
    /// (`net/ipv4/tcp_output.c`, `__tcp_select_window`: until a sixteenth is free).
    ///
    /// Exception: if segments were dropped, makes more room and returns true. The drop may have
    /// shrunk the window below bytes already under way. Until the window covers them again, every
    /// acknowledgement behind them is dropped too (`net/ipv4/tcp_input.c`, `tcp_sequence`), and the
    /// other direction stands still.
    ///
    /// If the spill budget is used up, nothing more is taken out: the window stays closed, the
    /// sender waits, and after a drop the other direction may wait as well.
    fn make_room(&mut self, source: &TcpStream, scratch: &mut [u8]) -> io::Result<bool> {
        let ReceiveMemory { mut taken, buffer, dropped } = receive_memory(source)?;
        let has_dropped = std::mem::replace(&mut self.dropped, dropped) != dropped && taken > buffer - buffer / 16;
        let room = if has_dropped { (buffer / 8).max(OPENS) } else { buffer / 32 };
        let full = buffer.saturating_sub(room);
        while taken > full {
            // As few bytes as possible.
            let wanted = ((taken - full) as usize).clamp(PIECE / 16, PIECE);
            if !self.spill.reserve(wanted, self.limit) {
                break;
            }
            let seen = look(source, &mut scratch[..wanted]);
            self.spill.release(wanted - seen.as_ref().map_or(0, |seen| *seen));
            let seen = seen?;
            if seen == 0 {
                break;
            }
            self.spill.keep(&scratch[..seen]);
            discard(source, &mut scratch[..seen])?;
            taken = receive_memory(source)?.taken;
        }
        Ok(has_dropped)
    }

    /// Delay before the next check of a destination: as long as the destination is expected to take
    /// to get down to half of the limit at its current rate, and ever longer while it accepts
    /// nothing.
    pub(super) fn put_off(&mut self, acknowledged: u64) -> Duration {
        let taken = acknowledged.saturating_sub(std::mem::replace(&mut self.acknowledged, acknowledged));
        self.pause = if taken > self.limit / 16 { SOONEST } else { (self.pause * 2).min(LATEST) };
        self.pause
    }
}

/// Result of passing bytes to the destination.
enum Given {
    Bytes(Sent),
    /// The destination's send buffer is full.
    Full,
    /// No bytes are available now.
    Nothing,
}

/// Bytes accepted by the destination, by their origin.
#[derive(Clone, Copy)]
enum Sent {
    /// From spill memory.
    Spilled(usize),
    /// From the source, where they are still to be discarded.
    Seen(usize),
}

impl Sent {
    const fn len(self) -> usize {
        let (Self::Spilled(bytes) | Self::Seen(bytes)) = self;
        bytes
    }
}

fn of_source(ends: &Ends<'_>, error: io::Error) -> Fault {
    Fault::of_source(ends.direction, error)
}

/// Peeks at the source's next bytes; 0 if it holds none now or has ended.
fn look(source: &TcpStream, scratch: &mut [u8]) -> io::Result<usize> {
    match recv(source, scratch, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
        Err(Errno::AGAIN) => Ok(0),
        seen => Ok(seen?.0),
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

    /// Four receive buffers of bytes arrive before the window closes: all bytes without room are
    /// taken out, in order, and no more.
    #[test]
    fn what_has_no_room_is_spilled() {
        let (mut sender, source) = pair();
        // May exceed `net.core.rmem_max`, for which a capability is needed.
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
        // The budget is bounded.
        let mut way = OffloadedDirection::default();
        while way.spill.reserve(PIECE, 0) {
            way.spill.keep(&[0; PIECE]);
        }
        let spilled = way.spill.len();
        way.make_room(&source, &mut scratch).unwrap();
        assert!(way.spill.len() < spilled + PIECE);
        let mut way = OffloadedDirection::default();
        assert!(!way.make_room(&source, &mut scratch).unwrap());
        let ReceiveMemory { taken, buffer, .. } = receive_memory(&source).unwrap();
        assert!(taken <= buffer, "{taken} of {buffer}");
        let spilled = way.spill.len();
        let room = sent.len() - buffer as usize;
        assert!(spilled >= room && spilled < room + 3 * PIECE, "{spilled} of {}", sent.len());
        way.make_room(&source, &mut scratch).unwrap();
        assert_eq!(way.spill.len(), spilled);
        let mut read = 0;
        while way.spill.len() > 0 {
            let piece = way.spill.next().len();
            assert!(way.spill.next() == &sent[read..read + piece], "after {read}");
            way.spill.give_up(piece);
            read += piece;
        }
        assert_eq!(read, spilled);
        // The source has dropped a segment since, so the window has to open.
        set_socket_recv_buffer_size(&source, 96 << 10).unwrap();
        way.dropped = way.dropped.wrapping_sub(1);
        assert!(way.make_room(&source, &mut scratch).unwrap());
        let ReceiveMemory { taken, buffer, .. } = receive_memory(&source).unwrap();
        assert!(taken <= buffer - OPENS, "{taken} of {buffer}");
        assert!(!way.make_room(&source, &mut scratch).unwrap(), "nothing more");
    }
}
