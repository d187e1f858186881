//! Requests to switch protocols, and answers of origins other than 101.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use sluicegate::metrics::CONNECT_REQUESTS;
use sluicegate::reason::Reason;

use super::refused::{Refused, check};
use crate::support::client::{self, SWITCHED, SWITCHING, dial, read_head, upgrade, upgrade_at_origin};
use crate::support::{Gateway, Noise, Origin, Setup};

/// Bytes sent right after the head; only a tunnel may carry them.
const EARLY: &[u8] = b"CONNECT smuggled:1 HTTP/1.1\r\n\r\n";

/// One request and its answer: the origin answers after the head and these bytes of content, and
/// must then receive nothing more.
fn exchange(gateway: &Gateway, lines: &str, content: &[u8], answer: &[u8]) -> (SocketAddr, String) {
    let origin = Origin::new();
    let mut stream = dial(gateway.address);
    let from = stream.local_addr().expect("an address");
    let head = upgrade(origin.address, None, lines);
    stream.write_all(&[head.as_bytes(), content, EARLY].concat()).expect("the gateway reads");
    let mut at_origin = origin.accept();
    assert_eq!(read_head(&at_origin), upgrade_at_origin(origin.address, lines));
    let mut carried = vec![0; content.len()];
    at_origin.read_exact(&mut carried).expect("the content");
    assert!(carried == content);
    at_origin.write_all(answer).expect("the gateway reads");
    at_origin.shutdown(Shutdown::Write).expect("an open stream");
    let answer = client::answer(stream);
    let mut more = Vec::new();
    at_origin.read_to_end(&mut more).expect("a clean end");
    assert!(more.is_empty(), "{}", more.escape_ascii());
    (from, answer)
}

/// Sends a request with these header lines and returns both ends; the origin has read the head.
fn asking(gateway: &Gateway, lines: &str) -> (TcpStream, TcpStream) {
    let origin = Origin::new();
    let mut stream = dial(gateway.address);
    stream.write_all(upgrade(origin.address, None, lines).as_bytes()).expect("the gateway reads");
    let at_origin = origin.accept();
    assert_eq!(read_head(&at_origin), upgrade_at_origin(origin.address, lines));
    (stream, at_origin)
}

#[test]
fn an_answer_other_than_101_is_passed_on_whole_and_there_is_no_tunnel() {
    let gateway = Gateway::open(&[]);
    let noise = "x".repeat(300_000);
    let long = format!("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n{noise}");
    let unbounded = format!("HTTP/1.1 200 OK\r\n\r\n{noise}");
    let table = [
        (
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nA: b\r\n\r\nno",
            "403 Forbidden\r\nA: b\r\nContent-Length: 2",
            "no",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nno\r\n0\r\nT: 1\r\n\r\n",
            "200 OK\r\nTransfer-Encoding: chunked",
            "2;x=y\r\nno\r\n0\r\nT: 1\r\n\r\n",
        ),
        // Extra bytes after an answer are discarded.
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\nHTTP/1.1 101 x\r\n\r\n", "500 Oops\r\nContent-Length: 0", ""),
        ("HTTP/1.1 204 No Content\r\n\r\nmore", "204 No Content", ""),
        (
            "HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic\r\n\r\nno",
            "401 Unauthorized\r\nWWW-Authenticate: Basic",
            "no",
        ),
        (&long, "200 OK\r\nContent-Length: 300000", &noise),
        (&unbounded, "200 OK", &noise),
    ];
    let requests = table.len() as u64;
    for (sent, head, body) in table {
        let (from, answer) = exchange(&gateway, "", b"", sent.as_bytes());
        assert_eq!(answer, format!("HTTP/1.1 {head}\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n{body}"));
        let line = gateway.refusal_line(from);
        let detail = format!("the origin answered {}", &head[..3]);
        assert_eq!((line.text("reason"), line.text("detail")), ("not_upgraded", detail.as_str()), "{}", line.raw);
        assert_eq!((line.text("upgrade"), line.level()), ("x/1", "INFO"), "{}", line.raw);
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", Reason::NotUpgraded.label()]), requests);
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["101", "established"]), 0);
}

#[test]
fn interim_answers_come_before() {
    let gateway = Gateway::open(&[]);
    let sent = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 426 No\r\nUpgrade: y\r\n\
                Connection: Upgrade\r\nContent-Length: 0\r\n\r\n";
    let expected = "HTTP/1.1 100 Continue\r\nVia: 1.1 sluicegate\r\n\r\n\
                    HTTP/1.1 103 Early Hints\r\nLink: a\r\nVia: 1.1 sluicegate\r\n\r\n\
                    HTTP/1.1 426 No\r\nContent-Length: 0\r\nVia: 1.1 sluicegate\r\nConnection: close, Upgrade\r\nUpgrade: y\r\n\r\n";
    assert_eq!(exchange(&gateway, "", b"", sent.as_bytes()).1, expected);
}

/// A 1xx ends at its empty line; white space before a colon is removed.
#[test]
fn answers_with_fields_that_mean_nothing() {
    let gateway = Gateway::open(&[]);
    for before in [
        "",
        "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        for lines in [
            "Content-Length: 0\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Server : x\r\n",
            "Content-Length: 5\r\nContent-Length: 6\r\n",
        ] {
            let (stream, mut at_origin) = asking(&gateway, "");
            let switching = SWITCHING.replace("A: b\r\n", &format!("A: b\r\n{lines}"));
            at_origin.write_all(&[before, &switching, "down"].concat().into_bytes()).unwrap();
            let mut head = read_head(&stream);
            if !before.is_empty() {
                assert_eq!(
                    head.split_once("\r\n"),
                    before.split_once("\r\n").map(|(line, _)| (line, "Via: 1.1 sluicegate\r\n\r\n"))
                );
                head = read_head(&stream);
            }
            let server = if lines.starts_with("Server") { "A: b\r\nServer: x\r\n" } else { "A: b\r\n" };
            assert_eq!(head, SWITCHED.replace("A: b\r\n", server));
            (&stream).read_exact(&mut [0; 4]).unwrap();
            client::hang_up_both(&stream, &at_origin);
        }
    }
}

/// curl up to 8.20 sends the WebSocket scheme in the request target.
#[test]
fn a_websocket_by_its_own_scheme() {
    let gateway = Gateway::open(&[]);
    let origin = Origin::new();
    let mut stream = dial(gateway.address);
    let head = upgrade(origin.address, None, "").replace("http://", "ws://");
    stream.write_all(head.as_bytes()).unwrap();
    let mut at_origin = origin.accept();
    assert_eq!(read_head(&at_origin), upgrade_at_origin(origin.address, ""));
    at_origin.write_all(SWITCHING.as_bytes()).unwrap();
    assert_eq!(read_head(&stream), SWITCHED);
    client::hang_up_both(&stream, &at_origin);
}

#[test]
fn an_answer_to_head_has_no_content() {
    let gateway = Gateway::open(&[]);
    let origin = Origin::new();
    let mut stream = dial(gateway.address);
    let head = upgrade(origin.address, None, "").replace("POST", "HEAD");
    stream.write_all(head.as_bytes()).unwrap();
    let mut at_origin = origin.accept();
    assert!(read_head(&at_origin).starts_with("HEAD /a HTTP/1.1\r\n"));
    // The origin stays open: the method alone determines the end of the answer.
    at_origin.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
    let expected = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n";
    assert_eq!(client::answer(stream), expected);
}

#[test]
fn the_content_of_a_request_is_carried_first() {
    let gateway = Gateway::open(&[]);
    let bytes = Noise::new(3).take(200_000);
    let chunks: Vec<u8> = bytes.chunks(7_001).fold(Vec::new(), |mut chunks, chunk| {
        chunks.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        chunks.extend_from_slice(chunk);
        chunks.extend_from_slice(b"\r\n");
        chunks
    });
    let chunks = [&chunks[..], b"0\r\nTrailer: 1\r\n\r\n"].concat();
    for (lines, content) in [
        ("Content-Length: 200000\r\n", &bytes),
        ("Transfer-Encoding: chunked\r\n", &chunks),
        ("Content-Length: 0\r\n", &Vec::new()),
    ] {
        let (_, answer) = exchange(&gateway, lines, content, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        // An upgrade to a tunnel behaves alike; bytes after the content belong to the tunnel.
        let origin = Origin::new();
        let mut stream = dial(gateway.address);
        let head = upgrade(origin.address, None, lines);
        stream.write_all(&[head.as_bytes(), content, EARLY].concat()).unwrap();
        let mut at_origin = origin.accept();
        read_head(&at_origin);
        at_origin.read_exact(&mut vec![0; content.len()]).unwrap();
        assert!(client::is_silent(&at_origin));
        at_origin.write_all(SWITCHING.as_bytes()).unwrap();
        assert_eq!(read_head(&stream), SWITCHED);
        let mut early = vec![0; EARLY.len()];
        at_origin.read_exact(&mut early).unwrap();
        assert_eq!(early, EARLY);
        client::hang_up_both(&stream, &at_origin);
    }
}

/// Tunnel bytes arrive together with the last content, followed by the client's FIN.
#[test]
fn a_client_may_end_its_direction_of_the_tunnel_before_the_101() {
    let gateway = Gateway::open(&[]);
    let (mut stream, mut at_origin) = asking(&gateway, "Content-Length: 5\r\n");
    stream.write_all(&[b"12345", EARLY].concat()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    at_origin.read_exact(&mut [0; 5]).unwrap();
    assert!(client::is_silent(&at_origin));
    at_origin.write_all(&[SWITCHING.as_bytes(), b"down"].concat()).unwrap();
    let mut early = Vec::new();
    at_origin.read_to_end(&mut early).unwrap();
    assert_eq!(early, EARLY);
    drop(at_origin);
    assert_eq!(client::answer(stream), format!("{SWITCHED}down"));
}

/// A 101 does not cut off an unfinished request.
#[test]
fn a_101_before_the_content_is_whole_waits_for_it() {
    let gateway = Gateway::open(&[]);
    let (mut stream, mut at_origin) = asking(&gateway, "Content-Length: 5\r\n");
    at_origin.write_all(&[SWITCHING.as_bytes(), b"down"].concat()).unwrap();
    client::arrives(&at_origin);
    assert!(client::is_silent(&stream));
    stream.write_all(b"12345up").unwrap();
    assert_eq!(read_head(&stream), SWITCHED);
    let (mut up, mut down) = ([0; 7], [0; 4]);
    at_origin.read_exact(&mut up).unwrap();
    stream.read_exact(&mut down).unwrap();
    assert_eq!((&up, &down), (b"12345up", b"down"));
}

#[test]
fn a_client_that_waits_for_a_100_gets_one_before_it_sends_its_content() {
    let gateway = Gateway::open(&[]);
    let (mut stream, mut at_origin) = asking(&gateway, "Expect: 100-continue\r\nContent-Length: 4\r\n");
    at_origin.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
    assert_eq!(read_head(&stream), "HTTP/1.1 100 Continue\r\nVia: 1.1 sluicegate\r\n\r\n");
    stream.write_all(b"body").unwrap();
    at_origin.read_exact(&mut [0; 4]).unwrap();
    at_origin.write_all(SWITCHING.as_bytes()).unwrap();
    assert_eq!(read_head(&stream), SWITCHED);
}

/// The client gets the answer although the origin does not read the content.
#[test]
fn an_answer_comes_before_the_content_is_whole() {
    let gateway = Gateway::open(&[]);
    let (stream, mut at_origin) = asking(&gateway, "Content-Length: 1000000\r\n");
    at_origin.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig").unwrap();
    let answer = client::answer(stream);
    assert!(answer.starts_with("HTTP/1.1 413 Too Large\r\n") && answer.ends_with("\r\n\r\nbig"), "{answer}");
}

/// Closing with unread bytes would reset the connection and lose the bytes in flight.
#[test]
fn a_client_that_sends_all_before_it_reads_gets_the_whole_answer() {
    let gateway = Gateway::open(&[]);
    // Content the origin did not wait for, and bytes meant for the tunnel.
    for lines in ["Content-Length: 1000000\r\n", ""] {
        let (mut stream, mut at_origin) = asking(&gateway, lines);
        let from = stream.local_addr().unwrap();
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 64 << 10).unwrap();
        let body = "b".repeat(1_000_000);
        let answer = format!("HTTP/1.1 413 Too Large\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let whole = thread::scope(|scope| {
            scope.spawn(|| at_origin.write_all(answer.as_bytes()).unwrap());
            stream.write_all(&vec![7; 8 << 20]).expect("all of it is taken");
            client::answer(stream)
        });
        assert!(whole.starts_with("HTTP/1.1 413 Too Large\r\n"), "{lines:?}");
        assert_eq!(whole.split_once("\r\n\r\n").map(|(_, came)| came.len()), Some(body.len()), "{lines:?}");
        assert_eq!(gateway.refusal_line(from).text("reason"), "not_upgraded");
    }
}

/// The log tells an upgrade from a CONNECT at every stage.
#[test]
fn what_was_asked_for_is_logged_of_what_is_refused() {
    let gateway = Setup::new(&[]).user("mover:s3cret").debug().start();
    for (user, target, reason) in
        [(None, "127.0.0.1:1", "auth_required"), (Some("mover:s3cret"), "127.0.0.1:1", "connect_refused")]
    {
        let (from, _) = client::ask(gateway.address, upgrade(target, user, "").as_bytes());
        let line = gateway.refusal_line(from);
        assert_eq!((line.text("reason"), line.text("upgrade")), (reason, "x/1"), "{}", line.raw);
    }
}

/// An answer a client must not take for complete ends in a reset, or before its announced length.
#[test]
fn an_answer_that_breaks_off_is_cut_for_the_client_too() {
    let gateway = Gateway::open(&[]);
    for (answer, breaks) in [
        ("HTTP/1.1 200 OK\r\n\r\nhalf", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nnext", false),
    ] {
        let (mut stream, mut at_origin) = asking(&gateway, "");
        let from = stream.local_addr().unwrap();
        at_origin.write_all(answer.as_bytes()).unwrap();
        assert!(read_head(&stream).starts_with("HTTP/1.1 200 OK\r\n"));
        if breaks {
            stream.read_exact(&mut [0; 4]).unwrap();
            client::reset(&at_origin);
        } else {
            // The gateway cuts an invalid answer before its end; then this FIN comes too late.
            let _ = at_origin.shutdown(Shutdown::Write);
        }
        let mut rest = Vec::new();
        let error = stream.read_to_end(&mut rest).expect_err("not the end of it");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{answer:?}");
        let line = gateway.refusal_line(from);
        assert_eq!((line.text("reason"), line.code().as_str()), ("answer_cut", "none"), "{}", line.raw);
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", Reason::AnswerCut.label()]), 3);
}

/// Content not read by the origin would become the start of its tunnel.
#[test]
fn a_101_of_an_origin_that_has_not_taken_the_content_makes_no_tunnel() {
    let gateway = Gateway::open(&[]);
    for _ in 0..20 {
        let (mut stream, mut at_origin) = asking(&gateway, "Content-Length: 1000000\r\n");
        at_origin.write_all(SWITCHING.as_bytes()).unwrap();
        client::arrives(&at_origin);
        client::reset(&at_origin);
        // The write fails once the client has its answer.
        let _ = stream.write_all(&vec![7; 1_000_000]);
        let answer = read_head(&stream);
        assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway: "), "{answer}");
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["101", "established"]), 0);
}

/// A partial message must not pass for a complete one, nor a part of the origin's answer for the
/// gateway's own.
#[test]
fn a_client_that_does_not_read_is_cut_off() {
    let gateway = Gateway::open(&["--handshake-timeout", "300ms"]);
    let body = "x".repeat(1_000_000);
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n{body}");
    let unbounded = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
    for answer in [whole, unbounded] {
        let (mut stream, mut at_origin) = asking(&gateway, "");
        rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 4 << 10).unwrap();
        let from = stream.local_addr().unwrap();
        at_origin.write_all(answer.as_bytes()).unwrap();
        at_origin.shutdown(Shutdown::Write).unwrap();
        assert_eq!(gateway.refusal_line(from).text("reason"), "client_gone");
        let mut came = Vec::new();
        let error = stream.read_to_end(&mut came).expect_err("not the end of it");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(!came.windows(12).any(|window| window == b"HTTP/1.1 504"));
    }
}

#[test]
fn content_that_is_none_is_refused() {
    let gateway = Gateway::open(&[]);
    for (lines, content, line) in [
        (
            "Transfer-Encoding: chunked\r\n",
            "x\r\n",
            "400 Bad Request: the content of the request is incomplete: invalid chunk line",
        ),
        ("Content-Length: 9\r\n", "1234", ""),
    ] {
        let origin = Origin::new();
        let mut stream = dial(gateway.address);
        let from = stream.local_addr().unwrap();
        stream.write_all(&[upgrade(origin.address, None, lines).as_bytes(), content.as_bytes()].concat()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut at_origin = origin.accept();
        let answer = client::answer(stream);
        assert!(answer.starts_with(&format!("HTTP/1.1 {line}")) || line.is_empty() && answer.is_empty(), "{answer}");
        let reason = if line.is_empty() { "client_gone" } else { "malformed" };
        assert_eq!(gateway.refusal_line(from).text("reason"), reason);
        // A partial request ends in a reset, which may overtake any part of it.
        let mut received = Vec::new();
        let error = at_origin.read_to_end(&mut received).expect_err("not the end of it");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let received = String::from_utf8(received).expect("a head and content");
        let carried = received.split_once("\r\n\r\n").map_or("", |(_, carried)| carried);
        assert!(if line.is_empty() { content } else { "" }.starts_with(carried), "{received}");
    }
}

/// Sends an upgrade to an origin served by this function.
fn refused(gateway: &Gateway, serve: impl FnOnce(TcpStream) + Send) -> Refused {
    let origin = Origin::new();
    let mut stream = dial(gateway.address);
    let from = stream.local_addr().expect("an address");
    thread::scope(|scope| {
        scope.spawn(|| {
            let at_origin = origin.accept();
            read_head(&at_origin);
            serve(at_origin);
        });
        stream.write_all(upgrade(origin.address, None, "").as_bytes()).expect("the gateway reads");
        Refused { from, answer: client::answer(stream) }
    })
}

pub(super) fn bad_answer() {
    // Each case needs its own gateway: `check` expects a count of one.
    for (answer, why) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "two different lengths"),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n", "it is not HTTP/1.1"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "it is SSH, not HTTP/1.1"),
        ("HTTP/1.1 200 OK\nA: b\n\n", "a line of the head ends in LF without CR"),
        (&format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(20_000)), "its head is longer than 16384 bytes"),
        (
            "HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: y\r\n\r\n",
            "its 101 is for a protocol that was not requested",
        ),
        ("HTTP/1.1 200 OK\r\nA: b\r\n", "closed before it was complete"),
        ("", "closed before it was complete"),
    ] {
        let gateway = Gateway::open(&[]);
        let refused = refused(&gateway, |mut origin| origin.write_all(answer.as_bytes()).expect("the gateway reads"));
        let line = format!("502 Bad Gateway: invalid answer from the origin: {why}");
        check(&gateway, Reason::BadAnswer, &line, &refused);
    }
}

pub(super) fn answer_timeout() {
    let gateway = Gateway::open(&["--handshake-timeout", "300ms"]);
    let refused = refused(&gateway, |mut origin| {
        let _ = origin.write_all(b"HTTP/1.1 101 Sw").and_then(|()| origin.read(&mut [0]));
    });
    let line = "504 Gateway Timeout: no answer from the origin to the Upgrade (--handshake-timeout 300ms)";
    check(&gateway, Reason::AnswerTimeout, line, &refused);
}
