//! The engines over real sockets, each test over each engine.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Carried, Engine, Options, Relay};
use crate::reason::Reason;
use crate::sys::socket::{LegOptions, apply};
use crate::sys::tcp;
use crate::tunnel::{Direction, Flow, Tunnel};

const DEADLINE: Duration = Duration::from_secs(30);

/// A tunnel with a hand on both its ends.
struct Rig {
    client: TcpStream,
    origin: TcpStream,
    flow: Arc<Flow>,
    carried: Carried,
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
        }
        let prefix = prefix.map(<[u8]>::to_vec);
        let carried = relay.adopt(Tunnel { client: near, origin: far, prefix, flow: flow.clone() }).unwrap();
        Self { client, origin, flow, carried, _relay: relay }
    }

    /// Waits for the end of the tunnel: why, and the bytes each way.
    fn end(self) -> (Reason, u64, u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let end = runtime.block_on(async { tokio::time::timeout(DEADLINE, self.carried.end()).await });
        (end.expect("an end"), self.flow.moved(Direction::ToOrigin), self.flow.moved(Direction::ToClient))
    }
}

fn pair() -> (TcpStream, TcpStream) {
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

fn read_all(mut from: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).map(|_| bytes)
}

#[test]
fn both_directions_at_once_with_prefixes_and_half_closes() {
    for &engine in Engine::ALL {
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
    for &engine in Engine::ALL {
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

#[test]
fn a_reset_reaches_a_side_that_does_not_read() {
    for &engine in Engine::ALL {
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
    for &engine in Engine::ALL {
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
    for &engine in Engine::ALL {
        let limit = Some(Duration::from_millis(200));
        let options = Options { engines: vec![engine], idle_timeout: limit, threads: 1, ..Options::default() };
        assert_eq!(Rig::with(&options, [b"", b""]).end().0, Reason::Idle, "{engine}");
    }
}

#[test]
fn a_reader_that_stalls_for_longer_than_the_user_timeout_loses_nothing() {
    for &engine in Engine::ALL {
        let user_timeout = Duration::from_secs(1);
        let options = Options { engines: vec![engine], user_timeout, threads: 1, ..Options::default() };
        let rig = Rig::with(&options, [b"", b""]);
        let sent = noise(24 << 20, 5);
        thread::scope(|scope| {
            scope.spawn(|| {
                (&rig.client).write_all(&sent).unwrap();
                rig.client.shutdown(Shutdown::Write).unwrap();
            });
            // The stall itself is what is tested: three times the limit without a read.
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
    for &engine in Engine::ALL {
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
    for &engine in Engine::ALL {
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
    for &engine in Engine::ALL {
        let user_timeout = Duration::from_secs(1);
        let rig =
            Rig::with(&Options { engines: vec![engine], user_timeout, threads: 1, ..Options::default() }, [b"", b""]);
        let sent = noise(2 << 20, 8);
        rig.client.shutdown(Shutdown::Write).unwrap();
        (&rig.origin).write_all(&sent).unwrap();
        rig.origin.shutdown(Shutdown::Write).unwrap();
        assert!(read_all(&rig.origin).unwrap().is_empty(), "the client's end was passed on");
        // The stall itself is what is tested: both sides have ended, and only the gateway still sends.
        rig.origin.set_read_timeout(Some(user_timeout * 4)).unwrap();
        let (silent, _peer) = pair();
        silent.set_read_timeout(Some(user_timeout * 4)).unwrap();
        assert!((&silent).read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock));
        assert!(read_all(&rig.client).unwrap() == sent, "{engine}");
        assert_eq!(rig.end(), (Reason::ClientClosed, 0, sent.len() as u64), "{engine}");
    }
}
