//! Thousands of slow or garbage-sending clients.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use sluicegate::metrics::CONNECT_REQUESTS;
use sluicegate::reason::Reason;

use crate::support::client::{dial, request};
use crate::support::process::{peak_memory, raise_descriptor_limit};
use crate::support::{Gateway, Noise, Origin, client, connect};

const CROWD: usize = 1_000;

#[test]
fn slow_clients_do_not_hold_up_a_good_one() {
    raise_descriptor_limit();
    let gateway = Gateway::open(&[]);
    let origin = Origin::echo();
    let head = request(origin.address, None);
    let mut slow: Vec<TcpStream> = (0..CROWD).map(|_| dial(gateway.address)).collect();
    for byte in head.as_bytes()[..20].iter() {
        for stream in &mut slow {
            stream.write_all(&[*byte]).unwrap();
        }
        client::echoes(&connect(gateway.address, origin.address), 1_000);
    }
    gateway.wait_for_metric(&CONNECT_REQUESTS, &["200", "established"], 20);
    // Slow clients get their tunnels like any other.
    for stream in slow.iter_mut().step_by(100) {
        stream.write_all(&head.as_bytes()[20..]).unwrap();
        assert_eq!(client::read_head(stream), client::ESTABLISHED);
    }
}

#[test]
fn garbage_costs_a_bounded_buffer() {
    /// Bound on memory growth: far below the bytes sent, above a 16 KiB head and a task per client.
    const ALLOWED: usize = 32 << 20;
    const GARBAGE: usize = 64 << 10;
    raise_descriptor_limit();
    let gateway = Gateway::open(&[]);
    let origin = Origin::echo();
    client::echoes(&connect(gateway.address, origin.address), 1_000);
    let before = peak_memory(gateway.pid());
    // Letters, a possible prefix of a method or header, and bytes that can never become one.
    let letters = vec![b'A'; GARBAGE];
    let noise = Noise::new(1).take(GARBAGE);
    let crowd: Vec<TcpStream> = (0..CROWD)
        .map(|number| {
            let mut stream = dial(gateway.address);
            let garbage = if number % 2 == 0 { &letters } else { &noise };
            stream.write_all(garbage).unwrap();
            stream
        })
        .collect();
    for (number, mut stream) in crowd.into_iter().enumerate() {
        let mut answer = String::new();
        match stream.read_to_string(&mut answer) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
        }
        let status = if number % 2 == 0 { "HTTP/1.1 431 " } else { "HTTP/1.1 400 " };
        assert!(answer.starts_with(status), "{number}: {answer}");
    }
    let grown = peak_memory(gateway.pid()) - before;
    assert!(grown < ALLOWED, "{CROWD} clients with {GARBAGE} bytes each cost {grown} bytes");
    for reason in [Reason::HeadTooLarge, Reason::Malformed] {
        assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["", reason.label()]), CROWD as u64 / 2, "{reason}");
    }
    client::echoes(&connect(gateway.address, origin.address), 1_000);
}
