//! Tunnels through parent proxies: requests to them, their answers, and the answers to the client.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use sluicegate::metrics::{CONNECT_REQUESTS, PARENT_REQUESTS};
use sluicegate::reason::Reason;

use crate::support::client::{
    self, ESTABLISHED, SWITCHED, SWITCHING, basic, dial, read_head, request, send_cut, upgrade,
};
use crate::support::process::sluicegate;
use crate::support::{Gateway, Noise, Origin, Setup, connect, connect_as, eventually};

const USER: &str = "mover:s3cret";

/// An open gateway with these parents.
fn through(parents: &[&str]) -> Gateway {
    let arguments = parents.iter().flat_map(|parent| ["--parent", parent]);
    Setup::new(&["--no-auth", "--allow", "*:443", "--allow", "*:873"]).args(arguments).start()
}

/// The head received by a parent, without the random suffix of the gateway's name in Via.
fn asked(stream: &TcpStream) -> String {
    let head = read_head(stream);
    let (before, pseudonym) = head.split_once("sluicegate-").unwrap_or_else(|| panic!("{head}"));
    let (pseudonym, after) = pseudonym.split_at(16);
    assert!(pseudonym.bytes().all(|byte| byte.is_ascii_hexdigit()), "{head}");
    format!("{before}sluicegate{after}")
}

/// Three gateways in a row, each with its own user.
#[test]
fn a_chain_of_three() {
    let origin = Origin::echo();
    let last = Setup::new(&[]).user("c:three").start();
    let middle = Setup::new(&["--parent", &format!("http://c:three@{}", last.address)]).user("b:two%3A").start();
    let first = format!("http://b:two%253A@{} for *:*", middle.address);
    let first = Setup::new(&["--parent", &first, "--allow", "*:*"]).user(USER).start();
    let stream = connect_as(first.address, origin.address, USER);
    client::echoes(&stream, 3_000_000);
    let from = stream.local_addr().unwrap();
    client::hang_up(&stream);
    let line = first.closing_line(from);
    let (parent, target) = (middle.address.to_string(), origin.address.to_string());
    let said = (line.text("parent"), line.text("origin"), line.text("target"));
    assert_eq!(said, (parent.as_str(), parent.as_str(), target.as_str()), "{}", line.raw);
    assert_eq!((line.number("to_origin"), line.number("to_client")), (3_000_000, 3_000_000));
    for (gateway, user) in [(&middle, "b"), (&last, "c")] {
        let line = gateway.log_line("tunnel closed", |line| line.message() == "tunnel closed");
        assert_eq!((line.text("user"), line.text("target")), (user, target.as_str()), "{}", line.raw);
        assert_eq!((line.number("to_origin"), line.number("to_client")), (3_000_000, 3_000_000));
    }
    assert_eq!(first.metric(&PARENT_REQUESTS, &[&parent, "established"]), 1);
    // A target refused by the last gateway is refused by all, with the last one's message.
    let (_, answer) = client::ask(first.address, request("127.0.0.1:1", Some(USER)).as_bytes());
    let line = answer.lines().next().unwrap();
    assert!(
        line.starts_with("HTTP/1.1 502 Bad Gateway: the parent proxy ") && line.contains("connection refused"),
        "{line}"
    );
}

#[test]
fn what_a_parent_is_asked() {
    let parent = Origin::new();
    let own = format!("http://up:str%C3%A4m@{}", parent.address);
    let gateway = through(&[&format!("{own} for *.east.example:443"), "direct for *.example:443", &own]);
    let mut stream = dial(gateway.address);
    // The name is forwarded unchanged: the parent resolves it.
    let head = "CONNECT A.East.Example.:443 HTTP/1.1\r\nProxy-Authorization: Basic bW92ZXI6czNjcmV0\r\nVia: 1.1 a\r\nVia: 1.0 b (c)\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let at_parent = parent.accept();
    let expected = format!(
        "CONNECT a.east.example:443 HTTP/1.1\r\nHost: a.east.example:443\r\nProxy-Authorization: {}\r\n\
         Via: 1.1 a, 1.0 b (c), 1.1 sluicegate\r\n\r\n",
        basic("up:str\u{e4}m")
    );
    assert_eq!(asked(&at_parent), expected);
    // The client gets no answer before the parent has its tunnel.
    assert!(client::is_silent(&stream));
    (&at_parent).write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    assert_eq!(read_head(&stream), ESTABLISHED);
    // A parent for a network gets an address.
    let network = through(&[&format!("http://{} for 127.0.0.0/8:*", parent.address)]);
    for target in ["127.0.0.1:443", "localhost:443"] {
        let mut stream = dial(network.address);
        stream.write_all(request(target, None).as_bytes()).unwrap();
        let expected = "CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\nVia: 1.1 sluicegate\r\n\r\n";
        assert_eq!(asked(&parent.accept()), expected, "{target}");
    }
}

#[test]
fn a_rule_has_to_permit_a_name_that_a_parent_resolves() {
    let parent = Origin::new();
    let arguments = ["--no-auth", "--deny", "bad.example:*", "--parent", &format!("http://{}", parent.address)];
    let gateway = Setup::new(&arguments).start();
    for (target, line) in [
        (
            "nx.invalid:443",
            "403 Forbidden: no --allow rule matches nx.invalid:443 by its name, and a parent proxy resolves it",
        ),
        ("bad.example:443", "403 Forbidden: denied by rule --deny bad.example:*"),
        ("10.0.0.1:443", "403 Forbidden: no --allow rule matches 10.0.0.1:443"),
    ] {
        let (_, answer) = client::ask(gateway.address, request(target, None).as_bytes());
        assert!(answer.starts_with(&format!("HTTP/1.1 {line}\r\n")), "{answer}");
    }
}

/// A parent's loopback may be this host's loopback too, with the admin address on it.
#[test]
fn localhost_is_left_to_a_parent_by_a_rule_that_spells_it() {
    let parent = Origin::new();
    let url = format!("http://{}", parent.address);
    for (rule, target, is_left) in [
        ("*:*", "localhost:443", false),
        ("*:*", "LOCALHOST.:443", false),
        ("*:*", "a.localhost:443", false),
        ("localhost:443", "localhost:443", true),
        ("*.localhost:443", "a.localhost:443", true),
    ] {
        let gateway = Setup::bare(&["--no-auth", "--allow", rule, "--parent", &url]).start();
        let mut stream = dial(gateway.address);
        stream.write_all(request(target, None).as_bytes()).unwrap();
        if is_left {
            assert!(asked(&parent.accept()).starts_with("CONNECT "), "{rule} {target}");
        } else {
            assert!(client::answer(stream).starts_with("HTTP/1.1 403 "), "{rule} {target}");
        }
    }
}

/// For any split of a parent's answer, any content headers, and an interim answer before it: bytes
/// after the head belong to the tunnel.
#[test]
fn how_parents_say_yes() {
    let parent = Origin::new();
    let gateway = through(&[&format!("http://{}", parent.address)]);
    for answer in [
        "HTTP/1.1 200 Connection established\r\n\r\n",
        "HTTP/1.0 200\r\nProxy-agent: old\r\n\r\n",
        "HTTP/1.1 204 OK\r\nContent-Length: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        "HTTP/1.1 100 Continue\r\nContent-Length: 3\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.2 200 OK\r\nServer : x\r\n\r\n",
    ] {
        let early = Noise::new(3).take(20);
        for cut in 0..=answer.len() + early.len() {
            let mut stream = dial(gateway.address);
            stream.write_all(&[request("db.example:443", None).as_bytes(), b"first"].concat()).unwrap();
            let mut at_parent = parent.accept();
            read_head(&at_parent);
            assert!(client::is_silent(&at_parent), "the tunnel does not stand yet");
            send_cut(&at_parent, &[answer.as_bytes(), &early].concat(), cut);
            assert_eq!(read_head(&stream), ESTABLISHED);
            Noise::new(3).expect_exactly(&stream, early.len());
            let mut first = [0; 5];
            at_parent.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"first");
            client::hang_up_both(&stream, &at_parent);
        }
    }
}

/// Sends a request through a parent served by this function, at its own gateway; returns the status
/// line and the reason in log and metrics.
fn refused(arguments: &[&str], serve: impl FnOnce(TcpStream) + Send) -> (SocketAddr, String, Reason) {
    let parent = Origin::new();
    let url = format!("http://{}", parent.address);
    let gateway =
        Setup::new(&["--no-auth", "--allow", "*:443", "--parent", &url]).args(arguments.iter().copied()).start();
    let (from, answer) = thread::scope(|scope| {
        scope.spawn(|| {
            let at_parent = parent.accept();
            read_head(&at_parent);
            serve(at_parent);
        });
        client::ask(gateway.address, request("db.example:443", None).as_bytes())
    });
    let line = gateway.refusal_line(from);
    let reason = *Reason::ALL.iter().find(|reason| reason.label() == line.text("reason")).unwrap();
    let code = reason.status().unwrap().0.to_string();
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &[&code, reason.label()]), 1);
    assert_eq!(gateway.metric(&PARENT_REQUESTS, &[&parent.address.to_string(), reason.label()]), 1);
    let status = answer.lines().next().unwrap_or_default().to_owned();
    (parent.address, status, reason)
}

#[test]
fn how_parents_say_no() {
    let long = "x".repeat(20_000);
    let (hops, interim) = ("Bad Gateway: the parent proxy ".repeat(9), "HTTP/1.1 103 Hints\r\n\r\n".repeat(9));
    for (answer, reason, words) in [
        // A truncated reason phrase keeps the cause, at its end.
        (
            &*format!("HTTP/1.1 502 {hops}connection refused by 192.0.2.1:443\r\n\r\n"),
            Reason::ParentRefused,
            &*format!(
                "502 Bad Gateway: the parent proxy PARENT answered 502 {} ... {}connection refused by 192.0.2.1:443",
                &hops[..40],
                &hops[hops.len() - 80..],
            ),
        ),
        (
            &interim,
            Reason::BadAnswer,
            "502 Bad Gateway: invalid answer from the parent proxy PARENT: more than 8 interim answers",
        ),
        (
            "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 3\r\n\r\nno\n",
            Reason::ParentRefused,
            "502 Bad Gateway: the parent proxy PARENT answered 407 Proxy Authentication Required",
        ),
        ("HTTP/1.0 503\r\n\r\n", Reason::ParentRefused, "502 Bad Gateway: the parent proxy PARENT answered 503"),
        ("HTTP/1.1 101 No\r\n\r\n", Reason::ParentRefused, "502 Bad Gateway: the parent proxy PARENT answered 101 No"),
        (
            "SSH-2.0-OpenSSH_9.2p1\r\n",
            Reason::BadAnswer,
            "502 Bad Gateway: invalid answer from the parent proxy PARENT: it is SSH, not HTTP/1.1",
        ),
        (
            "HTTP/1.1 200 OK\r\n",
            Reason::BadAnswer,
            "502 Bad Gateway: invalid answer from the parent proxy PARENT: closed before it was complete",
        ),
        (
            &format!("HTTP/1.1 200 OK\r\nA: {long}\r\n\r\n"),
            Reason::BadAnswer,
            "502 Bad Gateway: invalid answer from the parent proxy PARENT: its head is longer than 16384 bytes",
        ),
    ] {
        let (parent, status, found) = refused(&[], |mut parent| {
            // The gateway may close in the middle of the answer.
            let _ = parent.write_all(answer.as_bytes()).and_then(|()| parent.shutdown(Shutdown::Write));
            let _ = parent.read(&mut [0]);
        });
        assert_eq!(found, reason, "{status}");
        assert_eq!(status, format!("HTTP/1.1 {}", words.replace("PARENT", &parent.to_string())));
    }
}

#[test]
fn a_parent_that_says_nothing() {
    let (parent, status, reason) = refused(&["--dial-timeout", "100ms"], |mut parent| {
        let _ = parent.write_all(b"HTTP/1.1 2").and_then(|()| parent.read(&mut [0]));
    });
    assert_eq!(reason, Reason::ParentTimeout);
    let words = format!("no answer from the parent proxy {parent} within 300ms (three times --dial-timeout)");
    assert_eq!(status, format!("HTTP/1.1 504 Gateway Timeout: {words}"));
}

#[test]
fn a_parent_that_is_not_there() {
    let closed = Origin::new().address;
    let gateway = through(&[&format!("http://{closed} for a.example:443"), "http://nx.invalid:1 for b.example:443"]);
    let (_, answer) = client::ask(gateway.address, request("a.example:443", None).as_bytes());
    let line = format!("HTTP/1.1 502 Bad Gateway: the parent proxy {closed}: connection refused by {closed}\r\n");
    assert!(answer.starts_with(&line), "{answer}");
    let (_, answer) = client::ask(gateway.address, request("b.example:443", None).as_bytes());
    let line = "HTTP/1.1 502 Bad Gateway: the parent proxy nx.invalid:1: nx.invalid does not resolve: ";
    assert!(answer.starts_with(line), "{answer}");
}

#[test]
fn a_request_that_comes_back_is_refused() {
    // A gateway's port is known only once it runs, its parent's must be known before: a forwarder
    // in between breaks the circle.
    let between = Origin::new();
    let first = through(&[&format!("http://{}", between.address)]);
    let second = through(&[&format!("http://{}", first.address)]);
    let (target, address) = (second.address, between.address);
    let _passing = between.serve(move |stream| {
        let on = TcpStream::connect(target).expect("a gateway");
        thread::scope(|scope| {
            scope.spawn(|| std::io::copy(&mut &stream, &mut &on).and_then(|_| on.shutdown(Shutdown::Write)));
            let _ = std::io::copy(&mut &on, &mut &stream).and_then(|_| stream.shutdown(Shutdown::Write));
        });
    });
    let (_, answer) = client::ask(first.address, request("db.example:443", None).as_bytes());
    let line = answer.lines().next().unwrap();
    assert!(line.starts_with(&format!("HTTP/1.1 502 Bad Gateway: the parent proxy {address} answered 502")), "{line}");
    let looped = first.log_line("the loop", |line| line.text("reason") == Reason::Loop.label());
    assert_eq!(looped.code(), "508", "{}", looped.raw);
    assert_eq!(first.metric(&CONNECT_REQUESTS, &["508", "loop"]), 1);

    let own = ["serve", "--no-auth", "--listen", "127.0.0.1:3128", "--parent", "http://127.0.0.1:3128"];
    let outcome = sluicegate(&own, &[]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.err.contains("--parent http://127.0.0.1:3128 is a listener of this gateway"), "{outcome:?}");
}

#[test]
fn an_upgrade_through_a_parent() {
    let parent = Origin::new();
    let gateway = through(&[&format!("http://{}", parent.address)]);
    let mut stream = dial(gateway.address);
    stream.write_all(upgrade("api.example:443", None, "").as_bytes()).unwrap();
    let mut at_parent = parent.accept();
    assert!(asked(&at_parent).starts_with("CONNECT api.example:443 HTTP/1.1\r\n"));
    at_parent.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    assert_eq!(read_head(&at_parent), client::upgrade_at_origin("api.example:443", ""));
    at_parent.write_all(&[SWITCHING.as_bytes(), b"down"].concat()).unwrap();
    assert_eq!(read_head(&stream), SWITCHED);
    let mut down = [0; 4];
    stream.read_exact(&mut down).unwrap();
    assert_eq!(&down, b"down");
}

#[test]
fn where_a_parent_stands_in_the_configuration() {
    let parent = Origin::echo();
    let url = format!("http://up:s3cret@{}", parent.address);
    // Several parents in the variable, a list in a file; no output shows the password.
    let variable = format!("direct for a.example:443; {url} for b.example:443");
    let explained = sluicegate(&["explain", "b.example:443"], &[("SLUICEGATE_PARENT", &variable)]);
    let words = format!(
        "permitted by default allow *:443; would connect through the parent proxy {}, which resolves b.example:443",
        parent.address
    );
    assert!(explained.out.contains(&words) && !explained.out.contains("s3cret"), "{explained:?}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("gateway.toml");
    std::fs::write(&file, format!("no-auth = true\nparent = [\n  \"{url} for 10.0.0.0/8:*\",\n]\n")).unwrap();
    let file = file.to_str().unwrap();
    let explained = sluicegate(&["explain", "--config", file, "10.1.2.3:443"], &[]);
    assert!(
        explained.out.contains(&format!("would connect through the parent proxy {} to 10.1.2.3:443", parent.address)),
        "{explained:?}"
    );
    let wrong = sluicegate(&["check", "--no-auth"], &[("SLUICEGATE_PARENT", "http://up:s3cret@h")]);
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.err.contains("SLUICEGATE_PARENT, number 1: ") && !wrong.err.contains("s3cret"), "{wrong:?}");
}

/// A target without a matching entry has no parent.
#[test]
fn a_target_of_no_entry_is_dialled_directly() {
    let (parent, origin) = (Origin::new(), Origin::echo());
    let gateway = through(&[&format!("http://{} for *.example:443", parent.address)]);
    let stream = connect(gateway.address, origin.address);
    client::echoes(&stream, 10_000);
    eventually("it is listed", || gateway.tunnels().len() == 1);
    let tunnels = gateway.tunnels();
    assert!(tunnels[0].get("parent").is_none(), "{tunnels:?}");
}
