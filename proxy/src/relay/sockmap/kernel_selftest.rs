//! Self-test of redirection on this kernel: tests everything kernels were seen to get wrong.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, Builder, ScopedJoinHandle};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size, set_tcp_congestion};
use socket2::{Domain, Type};
use tokio::sync::oneshot::{Receiver, error::TryRecvError};

use super::program::Program;
use crate::reason::Reason;
use crate::relay::engine::Adopted;
use crate::sys::tcp;
use crate::tunnel::{Flow, Tunnel};

/// Time limit of each step; a slow host needs a tenth of it.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes sent each way, besides three times the backlog: more than the cost of a stopped reader.
/// Such a reader costs the backlog in each of two buffers, 16 MiB of spilled bytes and the buffers
/// of both ends. Not more: with a small backlog userspace copies all of it in small pieces.
const LENGTH: usize = 24 << 20;

/// Receive and send buffers of both ends; fixed, because autotuning would vary them.
const BUFFER: usize = 1 << 20;

/// Bytes sent each way around the hand-off.
const HAND_OFF: usize = 8 << 20;

/// Bytes of the hand-off sent with the handshake, and bytes sent before the tunnel exists.
const PREFIX: usize = 1_000;
const EARLY: usize = 100_000;

/// A sender without progress for this long is held up.
const STALL: Duration = Duration::from_millis(20);

/// Sends bytes each way through a tunnel of `adopt`, some of them before it is adopted, up to a FIN
/// each way. A second tunnel has a reader that stops; afterwards both directions are redirected
/// again. A third tunnel is reset. Takes less than two seconds on an idle host.
///
/// # Errors
/// The first difference from the expected behaviour.
pub(super) fn run(program: &Program, adopt: impl Fn(Tunnel) -> Adopted) -> io::Result<()> {
    hand_off(&adopt)?;
    let length = usize::try_from(program.backlog()).unwrap_or(usize::MAX).saturating_mul(3).saturating_add(LENGTH);
    stopped_reader(program, length, &adopt)?;
    reset(&adopt)
}

/// Both sides send at full rate from before the tunnel exists.
fn hand_off(adopt: &impl Fn(Tunnel) -> Adopted) -> io::Result<()> {
    let ((client, near), (origin, far)) = (pair()?, pair()?);
    let (up, down) = (Pattern::new(1), Pattern::new(7));
    let prefix = up.at(0, PREFIX).to_vec();
    (&client).write_all(up.at(PREFIX, EARLY)).map_err(in_time)?;
    (&origin).write_all(down.at(0, EARLY)).map_err(in_time)?;
    thread::scope(|scope| {
        let _ends = [Ending(&client), Ending(&origin)];
        let sending = [
            Builder::new().spawn_scoped(scope, || up.send_last(&client, PREFIX + EARLY..HAND_OFF))?,
            Builder::new().spawn_scoped(scope, || down.send_last(&origin, EARLY..HAND_OFF))?,
        ];
        let receiving = Builder::new().spawn_scoped(scope, || down.expect_last(&client, 0..HAND_OFF))?;
        let flow = Arc::new(Flow::default());
        let end = adopt(Tunnel::plain(near, far, [prefix, Vec::new()], flow));
        let mut end = end.map_err(|(_, error)| error)?;
        ends_whole(&mut end, up.expect_last(&origin, 0..HAND_OFF), sending.into_iter().chain([receiving]))
    })
}

fn stopped_reader(program: &Program, length: usize, adopt: &impl Fn(Tunnel) -> Adopted) -> io::Result<()> {
    let ((client, near), (origin, far)) = (pair()?, pair()?);
    let (up, down) = (Pattern::new(3), Pattern::new(9));
    let others = program.redirector().sockets();
    let end = adopt(Tunnel::plain(near, far, Default::default(), Arc::new(Flow::default())));
    let mut end = end.map_err(|(_, error)| error)?;
    let start = Instant::now();
    while program.redirector().sockets() < others + 2 {
        if start.elapsed() > LIMIT {
            return Err(timeout("the sockets of a tunnel did not come into the maps"));
        }
        thread::park_timeout(STALL / 100);
    }
    thread::scope(|scope| {
        // On any failure the threads end with their sockets.
        let _ends = [Ending(&client), Ending(&origin)];
        let sending = Builder::new().spawn_scoped(scope, || up.send(&client, 0..length))?;
        // The origin does not read: the client has to be held up before all bytes are swallowed.
        held_up(&client, &sending)?;
        // The other direction is not held up.
        let other = Builder::new().spawn_scoped(scope, || down.send(&origin, 0..length))?;
        let received = down.expect(&client, 0..length).and_then(|()| up.expect(&origin, 0..length));
        let received =
            received.and_then(|()| goes_on(program, [(&up, &client, &origin), (&down, &origin, &client)], length));
        ends_whole(&mut end, received, [sending, other])
    })
}

/// Checks each direction to be redirected again now that all bytes have arrived; then ends both.
fn goes_on(program: &Program, directions: [(&Pattern, &TcpStream, &TcpStream); 2], length: usize) -> io::Result<()> {
    let before = program.redirected();
    let start = Instant::now();
    let mut place = length;
    loop {
        for (pattern, from, to) in directions {
            pattern.send(from, place..place + 1)?;
            pattern.expect(to, place..place + 1)?;
        }
        place += 1;
        if program.redirected().iter().zip(before).all(|(now, before)| *now > before) {
            break;
        }
        if start.elapsed() > LIMIT {
            return Err(timeout("a direction whose reader had caught up was not redirected again"));
        }
    }
    directions.iter().try_for_each(|(_, from, _)| from.shutdown(Shutdown::Write))?;
    directions.iter().try_for_each(|(pattern, _, to)| pattern.expect_last(to, place..place))
}

/// Checks that all bytes were received, also by the threads, and that the tunnel ends by a FIN each
/// way. Otherwise reports the failure and the tunnel's end reason.
fn ends_whole<'scope>(
    end: &mut Receiver<Reason>,
    received: io::Result<()>,
    threads: impl IntoIterator<Item = ScopedJoinHandle<'scope, io::Result<()>>>,
) -> io::Result<()> {
    let joined =
        |thread: ScopedJoinHandle<'_, _>| thread.join().map_err(|_| wrong("a thread of the self-test panicked"))?;
    match received.and_then(|()| threads.into_iter().try_for_each(joined)) {
        Ok(()) => wait_for(end, CLOSED),
        Err(error) => Err(match end.try_recv() {
            Ok(reason) if !CLOSED.contains(&reason) => wrong(format!("{error}: a tunnel ended as {reason}")),
            _ => error,
        }),
    }
}

/// End reasons of a tunnel closed by both sides.
const CLOSED: &[Reason] = &[Reason::OriginClosed, Reason::ClientClosed];

/// Waits until a sender has had no bytes acknowledged for a while with bytes left to send.
fn held_up(sender: &TcpStream, sending: &ScopedJoinHandle<'_, io::Result<()>>) -> io::Result<()> {
    let start = Instant::now();
    let mut last = (tcp::progress(sender)?.acknowledged, start);
    while last.1.elapsed() < STALL {
        if sending.is_finished() {
            return Err(wrong("a reader that stopped held nobody up"));
        }
        if start.elapsed() > LIMIT {
            return Err(timeout("a sender was not held up"));
        }
        thread::park_timeout(STALL / 10);
        let acknowledged = tcp::progress(sender)?.acknowledged;
        if acknowledged != last.0 {
            last = (acknowledged, Instant::now());
        }
    }
    Ok(())
}

fn reset(adopt: &impl Fn(Tunnel) -> Adopted) -> io::Result<()> {
    let ((client, near), (origin, far)) = (pair()?, pair()?);
    let tunnel = Tunnel::plain(near, far, Default::default(), Arc::new(Flow::default()));
    let mut end = adopt(tunnel).map_err(|(_, error)| error)?;
    (&client).write_all(b"last words").map_err(in_time)?;
    let mut words = [0; 10];
    (&origin).read_exact(&mut words).map_err(in_time)?;
    tcp::reset(&client)?;
    match (&origin).read(&mut words) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => wait_for(&mut end, &[Reason::ClientReset]),
        other => Err(wrong(format!("a reset came out as {other:?}"))),
    }
}

fn wait_for(end: &mut Receiver<Reason>, wanted: &[Reason]) -> io::Result<()> {
    let start = Instant::now();
    loop {
        match end.try_recv() {
            Ok(reason) if wanted.contains(&reason) => return Ok(()),
            Err(TryRecvError::Empty) if start.elapsed() < LIMIT => thread::park_timeout(Duration::from_millis(1)),
            Err(TryRecvError::Empty) => return Err(timeout("a tunnel did not end")),
            other => return Err(wrong(format!("a tunnel ended as {other:?} instead of {wanted:?}"))),
        }
    }
}

/// Two ends of a loopback connection; the second belongs to the gateway.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // With bbr, possibly the host's default, a loopback with busy cores needs ten times as long.
    // Every kernel has reno and lets every process choose it; an accepted socket inherits it.
    let _ = set_tcp_congestion(&listener, "reno");
    let outer = socket2::Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let _ = set_tcp_congestion(&outer, "reno");
    outer.connect(&listener.local_addr()?.into())?;
    let outer = TcpStream::from(outer);
    let (inner, peer) = listener.accept()?;
    if peer != outer.local_addr()? {
        return Err(wrong("somebody else connected to the self-test"));
    }
    set_socket_recv_buffer_size(&outer, BUFFER)?;
    set_socket_send_buffer_size(&outer, BUFFER)?;
    outer.set_read_timeout(Some(LIMIT))?;
    outer.set_write_timeout(Some(LIMIT))?;
    inner.set_nonblocking(true)?;
    Ok((outer, inner))
}

/// SocketPair every wait for a socket when dropped.
struct Ending<'a>(&'a TcpStream);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

/// A stream repeating a block of random bytes. The block length is a prime, so the loss or
/// repetition of any power of two of bytes is seen. Comparing it is fast even in a debug build.
struct Pattern(Vec<u8>);

impl Pattern {
    const BLOCK: usize = 1_048_573;

    fn new(seed: u64) -> Self {
        let words = (1..).map(|place: u64| {
            // The finalizer of splitmix64: every bit of the place affects every bit of the word.
            let mut bits = (place + (seed << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits ^ (bits >> 27)
        });
        let mut block = Vec::with_capacity(Self::BLOCK + 8);
        words.take(Self::BLOCK.div_ceil(8)).for_each(|word| block.extend_from_slice(&word.to_ne_bytes()));
        block.truncate(Self::BLOCK);
        Self(block)
    }

    /// Bytes from a place to the end of the block, at most `most`.
    fn at(&self, place: usize, most: usize) -> &[u8] {
        let block = &self.0[place % Self::BLOCK..];
        &block[..most.min(block.len())]
    }

    fn send(&self, mut to: &TcpStream, range: Range<usize>) -> io::Result<()> {
        let mut place = range.start;
        while place < range.end {
            let bytes = self.at(place, range.end - place);
            to.write_all(bytes).map_err(in_time)?;
            place += bytes.len();
        }
        Ok(())
    }

    /// Sends a range and the end of the stream.
    fn send_last(&self, to: &TcpStream, range: Range<usize>) -> io::Result<()> {
        self.send(to, range)?;
        to.shutdown(Shutdown::Write)
    }

    fn expect(&self, mut from: &TcpStream, range: Range<usize>) -> io::Result<()> {
        let mut place = range.start;
        let mut buffer = vec![0; 1 << 18];
        while place < range.end {
            let expected = self.at(place, buffer.len().min(range.end - place));
            match from.read(&mut buffer[..expected.len()]).map_err(in_time)? {
                0 => return Err(wrong(format!("{place} of {} bytes came", range.end))),
                got if buffer[..got] == expected[..got] => place += got,
                _ => return Err(wrong(format!("other bytes came than were sent, after {place}"))),
            }
        }
        Ok(())
    }

    /// Expects a range and the end of the stream.
    fn expect_last(&self, mut from: &TcpStream, range: Range<usize>) -> io::Result<()> {
        let end = range.end;
        self.expect(from, range)?;
        match from.read(&mut [0]).map_err(in_time)? {
            0 => Ok(()),
            _ => Err(wrong(format!("more came than the {end} bytes that were sent"))),
        }
    }
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

fn timeout(what: &str) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("{what} within {} s", LIMIT.as_secs()))
}

fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => timeout("no byte came or went"),
        _ => error,
    }
}
