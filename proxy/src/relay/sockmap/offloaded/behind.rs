//! What userspace does for a direction whose destination does not keep up.
//!
//! Past the limit the program leaves every segment with its source, whose window closes. What was left is given to
//! the destination here, in its order, behind all that was redirected before; when nothing is left and half of the
//! limit is free the program redirects again ([`sluicegate_ebpf::Direction::judge`]). Of a closed window as much as
//! possible is given on at once, and only then taken away from the source, which opens the window for what may be
//! redirected. A sender that is faster than the copying fills it again before that: such a direction goes on here until
//! the sender pauses, which takes tenths of a second. To give on all that is left before anything is taken away ends it
//! at once, and was slower by a fifth, since the sender stands still meanwhile.

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

/// The least and the most time until a destination that does not keep up is looked at again.
pub(super) const SOONEST: Duration = Duration::from_micros(200);
const LATEST: Duration = Duration::from_millis(100);

/// What is taken out of a receive buffer at once that has no room.
const PIECE: usize = 64 << 10;

/// So much is room for two of the largest segments that there are without options: with less the window may not open.
const OPENS: u32 = 128 << 10;

/// How long the kernel's worker is given that has yet to make bytes readable, a clock tick of the slowest kind.
const WORKER: Duration = Duration::from_millis(4);

impl OffloadedDirection {
    /// Gives the destination what was left with the source.
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
                // A connection that broke took along what was left.
                Given::Nothing => return Ok(if broken { Step::Blocked } else { Step::RetryAfter(WORKER) }),
            };
            flow.add(ends.direction, sent.len() as u64, now);
            self.relayed += sent.len() as u64;
            // First this, since taking it away opens the window for what may be redirected.
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
        // The sender waits for a window that the next acknowledgement tells of, which may be put off otherwise. For speed
        // alone.
        let _ = set_tcp_quickack(ends.source, true);
        Ok(Step::Yielded)
    }

    /// How long the destination is left alone, if it has to be.
    fn behind(&mut self, ends: &Ends<'_>, counts: &Counts) -> Result<Option<Duration>, Fault> {
        let of_destination = |error| Fault::of_destination(ends.direction, error);
        let destination = tcp::progress(ends.destination).map_err(of_destination)?;
        let given = counts.redirected + self.relayed;
        // What was under way when it began may not be acknowledged yet, which makes the difference a negative one.
        let under_way = given.wrapping_sub(destination.acknowledged.wrapping_sub(self.acknowledged_before));
        // Half of what the program redirects up to, so that it does when what is given now is on its way.
        let buffer = socket_send_buffer_size(ends.destination).map_err(|error| of_destination(error.into()))?;
        let enough = self.limit.min(buffer as u64 / 2) / 2;
        let behind = under_way > enough || !self.has_all(ends, counts);
        Ok(behind.then(|| self.put_off(destination.acknowledged)))
    }

    /// Gives the destination a piece of what is next.
    fn give(&mut self, ends: &Ends<'_>, counts: &Counts, scratch: &mut [u8]) -> Result<Given, Fault> {
        let of_destination = |error| Fault::of_destination(ends.direction, error);
        let send = |bytes: &[u8]| match send(ends.destination, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            // FAULT: where memory for TCP is short the kernel may find less than nothing left, and nothing is sent
            // (`net/ipv4/tcp.c`, `tcp_wmem_schedule`: what stays with a socket is charged to it unasked).
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

    /// Sees to it that the other direction goes on while this one waits.
    fn wait(&mut self, ends: &Ends<'_>, directions: &Directions, scratch: &mut [u8]) -> Result<(), Fault> {
        if self.make_room(ends.source, scratch).map_err(|error| of_source(ends, error))? {
            self.hold(ends, directions, true);
        }
        Ok(())
    }

    /// Keeps the direction against this one with userspace, or no longer. What is redirected there stands in one queue
    /// with what stays here (`net/core/skmsg.c`, `sk_psock_verdict_apply`), and what stands there counts as read, so that
    /// the window stays open for more than the receive buffer holds in the end.
    fn hold(&mut self, ends: &Ends<'_>, directions: &Directions, holds: bool) {
        if std::mem::replace(&mut self.holds, holds) != holds {
            // The slots of a tunnel differ in the lowest bit.
            directions.enable(ends.slot ^ 1, !holds);
        }
    }

    /// Sees to it that the source's receive buffer has room for all that its window had let through before it closed. As
    /// a rule that is a few segments; where the kernel's worker was late it is more ([`OffloadedDirection::hold`]). So much that the
    /// window does not open (`net/ipv4/tcp_output.c`, `__tcp_select_window`: until a sixteenth is free).
    ///
    /// Unless something was dropped, and this returns true. Then the window may have been taken back, with bytes on their
    /// way that it had let through. Until it lets them through again every acknowledgement that comes behind them is
    /// dropped too (`net/ipv4/tcp_input.c`, `tcp_sequence`), and the other direction is at a stand.
    ///
    /// Where the memory for what is spilled is used up nothing more is taken out: the window stays closed, the sender
    /// waits, and after a drop the other direction may wait with it.
    fn make_room(&mut self, source: &TcpStream, scratch: &mut [u8]) -> io::Result<bool> {
        let ReceiveMemory { mut taken, buffer, dropped } = receive_memory(source)?;
        let has_dropped = std::mem::replace(&mut self.dropped, dropped) != dropped && taken > buffer - buffer / 16;
        let room = if has_dropped { (buffer / 8).max(OPENS) } else { buffer / 32 };
        let full = buffer.saturating_sub(room);
        while taken > full {
            // No more than has to be.
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

    /// How long a destination is left alone: for as long as it will take to half of the limit if it goes on as since
    /// the last look, and ever longer while it takes nothing.
    pub(super) fn put_off(&mut self, acknowledged: u64) -> Duration {
        let taken = acknowledged.saturating_sub(std::mem::replace(&mut self.acknowledged, acknowledged));
        self.pause = if taken > self.limit / 16 { SOONEST } else { (self.pause * 2).min(LATEST) };
        self.pause
    }
}

/// What came of giving the destination something.
enum Given {
    Bytes(Sent),
    /// Its send buffer is full.
    Full,
    /// There is nothing to give that can be had now.
    Nothing,
}

/// Bytes that the destination took, by where they came from.
#[derive(Clone, Copy)]
enum Sent {
    /// The memory that they were spilled to.
    Spilled(usize),
    /// The source, from which they have to be taken.
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

/// Looks at what a source holds next; none if it holds nothing now, or will nevermore.
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

    /// Four times a receive buffer came in before its window closed: all that has no room is taken out, in its order,
    /// and no more.
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
        // There is an end to it.
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
        // It has dropped something since, so that the window has to open.
        set_socket_recv_buffer_size(&source, 96 << 10).unwrap();
        way.dropped = way.dropped.wrapping_sub(1);
        assert!(way.make_room(&source, &mut scratch).unwrap());
        let ReceiveMemory { taken, buffer, .. } = receive_memory(&source).unwrap();
        assert!(taken <= buffer - OPENS, "{taken} of {buffer}");
        assert!(!way.make_room(&source, &mut scratch).unwrap(), "nothing more");
    }
}
