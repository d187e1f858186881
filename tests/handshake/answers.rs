//! Properties of every answer.

use std::io::{Read, Write};

use sluicegate::metrics::CONNECT_REQUESTS;

use crate::support::client::{ESTABLISHED, dial, read_head, request};
use crate::support::tls::Certificate;
use crate::support::{Gateway, Noise, Origin, Setup, client};

#[test]
fn an_established_tunnel_has_not_a_byte_more_than_its_answer() {
    let gateway = Gateway::open(&[]);
    let origin = Origin::new().serve(|mut stream| drop(stream.write_all(b"first words of the origin")));
    let mut stream = dial(gateway.address);
    stream.write_all(request(origin.address, None).as_bytes()).unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, format!("{ESTABLISHED}first words of the origin"));
    gateway.wait_for_metric(&CONNECT_REQUESTS, &["200", "established"], 1);
}

/// Closing a socket with unread bytes sends a reset, and a reset destroys an unread answer.
#[test]
fn a_client_that_goes_on_sending_reads_its_whole_answer() {
    let gateway = Gateway::open(&[]);
    for more in [1, 10_000, 200_000] {
        let mut stream = dial(gateway.address);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        stream.write_all(&Noise::new(1).take(more)).unwrap();
        let answer = client::answer(stream);
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.ends_with("admin address\n"), "{answer}");
    }
}

#[test]
fn after_a_refusal_nothing_more_is_served() {
    let gateway = Gateway::open(&[]);
    let origin = Origin::echo();
    let two = format!("GET / HTTP/1.1\r\n\r\n{}", request(origin.address, None));
    let (_, answer) = client::ask(gateway.address, two.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["200", "established"]), 0);
}

#[test]
fn who_leaves_before_the_request_is_complete_is_counted_and_not_answered() {
    let gateway = Setup::new(&["--no-auth"]).debug().start();
    // A port check, logged at debug level only, and a truncated request.
    for (bytes, level) in [(&b""[..], "DEBUG"), (b"CONNECT 127.0.0.1:443 HT", "INFO")] {
        let mut stream = dial(gateway.address);
        stream.write_all(bytes).unwrap();
        let from = stream.local_addr().unwrap();
        drop(stream);
        let line = gateway.refusal_line(from);
        assert_eq!((line.level(), line.text("reason")), (level, "client_gone"), "{}", line.raw);
        assert!(line.code() == "none" && line.number("id") > 0, "{}", line.raw);
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", "client_gone"]), 2);
}

/// Go's connection pool and browsers connect ahead of need: an answer would belong to no request.
#[test]
fn a_client_that_never_sends_a_byte_is_closed_without_an_answer() {
    let arguments = ["--no-auth", "--handshake-timeout", "300ms"];
    let Some(certificate) = Certificate::make() else { return };
    let gateway = certificate.shown_by(Setup::new(&arguments)).debug().start();
    let behind = Setup::new(&arguments).args(["--proxy-protocol-from", "127.0.0.0/8"]).debug().start();
    for (gateway, address, what) in [
        (&gateway, gateway.address, "request"),
        (&gateway, gateway.secure.unwrap(), "TLS handshake"),
        (&behind, behind.address, "PROXY header"),
    ] {
        let stream = dial(address);
        let from = stream.local_addr().unwrap();
        assert_eq!(client::answer(stream), "");
        let line = gateway.refusal_line(from);
        let detail = format!("no byte of a {what} received within 300ms (--handshake-timeout)");
        let said = (line.level(), &*line.code(), line.text("reason"), line.text("detail"));
        assert_eq!(said, ("DEBUG", "none", "silent", detail.as_str()), "{}", line.raw);
    }
    // A PROXY header alone is not part of a request either.
    let mut stream = dial(behind.address);
    stream.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.1 40000 3128\r\n").unwrap();
    assert_eq!(client::answer(stream), "");
    let line = behind.refusal_line("203.0.113.9:40000".parse().unwrap());
    assert_eq!((line.text("reason"), line.level()), ("silent", "DEBUG"), "{}", line.raw);
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", "silent"]), 2);
}

/// The client sends half of its request, and the rest any time later.
#[test]
fn a_request_may_come_in_any_number_of_pieces() {
    let gateway = Gateway::open(&[]);
    let origin = Origin::echo();
    let mut stream = dial(gateway.address);
    stream.set_nodelay(true).unwrap();
    for byte in request(origin.address, None).bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_head(&stream), ESTABLISHED);
    client::echoes(&stream, 100);
}
