//! What userspace does for a direction whose destination does not keep up.
//!
//! Past the limit the program leaves every segment with its source, whose window closes. What was left is given to
//! the destination here, in its order, behind all that was redirected before; when nothing is left and half of the
//! limit is free the program redirects again ([`sluicegate_ebpf::Direction::judge`]). A sender that always has more to
//! send does not keep that from happening: while its window is closed all that was left is given on, and only then
//! taken away from the source, which opens the window for what may be redirected.

use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{set_tcp_quickack, socket_send_buffer_size};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Ends, Way};
use crate::metrics;
use crate::relay::pump::Turn;
use crate::relay::sockmap::State;
use crate::relay::{Fault, TURN, take_away};
use crate::sys::bpf::{Counts, Directions};
use crate::sys::pipe::Pipe;
use crate::sys::socket::receive_memory;
use crate::sys::tcp;
use crate::tunnel::Flow;

/// The least and the most time until a destination that does not keep up is looked at again.
pub(super) const SOONEST: Duration = Duration::from_micros(200);
const LATEST: Duration = Duration::from_millis(100);

/// What is taken out of a receive buffer at once that has no room.
const PARKED: usize = 64 << 10;

/// How long the kernel's worker is given that has yet to make bytes readable, a clock tick of the slowest kind.
const WORKER: Duration = Duration::from_millis(4);

impl Way {
    /// Gives the destination what was left with the source.
    pub(super) fn relay(
        &mut self,
        ends: &Ends<'_>,
        directions: &Directions,
        flow: &Flow,
        state: State<'_>,
    ) -> Result<Turn, Fault> {
        let State { broken, scratch, now, .. } = state;
        let mut moved = 0;
        while moved < TURN {
            let counts = directions.counts(ends.slot);
            if counts.passed == self.relayed {
                break;
            }
            if let Some(pause) = self.behind(ends, &counts)? {
                self.make_room(ends, scratch)?;
                return Ok(Turn::Again(pause));
            }
            let sent = match self.give(ends, &counts, scratch)? {
                Given::Bytes(sent) => sent,
                Given::Full => {
                    self.make_room(ends, scratch)?;
                    return Ok(Turn::Again(self.put_off(self.acknowledged)));
                }
                // A connection that broke took along what was left.
                Given::Nothing => return Ok(if broken { Turn::Waits } else { Turn::Again(WORKER) }),
            };
            flow.add(ends.direction, sent.len() as u64, now);
            self.relayed += sent.len() as u64;
            // First this, since taking it away opens the window for what may be redirected.
            directions.set_relayed(ends.slot, self.relayed);
            match sent {
                Sent::Parked(bytes) => {
                    self.parked = self.parked.take().and_then(|parked| parked.less(bytes));
                }
                Sent::Seen(bytes) => {
                    take_away(ends.source, &mut scratch[..bytes]).map_err(|error| of_source(ends, error))?;
                }
            }
            moved += sent.len();
            self.pause = SOONEST;
        }
        // The sender waits for a window that the next acknowledgement tells of, which may be put off otherwise. For speed
        // alone.
        let _ = set_tcp_quickack(ends.source, true);
        Ok(Turn::More)
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
        if let Some(Parked { pipe, bytes }) = &self.parked {
            return match pipe.drain(ends.destination, *bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Given::Full),
                sent => sent.map(|sent| Given::Bytes(Sent::Parked(sent))).map_err(of_destination),
            };
        }
        let left = usize::try_from(counts.passed - self.relayed).unwrap_or(usize::MAX);
        let most = left.min(scratch.len());
        let seen = look(ends.source, &mut scratch[..most]).map_err(|error| of_source(ends, error))?;
        if seen == 0 {
            return Ok(Given::Nothing);
        }
        match send(ends.destination, &scratch[..seen], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => Ok(Given::Full),
            sent => sent.map(|sent| Given::Bytes(Sent::Seen(sent))).map_err(|error| of_destination(error.into())),
        }
    }

    /// Sees to it that the source's receive buffer has room for all that its closed window had let through. What has
    /// none the kernel keeps in the queue by which the other direction is redirected to this socket, and holds that up
    /// (`net/core/skmsg.c`, `sk_psock_verdict_apply`): two sides that both wait for the other to read would never go
    /// on. It is a few segments at most, which go into a pipe; the window stays closed (`net/ipv4/tcp_output.c`,
    /// `__tcp_select_window`: until a sixteenth is free).
    fn make_room(&mut self, ends: &Ends<'_>, scratch: &mut [u8]) -> Result<(), Fault> {
        let of_source = |error| of_source(ends, error);
        loop {
            let [taken, buffer] = receive_memory(ends.source).map_err(of_source)?;
            let parked = self.parked.as_ref().map_or(0, |parked| parked.bytes);
            if taken <= buffer || parked > buffer as usize / 32 {
                return Ok(());
            }
            let seen = look(ends.source, &mut scratch[..PARKED]).map_err(of_source)?;
            if seen == 0 {
                return Ok(());
            }
            let pipe = self.parked.take().map_or_else(Parked::new, Ok).map_err(of_source)?;
            let parked = self.parked.insert(pipe);
            let written = parked.pipe.write(&scratch[..seen]).map_err(of_source)?;
            parked.bytes += written;
            take_away(ends.source, &mut scratch[..written]).map_err(of_source)?;
            if written == 0 {
                return Ok(());
            }
        }
    }

    /// How long a destination is left alone: for as long as it will take to half of the limit if it goes on as since
    /// the last look, and ever longer while it takes nothing.
    pub(super) fn put_off(&mut self, acknowledged: u64) -> Duration {
        let taken = acknowledged.saturating_sub(std::mem::replace(&mut self.acknowledged, acknowledged));
        self.pause = if taken > self.limit / 16 { SOONEST } else { (self.pause * 2).min(LATEST) };
        self.pause
    }
}

/// What was taken out of a source's receive buffer and not given on.
#[derive(Debug)]
pub(super) struct Parked {
    pipe: Pipe,
    /// How much that is: more than none.
    bytes: usize,
}

impl Parked {
    fn new() -> io::Result<Self> {
        let pipe = Pipe::new()?;
        metrics::PIPE_BYTES.gauge(&[]).increment(pipe.capacity() as f64);
        Ok(Self { pipe, bytes: 0 })
    }

    /// Without so many bytes, which were given on; `None` when that was all.
    fn less(mut self, bytes: usize) -> Option<Self> {
        self.bytes = self.bytes.saturating_sub(bytes);
        (self.bytes > 0).then_some(self)
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        metrics::PIPE_BYTES.gauge(&[]).decrement(self.pipe.capacity() as f64);
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
    /// The pipe, which they have left.
    Parked(usize),
    /// The source, from which they have to be taken.
    Seen(usize),
}

impl Sent {
    const fn len(self) -> usize {
        let (Self::Parked(bytes) | Self::Seen(bytes)) = self;
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
