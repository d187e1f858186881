//! Tests of the engines over real sockets, each test with each engine.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::{ClassThresholds, Engine, Options, Relay, RelayedTunnel};
use crate::reason::Reason;
use crate::sys::capabilities::{FOR_BPF, missing};
use crate::sys::socket::{LegOptions, apply};
use crate::sys::tcp;
use crate::tunnel::{Direction, Flow, Tunnel};

/// The engines this process may run: `sockmap` needs capabilities to start.
fn engines() -> &'static [Engine] {
    if missing(FOR_BPF).is_empty() { Engine::ALL } else { Engine::AUTO }
}

pub(super) const DEADLINE: Duration = Duration::from_secs(30);

/// A tunnel and the sockets at both its ends.
struct Rig {
    client: TcpStream,
    origin: TcpStream,
    flow: Arc<Flow>,
    carried: RelayedTunnel,
    _relay: Relay,
}

impl Rig {
    fn new(engine: Engine, prefix: [&[u8]; 2]) -> Self {
        Self::with(&Options { engines: vec![engine], threads: 2, ..Options::default() }, prefix)
    }

    fn with(options: &Options, prefix: [&[u8]; 2]) -> Self {
        let relay = Relay::start(options).unwrap();
        let (client, near) = pair();
        let (origin, far) = pair();
        let flow = Arc::new(Flow::default());
        for near in [&near, &far] {
            let leg = LegOptions { user_timeout: options.user_timeout, ..LegOptions::default() };
            apply(near, &leg).unwrap();
            near.set_nonblocking(true).unwrap();
        }
        let prefix = prefix.map(<[u8]>::to_vec);
        let carried = relay.adopt(Tunnel::plain(near, far, prefix, flow.clone())).unwrap();
        Self { client, origin, flow, carried, _relay: relay }
    }

    /// Waits for the end of the tunnel; returns the reason and the bytes each way.
    fn end(self) -> (Reason, u64, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let end = runtime.block_on(async { tokio::time::timeout(DEADLINE, self.carried.end()).await });
        (end.expect("an end"), self.flow.moved(Direction::ToOrigin), self.flow.moved(Direction::ToClient))
    }
}

pub(super) fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let two = listener.accept().unwrap().0;
    for socket in [&one, &two] {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
    }
    (one, two)
}

fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        bytes.extend_from_slice(&seed.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn read_all(mut from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn both_directions_at_once_with_prefixes_and_half_closes() {
    for &engine in engines() {
        let (up, down) = (noise(8 << 20, 1), noise(5 << 20, 2));
        let rig = Rig::new(engine, [&up[..3_000], &down[..7]]);
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                (&rig.client).write_all(&up[3_000..]).unwrap();
                rig.client.shutdown(Shutdown::Write).unwrap();
            });
            let answering = scope.spawn(|| (&rig.origin).write_all(&down[7..]).unwrap());
            let receiving = scope.spawn(|| read_all(&rig.client).unwrap());
            assert!(read_all(&rig.origin).unwrap() == up, "{engine}");
            sending.join().unwrap();
            answering.join().unwrap();
            rig.origin.shutdown(Shutdown::Write).unwrap();
            assert!(receiving.join().unwrap() == down, "{engine}");
        });
        assert_eq!(rig.end(), (Reason::ClientClosed, up.len() as u64, down.len() as u64), "{engine}");
    }
}

#[test]
fn a_reset_is_passed_on_as_a_reset_behind_the_bytes_that_came_before() {
    for &engine in engines() {
        for (from, why) in [(Direction::ToOrigin, Reason::ClientReset), (Direction::ToClient, Reason::OriginReset)] {
            let rig = Rig::new(engine, [b"", b""]);
            let (breaks, hears) = match from {
                Direction::ToOrigin => (&rig.client, &rig.origin),
                Direction::ToClient => (&rig.origin, &rig.client),
            };
            let sent = noise(300_000, 3);
            (&mut &*breaks).write_all(&sent).unwrap();
            let deadline = Instant::now() + DEADLINE;
            while tcp::unacknowledged(breaks).unwrap() > 0 {
                assert!(Instant::now() < deadline);
                thread::yield_now();
            }
            tcp::reset(breaks).unwrap();
            let mut received = Vec::new();
            let mut hears = hears;
            let error = hears.read_to_end(&mut received).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{engine} {from:?}");
            assert!(received == sent, "{engine} {from:?}: {} of {}", received.len(), sent.len());
            let (end, up, down) = rig.end();
            assert_eq!((end, up + down), (why, sent.len() as u64), "{engine}");
        }
    }
}

/// Reads slowly for longer than a reader may stand still, but never stands still.
#[test]
fn a_slow_reader_gets_all_that_came_before_a_reset() {
    for &engine in engines() {
        let rig = Rig::new(engine, [b"", b""]);
        socket2::SockRef::from(&rig.client).set_recv_buffer_size(256 << 10).unwrap();
        let sent = noise(3 << 20, 9);
        (&rig.origin).write_all(&sent).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while tcp::unacknowledged(&rig.origin).unwrap() > 0 {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        tcp::reset(&rig.origin).unwrap();
        let (mut received, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        let error = loop {
            match (&rig.client).read(&mut piece) {
                Ok(0) => panic!("{engine}: a clean end behind {} bytes", received.len()),
                Ok(bytes) => received.extend_from_slice(&piece[..bytes]),
                Err(error) => break error,
            }
            // The slowness is under test: some two seconds in all.
            thread::park_timeout(Duration::from_millis(40));
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{engine}");
        assert!(received == sent, "{engine}: {} of {} bytes", received.len(), sent.len());
        assert_eq!(rig.end().0, Reason::OriginReset, "{engine}");
    }
}

#[test]
fn a_reset_reaches_a_side_that_does_not_read() {
    for &engine in engines() {
        let rig = Rig::new(engine, [b"", b""]);
        let block = noise(1 << 20, 4);
        rig.client.set_nonblocking(true).unwrap();
        let mut last = Instant::now();
        while last.elapsed() < Duration::from_millis(300) {
            match (&rig.client).write(&block) {
                Ok(taken) => last = if taken > 0 { Instant::now() } else { last },
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        tcp::reset(&rig.client).unwrap();
        let origin = rig.origin.try_clone().unwrap();
        assert_eq!(rig.end().0, Reason::ClientReset, "{engine}");
        assert_eq!(read_all(&origin).unwrap_err().kind(), ErrorKind::ConnectionReset, "{engine}");
    }
}

#[test]
fn a_stopped_tunnel_is_reset_on_both_sides() {
    for &engine in engines() {
        let rig = Rig::new(engine, [b"", b""]);
        rig.flow.stop(Reason::Killed);
        for socket in [&rig.client, &rig.origin] {
            assert_eq!(read_all(socket).unwrap_err().kind(), ErrorKind::ConnectionReset, "{engine}");
        }
        assert_eq!(rig.end(), (Reason::Killed, 0, 0), "{engine}");
    }
}

#[test]
fn an_idle_tunnel_is_ended_only_where_that_was_asked_for() {
    for &engine in engines() {
        let limit = Some(Duration::from_millis(200));
        let options = Options { engines: vec![engine], idle_timeout: limit, threads: 1, ..Options::default() };
        assert_eq!(Rig::with(&options, [b"", b""]).end().0, Reason::Idle, "{engine}");
    }
}

#[test]
fn a_reader_that_stalls_for_longer_than_the_user_timeout_loses_nothing() {
    for &engine in engines() {
        let user_timeout = Duration::from_secs(1);
        let options = Options { engines: vec![engine], user_timeout, threads: 1, ..Options::default() };
        let rig = Rig::with(&options, [b"", b""]);
        let sent = noise(24 << 20, 5);
        thread::scope(|scope| {
            scope.spawn(|| {
                (&rig.client).write_all(&sent).unwrap();
                rig.client.shutdown(Shutdown::Write).unwrap();
            });
            // The stall is under test: three times the limit without a read.
            let stalled = Instant::now();
            rig.client.set_read_timeout(Some(user_timeout * 3)).unwrap();
            assert!((&rig.client).read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
            assert!(stalled.elapsed() >= user_timeout * 3);
            assert!(read_all(&rig.origin).unwrap() == sent, "{engine}");
        });
        rig.origin.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rig.end(), (Reason::ClientClosed, sent.len() as u64, 0), "{engine}");
    }
}

#[test]
fn urgent_data_is_data_in_its_place() {
    use rustix::net::{SendFlags, send};
    for &engine in engines() {
        let rig = Rig::new(engine, [b"", b""]);
        for _ in 0..3 {
            (&rig.client).write_all(b"before").unwrap();
            assert_eq!(send(&rig.client, b"!", SendFlags::OOB).unwrap(), 1);
            (&rig.client).write_all(b"after").unwrap();
            let mut received = [0; 12];
            (&rig.origin).read_exact(&mut received).unwrap();
            assert_eq!(&received, b"before!after", "{engine}");
        }
        rig.client.shutdown(Shutdown::Write).unwrap();
        rig.origin.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rig.end().1, 36, "{engine}");
    }
}

#[test]
fn an_end_behind_urgent_data_comes_behind_it() {
    use rustix::net::{SendFlags, send};
    for &engine in engines() {
        for round in 0..12 {
            let rig = Rig::new(engine, [b"", b""]);
            let before = noise(70_000 * (round % 4), 6 + round as u64);
            (&rig.client).write_all(&before).unwrap();
            assert_eq!(send(&rig.client, b"!", SendFlags::OOB).unwrap(), 1);
            (&rig.client).write_all(b"after").unwrap();
            rig.client.shutdown(Shutdown::Write).unwrap();
            let wanted = [&before[..], b"!after"].concat();
            let received = read_all(&rig.origin).unwrap();
            assert!(received == wanted, "{engine}, round {round}: {} of {} bytes", received.len(), wanted.len());
            rig.origin.shutdown(Shutdown::Write).unwrap();
            assert_eq!(rig.end().1, wanted.len() as u64, "{engine}");
        }
    }
}

#[test]
fn a_reader_that_stalls_when_all_has_ended_loses_nothing() {
    for &engine in engines() {
        let user_timeout = Duration::from_secs(2);
        let stall = Duration::from_secs(5);
        let rig =
            Rig::with(&Options { engines: vec![engine], user_timeout, threads: 1, ..Options::default() }, [b"", b""]);
        let sent = noise(2 << 20, 8);
        rig.client.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&rig.origin).unwrap().is_empty(), "the client's end was passed on");
        (&rig.origin).write_all(&sent).unwrap_or_else(|error| panic!("{engine}: {error}"));
        rig.origin.shutdown(Shutdown::Write).unwrap();
        // The stall is under test: both sides have ended, and only the gateway still sends.
        let (silent, _peer) = pair();
        silent.set_read_timeout(Some(stall)).unwrap();
        assert!((&silent).read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        assert!(read_all(&rig.client).unwrap() == sent, "{engine}");
        assert_eq!(rig.end(), (Reason::ClientClosed, 0, sent.len() as u64), "{engine}");
    }
}

/// The engines with migration between workers.
const OF_LOOPS: [Engine; 2] = [Engine::Uring, Engine::Splice];

impl Rig {
    /// Number of migrations between workers, including those of the self-test.
    fn moves(&self) -> u64 {
        match &self._relay.running[0] {
            super::Running::Workers(_, loops) => loops.migrations(),
            super::Running::Copy(_) => 0,
        }
    }
}

/// Sends noise while `more` returns true, then ends the stream; returns the number of bytes.
fn send_while(mut to: &TcpStream, seed: u64, more: impl Fn() -> bool) -> usize {
    let (block, mut sent) = (noise(1 << 20, seed), 0);
    while more() {
        // Pieces of any size, so migrations happen at any position.
        let piece = 1 + (sent * 31 + 7_919) % (block.len() - 1);
        to.write_all(&block[..piece]).unwrap();
        sent += piece;
    }
    to.shutdown(Shutdown::Write).unwrap();
    sent
}

/// Reads and checks the stream of [`send_while`] to its end; returns the number of bytes.
fn receive_while(mut from: &TcpStream, seed: u64) -> usize {
    let (block, mut received, mut bytes) = (noise(1 << 20, seed), 0, vec![0; 1 << 20]);
    let (mut sent, mut piece, mut at) = (0, 0, 0);
    loop {
        let got = from.read(&mut bytes).unwrap();
        if got == 0 {
            assert_eq!(at, piece, "the stream ended in the middle of a piece");
            return received;
        }
        let mut seen = 0;
        while seen < got {
            if at == piece {
                sent += piece;
                piece = 1 + (sent * 31 + 7_919) % (block.len() - 1);
                at = 0;
            }
            let same = (piece - at).min(got - seen);
            assert!(bytes[seen..seen + same] == block[at..at + same], "wrong after {} bytes", received + seen);
            (seen, at) = (seen + same, at + same);
        }
        received += got;
    }
}

#[test]
fn bytes_are_exact_while_their_tunnel_moves_a_thousand_times() {
    for engine in OF_LOOPS {
        // Every byte makes the tunnel bulk, and every tunnel is calm a moment later.
        let moment = Duration::from_micros(200);
        let thresholds = ClassThresholds { bulk: 1, window: DEADLINE, calm: u64::MAX, rest: moment };
        let rig =
            Rig::with(&Options { engines: vec![engine], threads: 2, thresholds, ..Options::default() }, [b"", b""]);
        let start = Instant::now();
        let few = || {
            assert!(start.elapsed() < DEADLINE, "{engine}: only {} moves", rig.moves());
            rig.moves() < 1_000
        };
        let (up, down) = thread::scope(|scope| {
            let up = scope.spawn(|| send_while(&rig.client, 11, few));
            let down = scope.spawn(|| send_while(&rig.origin, 12, few));
            let received = scope.spawn(|| receive_while(&rig.client, 12));
            assert_eq!(receive_while(&rig.origin, 11), up.join().unwrap(), "{engine}");
            let down = down.join().unwrap();
            assert_eq!(received.join().unwrap(), down, "{engine}");
            (rig.flow.moved(Direction::ToOrigin), down)
        });
        assert!(rig.moves() >= 1_000);
        let (_, moved_up, moved_down) = rig.end();
        assert_eq!((moved_up, moved_down), (up, down as u64), "{engine}");
    }
}

#[test]
fn a_tunnel_moves_when_it_becomes_bulk_and_back_when_it_is_calm() {
    for engine in OF_LOOPS {
        let rig = Rig::new(engine, [b"", b""]);
        let of_self_test = rig.moves();
        let until = |moves: u64| {
            let deadline = Instant::now() + DEADLINE;
            while rig.moves() < of_self_test + moves {
                assert!(Instant::now() < deadline, "{engine}: {} moves, not {moves} more", rig.moves());
                thread::yield_now();
            }
        };
        for round in 1..=2 {
            // A few words are not bulk.
            (&rig.client).write_all(b"word").unwrap();
            (&rig.origin).read_exact(&mut [0; 4]).unwrap();
            assert_eq!(rig.moves(), of_self_test + 2 * (round - 1), "{engine}");
            let sent = noise(64 << 20, round);
            thread::scope(|scope| {
                scope.spawn(|| (&rig.client).write_all(&sent).unwrap());
                let mut received = vec![0; sent.len()];
                (&rig.origin).read_exact(&mut received).unwrap();
                assert!(received == sent, "{engine}");
            });
            until(2 * round);
        }
    }
}

/// One worker and no bulk class: only fair scheduling lets the small tunnel through.
#[test]
fn a_small_tunnel_has_its_turn_beside_those_that_never_stop() {
    for engine in OF_LOOPS {
        let thresholds = ClassThresholds { bulk: u64::MAX, ..ClassThresholds::default() };
        let options = Options { engines: vec![engine], threads: 1, thresholds, ..Options::default() };
        let rig = Rig::with(&options, [b"", b""]);
        let bulk: Vec<_> = (0..3).map(|_| more(&rig)).collect();
        let over = std::sync::atomic::AtomicBool::new(false);
        thread::scope(|scope| {
            for (client, origin, _) in &bulk {
                scope.spawn(|| send_while(client, 21, || !over.load(std::sync::atomic::Ordering::Relaxed)));
                scope.spawn(|| receive_while(origin, 21));
            }
            let moved = || bulk.iter().map(|(_, _, flow)| flow.moved(Direction::ToOrigin)).min().unwrap_or(0);
            let deadline = Instant::now() + DEADLINE;
            while moved() == 0 && Instant::now() < deadline {
                thread::yield_now();
            }
            for _ in 0..500 {
                (&rig.client).write_all(b"ping").unwrap();
                (&rig.origin).read_exact(&mut [0; 4]).unwrap();
                (&rig.origin).write_all(b"pong").unwrap();
                (&rig.client).read_exact(&mut [0; 4]).unwrap();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert!(bulk.iter().all(|(_, _, flow)| flow.moved(Direction::ToOrigin) > 0), "{engine}");
    }
}

#[test]
fn bulk_tunnels_share_the_loops_evenly_whoever_came_between() {
    for engine in OF_LOOPS {
        let thresholds = ClassThresholds { bulk: 1 << 20, window: DEADLINE, calm: 0, rest: Duration::from_millis(20) };
        let options = Options { engines: vec![engine], threads: 2, thresholds, ..Options::default() };
        let rig = Rig::with(&options, [b"", b""]);
        // An idle tunnel behind each: by their numbers all four belong to one worker.
        let bulk: Vec<_> = (0..4).map(|_| [more(&rig), more(&rig)]).collect();
        let over = std::sync::atomic::AtomicBool::new(false);
        let shares = || match &rig._relay.running[0] {
            super::Running::Workers(_, loops) => loops.bulk(),
            super::Running::Copy(_) => Vec::new(),
        };
        thread::scope(|scope| {
            for [(client, origin, _), _] in &bulk {
                scope.spawn(|| send_while(client, 21, || !over.load(std::sync::atomic::Ordering::Relaxed)));
                scope.spawn(|| receive_while(origin, 21));
            }
            let deadline = Instant::now() + DEADLINE;
            while shares() != [2, 2] && Instant::now() < deadline {
                thread::yield_now();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(shares(), [2, 2], "{engine}");
    }
}

/// Opens another tunnel of the relay.
fn more(rig: &Rig) -> (TcpStream, TcpStream, Arc<Flow>) {
    let ((client, near), (origin, far)) = (pair(), pair());
    for near in [&near, &far] {
        near.set_nonblocking(true).unwrap();
    }
    let flow = Arc::new(Flow::default());
    let tunnel = Tunnel::plain(near, far, Default::default(), flow.clone());
    drop(rig._relay.adopt(tunnel).unwrap());
    (client, origin, flow)
}

#[test]
fn a_tunnel_is_stopped_wherever_it_is() {
    for engine in OF_LOOPS {
        let thresholds =
            ClassThresholds { bulk: 1, window: DEADLINE, calm: u64::MAX, rest: Duration::from_micros(200) };
        let options = Options { engines: vec![engine], threads: 2, thresholds, ..Options::default() };
        let rig = Rig::with(&options, [b"", b""]);
        for round in 0..300_u64 {
            let (client, origin, flow) = more(&rig);
            thread::scope(|scope| {
                // The tunnel migrates all the time, and is stopped in the midst of it.
                scope.spawn(|| while (&client).write(&[7; 10_000]).is_ok() {});
                scope.spawn(|| while (&origin).read(&mut [0; 65_536]).is_ok_and(|bytes| bytes > 0) {});
                let wanted = round * 1_999;
                let deadline = Instant::now() + DEADLINE;
                while flow.moved(Direction::ToOrigin) < wanted {
                    assert!(Instant::now() < deadline);
                    thread::yield_now();
                }
                flow.stop(Reason::Killed);
            });
        }
    }
}

/// An error of a system call, and one without a number derived from a socket's state.
#[test]
fn a_fault_names_the_side_and_what_became_of_it() {
    let why = |direction, error: io::Error| Fault::of_source(direction, error).reason();
    for (error, reasons) in [
        (libc::ECONNRESET, [Reason::ClientReset, Reason::OriginReset]),
        (libc::EPIPE, [Reason::ClientReset, Reason::OriginReset]),
        (libc::ETIMEDOUT, [Reason::ClientLost, Reason::OriginLost]),
        (libc::EHOSTUNREACH, [Reason::ClientLost, Reason::OriginLost]),
        (libc::ENOMEM, [Reason::EngineFailed; 2]),
    ] {
        let error = || io::Error::from_raw_os_error(error);
        assert_eq!([why(Direction::ToOrigin, error()), why(Direction::ToClient, error())], reasons, "{}", error());
        assert_eq!(Fault::of_destination(Direction::ToOrigin, error()).reason(), reasons[1]);
    }
    assert_eq!(why(Direction::ToClient, ErrorKind::ConnectionReset.into()), Reason::OriginReset);
    assert_eq!(why(Direction::ToOrigin, ErrorKind::UnexpectedEof.into()), Reason::EngineFailed);
}
