//! The exchange before a 101 is no bypass around a tunnel: bounded in bytes and time, listed,
//! counted, rate-limited and killable.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use sluicegate::metrics::{BYTES, CONNECT_REQUESTS, TUNNELS_ACTIVE, USER_BYTES};
use sluicegate::reason::Reason;
use sluicegate::sys::pacing::max_pacing_rate;

use crate::support::client::{self, SWITCHED, SWITCHING, dial, read_head, upgrade};
use crate::support::noise::End;
use crate::support::process::{replace, sees_descriptors, sockets_to};
use crate::support::{Gateway, Noise, Origin, Setup, admin, eventually};

const USER: &str = "mover:s3cret";

/// Largest permitted content, 1 MiB.
const MOST: usize = 1 << 20;

/// Starts an exchange with these header lines and returns both ends; the origin has read the head.
fn asking(gateway: &Gateway, user: Option<&str>, lines: &str) -> (TcpStream, TcpStream) {
    let origin = Origin::new();
    let mut stream = dial(gateway.address);
    stream.write_all(upgrade(origin.address, user, lines).as_bytes()).expect("the gateway reads");
    let at_origin = origin.accept();
    read_head(&at_origin);
    (stream, at_origin)
}

/// Reads until the expected reset; returns the number of bytes before it.
fn read_to_reset(mut stream: &TcpStream) -> usize {
    let mut came = Vec::new();
    let error = stream.read_to_end(&mut came).expect_err("a reset, not an end");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
    came.len()
}

/// Sends until the gateway accepts no more.
fn send_for_ever(mut stream: &TcpStream) {
    let bytes = vec![b'x'; 64 << 10];
    while stream.write_all(&bytes).is_ok() {}
}

#[test]
fn an_answer_beyond_its_bound_is_cut() {
    let gateway = Gateway::open(&[]);
    let chunk = format!("{:x}\r\n{}\r\n", 32 << 10, "x".repeat(32 << 10));
    for (head, endless) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "x".repeat(64 << 10)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551615\r\n\r\n", "x".repeat(64 << 10)),
        ("HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n", chunk),
    ] {
        let (stream, mut at_origin) = asking(&gateway, None, "");
        let from = stream.local_addr().unwrap();
        let came = thread::scope(|scope| {
            scope.spawn(|| {
                at_origin.write_all(head.as_bytes()).unwrap();
                while at_origin.write_all(endless.as_bytes()).is_ok() {}
            });
            read_head(&stream);
            read_to_reset(&stream)
        });
        // A reset discards bytes still in flight.
        assert!(came <= MOST, "{head:?}: {came}");
        let line = gateway.refusal_line(from);
        assert_eq!((line.text("reason"), line.code().as_str()), ("answer_too_long", "none"), "{}", line.raw);
        assert!(line.text("detail").ends_with("with more than 1048576 bytes of content"), "{}", line.raw);
        let counted = line.number("to_client");
        assert!((MOST as u64..(MOST + 200) as u64).contains(&counted), "{}", line.raw);
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", Reason::AnswerTooLong.label()]), 3);
    // Content within the limit passes.
    for head in ["HTTP/1.1 200 OK\r\n\r\n".to_owned(), format!("HTTP/1.1 200 OK\r\nContent-Length: {MOST}\r\n\r\n")] {
        let (stream, mut at_origin) = asking(&gateway, None, "");
        let content = thread::scope(|scope| {
            scope.spawn(move || at_origin.write_all(&[head.into_bytes(), vec![b'x'; MOST]].concat()).unwrap());
            read_head(&stream);
            client::answer(stream)
        });
        assert_eq!(content.len(), MOST);
    }
}

#[test]
fn request_content_beyond_its_bound_is_refused() {
    let gateway = Gateway::open(&[]);
    let chunk = [format!("{MOST:x}\r\n").as_bytes(), &[7; MOST], b"\r\n"].concat();
    let (mut stream, at_origin) = asking(&gateway, None, "Transfer-Encoding: chunked\r\n");
    let from = stream.local_addr().unwrap();
    let reading = thread::spawn(move || read_to_reset(&at_origin));
    stream.write_all(&chunk).unwrap();
    let answer = client::answer(stream);
    let line = "HTTP/1.1 413 Content Too Large: the content of an Upgrade is longer than 1048576 bytes; use CONNECT";
    assert!(answer.starts_with(line), "{answer}");
    // The origin sees no complete request.
    assert!(reading.join().unwrap() <= MOST);
    assert_eq!(gateway.refusal_line(from).text("reason"), "content_too_large");
    // A Content-Length over the limit is refused before any dial.
    let head = upgrade("127.0.0.1:1", None, "Content-Length: 1048577\r\n");
    let (from, answer) = client::ask(gateway.address, head.as_bytes());
    assert!(answer.starts_with(line), "{answer}");
    assert_eq!(gateway.refusal_line(from).text("reason"), "content_too_large");
}

#[test]
fn eight_interim_answers_may_come_first() {
    let gateway = Gateway::open(&[]);
    let interim = "HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n";
    let (stream, mut at_origin) = asking(&gateway, None, "");
    at_origin.write_all((interim.repeat(8) + SWITCHING).as_bytes()).unwrap();
    for _ in 0..8 {
        assert_eq!(read_head(&stream), "HTTP/1.1 103 Early Hints\r\nVia: 1.1 sluicegate\r\n\r\n");
    }
    assert_eq!(read_head(&stream), SWITCHED);
    client::hang_up_both(&stream, &at_origin);
    // One byte over the limit is too many, and so is content without an end.
    let (stream, mut at_origin) = asking(&gateway, None, "");
    let from = stream.local_addr().unwrap();
    let answer = thread::scope(|scope| {
        scope.spawn(|| while at_origin.write_all(interim.as_bytes()).is_ok() {});
        client::answer(stream)
    });
    assert_eq!(answer.matches("HTTP/1.1 103 ").count(), 8);
    let line = "HTTP/1.1 502 Bad Gateway: invalid answer from the origin: more than 8 interim answers\r\n";
    assert!(answer.contains(line), "{answer}");
    assert_eq!(gateway.refusal_line(from).text("reason"), "bad_answer");
}

/// Occasional bytes from either side extend no deadline, and the slot is free afterwards.
#[test]
fn there_is_one_deadline_for_all_of_it() {
    let gateway = Gateway::open(&["--handshake-timeout", "1s", "--max-tunnels", "1"]);
    let echo = Origin::echo();
    for (lines, head, drips, from_client, reason) in [
        ("", "HTTP/1.1 200 OK\r\n\r\n", ".", false, "answer_cut"),
        ("", "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", ".", false, "answer_cut"),
        ("", "HTTP/1.1 200 OK\r\nA: ", ".", false, "answer_timeout"),
        ("Content-Length: 1000000\r\n", "", ".", true, "handshake_timeout"),
    ] {
        let (stream, at_origin) = asking(&gateway, None, lines);
        let from = stream.local_addr().unwrap();
        (&at_origin).write_all(head.as_bytes()).unwrap();
        let (drip, mut other) = if from_client { (stream, at_origin) } else { (at_origin, stream) };
        let (over, ended) = std::sync::mpsc::channel::<()>();
        thread::scope(|scope| {
            let mut drip = &drip;
            scope.spawn(move || {
                // Ten times a second, until the exchange ends.
                while ended
                    .recv_timeout(Duration::from_millis(100))
                    .is_err_and(|error| error != std::sync::mpsc::RecvTimeoutError::Disconnected)
                    && drip.write_all(drips.as_bytes()).is_ok()
                {}
            });
            let line = gateway.refusal_line(from);
            assert_eq!(line.text("reason"), reason, "{}", line.raw);
            drop(over);
        });
        let mut rest = Vec::new();
        let end = other.read_to_end(&mut rest);
        assert_eq!(end.is_err(), reason == "answer_cut" || from_client, "{reason}: {end:?}");
        drop((drip, other));
        eventually("the slot is free", || client::status(gateway.address, echo.address, USER) == "200");
        eventually("and again", || gateway.tunnels().is_empty());
    }
}

/// Lists, counts and kills an exchange.
#[test]
fn it_is_listed_counted_and_killed_as_a_tunnel_is() {
    let gateway = Setup::new(&[]).user(USER).start();
    for (head, sends) in [("HTTP/1.1 200 OK\r\n\r\n", true), ("", false)] {
        let (stream, mut at_origin) = asking(&gateway, Some(USER), "");
        let from = stream.local_addr().unwrap();
        at_origin.write_all(head.as_bytes()).unwrap();
        if sends {
            at_origin.write_all(&vec![b'x'; 100_000]).unwrap();
            read_head(&stream);
            (&stream).read_exact(&mut vec![0; 100_000]).unwrap();
        }
        eventually("it is listed", || gateway.tunnels().len() == 1);
        let listed = &gateway.tunnels()[0];
        for (field, value) in [("engine", "exchange"), ("user", "mover"), ("upgrade", "x/1")] {
            assert_eq!(listed[field], value, "{listed}");
        }
        assert_eq!(listed["client"], from.to_string());
        assert!(listed["bytes_to_origin"].as_u64() > Some(50), "{listed}");
        assert_eq!(listed["bytes_to_client"].as_u64() > Some(100_000), sends, "{listed}");
        assert_eq!(gateway.metric(&TUNNELS_ACTIVE, &["exchange"]), 1);
        let id = listed["id"].as_u64().expect("a number");
        assert_eq!(admin::delete(&gateway.control, &format!("/api/tunnels/{id}")).status, 204);
        assert_eq!([client::end_of(&stream), client::end_of(&at_origin)], [End::Reset; 2]);
        let line = gateway.refusal_line(from);
        assert_eq!((line.text("reason"), line.number("id"), line.level()), ("killed", id, "INFO"), "{}", line.raw);
        assert_eq!(gateway.metric(&TUNNELS_ACTIVE, &["exchange"]), 0);
    }
    let [to_client, of_user] =
        [gateway.metric(&BYTES, &["to_client", "exchange"]), gateway.metric(&USER_BYTES, &["mover", "to_client"])];
    assert!((100_000..101_000).contains(&to_client) && to_client == of_user, "{to_client} {of_user}");
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", "killed"]), 2);
    assert!(gateway.tunnels().is_empty());
}

#[test]
fn a_tunnel_takes_its_place_under_the_same_number() {
    let gateway = Setup::new(&[]).user(USER).start();
    let (mut stream, mut at_origin) = asking(&gateway, Some(USER), "Content-Length: 1000\r\n");
    eventually("it is listed", || gateway.tunnels().len() == 1);
    let before = gateway.tunnels().remove(0);
    stream.write_all(&Noise::new(1).take(1_000)).unwrap();
    Noise::new(1).expect_exactly(&at_origin, 1_000);
    at_origin.write_all(SWITCHING.as_bytes()).unwrap();
    assert_eq!(read_head(&stream), SWITCHED);
    eventually("it is a tunnel", || gateway.tunnels().iter().any(|tunnel| tunnel["engine"] != "exchange"));
    let tunnels = gateway.tunnels();
    assert_eq!((tunnels.len(), &tunnels[0]["id"], &tunnels[0]["user"]), (1, &before["id"], &"mover".into()));
    assert_eq!(gateway.metric(&TUNNELS_ACTIVE, &[""]), 1);
    stream.write_all(&Noise::new(2).take(5_000)).unwrap();
    Noise::new(2).expect_exactly(&at_origin, 5_000);
    client::hang_up_both(&stream, &at_origin);
    let line = gateway.closing_line(stream.local_addr().unwrap());
    // Bytes of the tunnel; the bytes of the exchange are counted separately.
    assert_eq!((line.number("to_origin"), &before["id"]), (5_000, &line.number("id").into()), "{}", line.raw);
    let exchanged = gateway.metric(&BYTES, &["to_origin", "exchange"]);
    assert!((1_100..1_300).contains(&exchanged), "{exchanged}");
    assert_eq!(gateway.metric(&USER_BYTES, &["mover", "to_origin"]), exchanged + 5_000);
    assert_eq!(gateway.metric(&TUNNELS_ACTIVE, &[""]), 0);
}

#[test]
fn it_ends_when_the_users_time_is_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sluicegate.toml");
    let users = |expires: SystemTime| {
        let (hash, expires) = (bcrypt::hash("s3cret", 4).expect("a hash"), humantime::format_rfc3339_seconds(expires));
        format!("[users.mover]\npasswords = '{hash}'\nexpires = {expires}\non-expiry = 'end'\n")
    };
    fs::write(&file, users(SystemTime::now() + Duration::from_secs(3_600))).expect("a file");
    let gateway = Setup::new(&["--config", file.to_str().expect("a plain path")]).start();
    let (stream, at_origin) = asking(&gateway, Some(USER), "");
    (&at_origin).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    read_head(&stream);
    replace(&file, &users(SystemTime::now() - Duration::from_secs(1)));
    assert_eq!([client::end_of(&stream), client::end_of(&at_origin)], [End::Reset; 2]);
    let line = gateway.refusal_line(stream.local_addr().unwrap());
    assert_eq!((line.text("reason"), line.text("user")), ("expired", "mover"), "{}", line.raw);
}

#[test]
fn a_drain_resets_it_in_the_end() {
    let mut gateway = Gateway::open(&["--drain-timeout", "300ms", "--handshake-timeout", "10min"]);
    let (stream, at_origin) = asking(&gateway, None, "");
    (&at_origin).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    read_head(&stream);
    gateway.signal(Signal::TERM);
    assert_eq!([client::end_of(&stream), client::end_of(&at_origin)], [End::Reset; 2]);
    gateway.wait();
    let line = gateway.refusal_line(stream.local_addr().unwrap());
    assert_eq!(line.text("reason"), "shutdown", "{}", line.raw);
}

#[test]
fn it_counts_among_the_tunnels_of_its_user() {
    let gateway = Setup::new(&["--max-tunnels-per-user", "1"]).user(USER).start();
    let (stream, at_origin) = asking(&gateway, Some(USER), "");
    let (_, answer) = client::ask(gateway.address, upgrade("127.0.0.1:1", Some(USER), "").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable: --max-tunnels-per-user 1 reached"), "{answer}");
    // The slot is free as soon as the client has left, whatever the origin does.
    drop(stream);
    let echo = Origin::echo();
    eventually("the slot is free", || client::status(gateway.address, echo.address, USER) == "200");
    assert_eq!(client::end_of(&at_origin), End::Reset);
}

/// A client leaves during an exchange: the origin gets a reset.
#[test]
fn a_client_that_leaves_ends_it() {
    let gateway = Gateway::open(&["--handshake-timeout", "10min"]);
    for (head, resets) in
        [("HTTP/1.1 200 OK\r\n\r\n", false), ("HTTP/1.1 200 OK\r\n\r\n", true), ("", false), ("", true)]
    {
        let (stream, at_origin) = asking(&gateway, None, "");
        let from = stream.local_addr().unwrap();
        (&at_origin).write_all(head.as_bytes()).unwrap();
        if !head.is_empty() {
            read_head(&stream);
        }
        if resets {
            client::reset(&stream);
        }
        drop(stream);
        assert_eq!(client::end_of(&at_origin), End::Reset);
        assert_eq!(gateway.refusal_line(from).text("reason"), "client_gone");
    }
    assert!(gateway.tunnels().is_empty());
}

#[test]
fn it_is_held_to_the_rate_of_a_tunnel() {
    if !sees_descriptors() {
        return;
    }
    const RATE: u64 = 50 << 20;
    let gateway = Setup::new(&["--rate", "50MiB"]).user(USER).start();
    let (stream, mut at_origin) = asking(&gateway, Some(USER), "");
    let peers = [&stream, &at_origin].map(|end| end.local_addr().expect("a connection"));
    let of_gateway = sockets_to(gateway.pid(), peers);
    let becomes = |rate: Option<u64>| {
        eventually(&format!("a rate of {rate:?}"), || {
            of_gateway.iter().all(|socket| max_pacing_rate(socket).expect("a socket") == rate)
        });
    };
    becomes(Some(RATE));
    let change = |rate: &str| {
        let answer = admin::patch(&gateway.control, "/api/rates", &format!("{{\"users\": {{\"mover\": {rate}}}}}"));
        assert_eq!(answer.status, 200, "{}", answer.body);
    };
    change("2000000");
    becomes(Some(2_000_000));
    assert_eq!(gateway.tunnels()[0]["rate"], 2_000_000);
    at_origin.write_all(SWITCHING.as_bytes()).unwrap();
    assert_eq!(read_head(&stream), SWITCHED);
    eventually("it is a tunnel", || gateway.tunnels()[0]["engine"] != "exchange");
    becomes(Some(2_000_000));
    change("null");
    becomes(Some(RATE));
    drop(of_gateway);
    client::hang_up_both(&stream, &at_origin);
}

/// Like curl with POST of a file: no byte beyond the limit reaches the origin, and the next tunnel
/// is not disturbed.
#[test]
fn an_endless_upload_is_cut() {
    let gateway = Gateway::open(&[]);
    let (mut stream, at_origin) = asking(&gateway, None, "Transfer-Encoding: chunked\r\n");
    let from = stream.local_addr().unwrap();
    let reading = thread::spawn(move || read_to_reset(&at_origin));
    stream.write_all(b"ffffffffffffffff\r\n").unwrap();
    send_for_ever(&stream);
    assert!(reading.join().unwrap() <= MOST);
    let line = gateway.refusal_line(from);
    assert_eq!(line.text("reason"), "content_too_large", "{}", line.raw);
    assert!(line.number("to_origin") < (MOST + 300) as u64, "{}", line.raw);
}
