//! The tool against peers whose behaviour is known.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::flow::Role;
use crate::load;
use crate::origin;
use crate::socket::Way;

const SHORT: Duration = Duration::from_millis(200);

fn origin() -> SocketAddr {
    origin::start("127.0.0.1:0".parse().unwrap()).unwrap()
}

fn direct() -> Way {
    Way { proxy: None, user: None, origin: origin() }
}

/// A proxy that reads a head, answers, and hands each chunk of what the origin sends to `change`.
fn proxy(answer: &'static str, change: fn(&mut [u8])) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || serve(client, answer, change));
        }
    });
    address
}

fn serve(mut client: TcpStream, answer: &str, change: fn(&mut [u8])) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    client.write_all(answer.as_bytes()).unwrap();
    if !answer.contains(" 200 ") {
        return;
    }
    let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap();
    let origin = TcpStream::connect(target).unwrap();
    let (from, to) = (client.try_clone().unwrap(), origin.try_clone().unwrap());
    thread::spawn(move || pass(from, to, |_| {}));
    pass(origin, client, change);
}

fn pass(mut from: TcpStream, mut to: TcpStream, change: fn(&mut [u8])) {
    let mut buffer = [0; 8192];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        change(&mut buffer[..bytes]);
        if to.write_all(&buffer[..bytes]).is_err() {
            return;
        }
    }
}

#[test]
fn bulk_counts_what_arrives() {
    for role in [Role::Sink, Role::Source, Role::Both] {
        let bulk = load::bulk(&direct(), 2, role, SHORT).unwrap();
        assert!(bulk.gib_per_second > 0.0 && bulk.cpu_per_gib >= 0.0, "{role:?}: {bulk:?}");
    }
}

#[test]
fn a_rate_is_the_rate_of_the_peer() {
    // A peer that sends exactly so much and then nothing: the count ends there.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let origin = listener.local_addr().unwrap();
    let flow = crate::flow::Flow::start(1).unwrap();
    flow.add(TcpStream::connect(origin).unwrap(), Role::Sink).unwrap();
    let (mut peer, _) = listener.accept().unwrap();
    peer.write_all(&[1; 123_457]).unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while flow.moved(Role::Sink) != 123_457 {
        assert!(std::time::Instant::now() < deadline, "{} bytes counted", flow.moved(Role::Sink));
        thread::yield_now();
    }
}

#[test]
fn a_sound_proxy_passes_the_check_and_one_that_flips_a_bit_does_not() {
    let ok = "HTTP/1.1 200 Connection established\r\n\r\n";
    let sound = Way { proxy: Some(proxy(ok, |_| {})), ..direct() };
    load::verify(&sound, 8, 1).unwrap();
    let flips = Way { proxy: Some(proxy(ok, |bytes| bytes[0] ^= 1)), ..direct() };
    let error = load::verify(&flips, 8, 1).unwrap_err();
    assert_eq!(error.to_string(), "the byte at 0 is not the one that was sent");
}

#[test]
fn a_refusal_is_an_error_that_shows_the_answer() {
    let way = Way { proxy: Some(proxy("HTTP/1.1 407 who are you\r\n\r\n", |_| {})), ..direct() };
    let error = load::ping(&way, 64, SHORT).unwrap_err().to_string();
    assert_eq!(error, "the proxy answered 'HTTP/1.1 407 who are you'");
}

#[test]
fn latencies_and_connects_are_counted() {
    assert!(load::ping(&direct(), 64, SHORT).unwrap().percentile(0.5) > 0.0);
    let connects = load::connects(&direct(), 2, SHORT).unwrap();
    assert!(connects.per_second > 0.0 && !connects.latency.0.is_empty());
}
