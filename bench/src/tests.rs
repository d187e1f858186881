//! Tests of the tool against peers of known behaviour.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::contender::Contender;
use crate::flow::Role;
use crate::load;
use crate::origin;
use crate::socket::{Proxy, Route};
use crate::{compare, relay, rows, scale};

const SHORT: Duration = Duration::from_millis(200);

const OK: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// Change applied by a proxy to each chunk from the origin.
type Change = fn(&mut [u8]);

fn origin() -> SocketAddr {
    origin::start("127.0.0.1:0".parse().unwrap(), false).unwrap()
}

fn direct() -> Route {
    Route { proxy: None, origin: origin() }
}

/// Route through a proxy that reads a request head, answers, and applies `change` to data from the
/// origin.
fn through(answer: &'static str, change: Change) -> Route {
    let address = serve(move |mut client| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        client.write_all(answer.as_bytes()).unwrap();
        if answer.contains(" 200 ") {
            let head = String::from_utf8(head).unwrap();
            let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
            tunnel(client, target.parse().unwrap(), change);
        }
    });
    Route { proxy: Some(Proxy::Connect { address, user: Some("a:b".into()) }), ..direct() }
}

/// Route through a proxy with a fixed target.
fn plainly(change: Change) -> Route {
    let origin = origin();
    Route { proxy: Some(Proxy::Plain(serve(move |client| tunnel(client, origin, change)))), origin }
}

/// Starts a listener, and a thread for each connection.
fn serve(work: impl Fn(TcpStream) + Copy + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || work(client));
        }
    });
    address
}

fn tunnel(client: TcpStream, target: SocketAddr, change: Change) {
    let origin = TcpStream::connect(target).unwrap();
    let (from, to) = (client.try_clone().unwrap(), origin.try_clone().unwrap());
    thread::spawn(move || pass(from, to, |_| {}));
    pass(origin, client, change);
}

fn pass(mut from: TcpStream, mut to: TcpStream, change: Change) {
    let mut buffer = [0; 8192];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..bytes]);
        if to.write_all(&buffer[..bytes]).is_err() {
            return;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Write);
}

#[test]
fn bulk_counts_what_arrives() {
    for role in [Role::Sink, Role::Source, Role::Both] {
        let bulk = load::bulk(&direct(), 2, role, SHORT).unwrap();
        assert!(bulk.gib_per_second > 0.0 && bulk.cpu_per_gib >= 0.0, "{role:?}: {bulk:?}");
    }
}

#[test]
fn the_rate_is_that_of_a_peer_whose_rate_is_known() {
    // 64 KiB every 2 ms by the clock, independent of the pauses: 31.25 MiB/s.
    const CHUNK: usize = 64 << 10;
    const EVERY: Duration = Duration::from_millis(2);
    let origin = serve(|mut client| {
        client.read_exact(&mut [0]).unwrap();
        let start = Instant::now();
        for number in 1.. {
            if client.write_all(&[7; CHUNK]).is_err() {
                return;
            }
            load::pause((EVERY * number).saturating_sub(start.elapsed()));
        }
    });
    let route = Route { proxy: None, origin };
    let bulk = load::bulk(&route, 2, Role::Sink, Duration::from_secs(1)).unwrap();
    let known = 2.0 * CHUNK as f64 / EVERY.as_secs_f64() / f64::from(1 << 30);
    let ratio = bulk.gib_per_second / known;
    assert!((0.8..1.2).contains(&ratio), "{ratio} of the rate that is known");
}

#[test]
fn the_latency_is_that_of_a_peer_whose_latency_is_known() {
    const DELAY: Duration = Duration::from_millis(4);
    let origin = serve(|mut client| {
        client.read_exact(&mut [0]).unwrap();
        let mut message = [0; 64];
        while client.read_exact(&mut message).is_ok() {
            load::pause(DELAY);
            if client.write_all(&message).is_err() {
                return;
            }
        }
    });
    let route = Route { proxy: None, origin };
    for samples in [load::ping(&route, 64, SHORT).unwrap(), load::paced(&route, SHORT).unwrap()] {
        let p50 = samples.percentile(0.5);
        assert!((4_000.0..8_000.0).contains(&p50), "{p50} us");
    }
}

#[test]
fn a_sound_proxy_passes_the_check_and_one_that_flips_a_bit_does_not() {
    for sound in [direct(), through(OK, |_| {}), plainly(|_| {})] {
        assert!(load::verify(&sound, 3, 1 << 20).unwrap() > 0.0);
    }
    for flips in [through(OK, |bytes| bytes[0] ^= 1), plainly(|bytes| bytes[0] ^= 1)] {
        let error = load::verify(&flips, 1, 1 << 20).unwrap_err();
        assert_eq!(error.to_string(), "tunnel 0: the byte at 0 is not the one that was sent");
    }
}

#[test]
fn a_refusal_is_an_error_that_shows_the_answer() {
    let route = through("HTTP/1.1 407 who are you\r\n\r\n", |_| {});
    let error = load::ping(&route, 64, SHORT).unwrap_err().to_string();
    assert_eq!(error, "the proxy answered 'HTTP/1.1 407 who are you'");
}

#[test]
fn latencies_and_connects_are_counted() {
    let beside = load::beside(&direct(), 2, SHORT).unwrap();
    assert!(beside.samples.percentile(0.5) > 0.0 && beside.with > 0.0);
    for measure in [load::connects, load::short] {
        let connects = measure(&through(OK, |_| {}), 2, SHORT).unwrap();
        assert!(connects.per_second > 0.0 && !connects.latency.0.is_empty());
    }
}

#[test]
fn a_short_tunnel_that_is_cut_is_an_error() {
    let origin = serve(|mut client| {
        client.read_exact(&mut [0]).unwrap();
        client.write_all(&[7; 1_000]).unwrap();
    });
    let error = load::short(&Route { proxy: None, origin }, 1, SHORT).unwrap_err();
    assert_eq!(error.to_string(), "1000 bytes arrived instead of 65536");
}

/// Sent bytes may still be on their way; bytes counted by the origin have arrived.
#[test]
fn an_origin_tells_how_much_has_come() {
    let origin = origin();
    let mut far = TcpStream::connect(origin).unwrap();
    assert_eq!(origin::count(&mut far).unwrap(), 0);
    let mut sender = TcpStream::connect(origin).unwrap();
    sender.write_all(&[origin::encode_request(Role::Sink, 0)]).unwrap();
    sender.write_all(&[7; 100_000]).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut come = 0;
    while come < 100_000 {
        assert!(Instant::now() < deadline, "{come}");
        come = origin::count(&mut far).unwrap();
    }
    assert_eq!(come, 100_000);
}

#[test]
fn the_relay_on_tokio_uring_passes_every_byte() {
    let origin = origin();
    let address = relay::start("127.0.0.1:0".parse().unwrap(), origin, 2).unwrap();
    let route = Route { proxy: Some(Proxy::Plain(address)), origin };
    load::verify(&route, 3, 8 << 20).unwrap();
    load::short(&route, 2, SHORT).unwrap();
}

#[test]
fn everything_is_measured_of_everybody() {
    let origin = origin();
    let address = relay::start("127.0.0.1:0".parse().unwrap(), origin, 1).unwrap();
    let mut contenders = [Contender::direct(origin), Contender::running("relay", Some(Proxy::Plain(address)), origin)];
    let time = Duration::from_millis(50);
    let plan = compare::Plan { rounds: 2, time, idle: 10, ..compare::Plan::full(vec![1, 2]) };
    let rows = compare::compare(&mut contenders, &plan).unwrap();
    for row in rows.iter().filter(|row| row.what != rows::IDLE_NAME && !row.unit.contains("gateway CPU")) {
        let counts: Vec<_> = row.samples.iter().map(|samples| samples.0.len()).collect();
        assert_eq!(counts, [2, 2], "{}, {}", row.what, row.unit);
    }
    let sizes = vec![scale::Size { open: 2, busy: 2 }, scale::Size { open: 4, busy: 0 }];
    let points = scale::scale(&mut contenders, &scale::Plan { rounds: 1, time, sizes }).unwrap();
    assert_eq!(scale::rows(&points).filter(|row| row.unit == rows::unit::RATE).count(), 1);
}
