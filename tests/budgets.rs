//! Attackers and bystanders: connections without a tunnel, dials to nowhere, departed clients.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::StreamOwned;
use rustls::version::{TLS12, TLS13};
use sluicegate::metrics::{CONNECT_REQUESTS, HANDSHAKES, LIMIT};
use socket2::{Domain, Socket, Type};

use crate::handshake::scenes::full_listener;
use crate::support::client::{self, connect, connect_as, dial, request};
use crate::support::process::raise_descriptor_limit;
use crate::support::seccomp::refusing;
use crate::support::tls::{self, Certificate};
use crate::support::{Gateway, Origin, Setup, admin, eventually};

/// Source of the attackers; bystanders come from 127.0.0.1.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 66, 66, 66);

/// Time-outs of 1 hour, longer than any test, so that only a departure ends a handshake.
const FOR_EVER: &[&str] = &["--handshake-timeout", "1h", "--dial-timeout", "1h"];

fn dial_from(source: Ipv4Addr, gateway: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).expect("a loopback address");
    socket.connect(&gateway.into()).expect("the gateway accepts");
    socket.into()
}

/// Handshakes in progress, at any stage.
fn handshakes(gateway: &Gateway) -> u64 {
    gateway.metric(&HANDSHAKES, &[""])
}

#[test]
fn silent_connections_of_one_source_shut_nobody_out() {
    raise_descriptor_limit();
    let origin = Origin::echo();
    for (descriptors, silent, sent) in
        [(600, 1_000, &b""[..]), (1_024, 1_200, b"C"), (4_096, 4_200, b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nA: ")]
    {
        let gateway = Setup::new(&["--no-auth"]).descriptors(descriptors).start();
        let open = connect(gateway.address, origin.address);
        let crowd: Vec<_> = (0..silent)
            .map(|_| {
                let mut stream = dial_from(ATTACKER, gateway.address);
                // An evicted connection accepts no more bytes.
                let _ = stream.write_all(sent);
                stream
            })
            .collect();
        let room = gateway.metric(&LIMIT, &["handshakes"]);
        let evicted = || gateway.metric(&CONNECT_REQUESTS, &["none", "handshake_limit"]);
        // An evicted connection counts as a handshake until its task is dropped.
        eventually("all that are too many had to go", || evicted() >= silent - room);
        eventually("the others are still there", || evicted() + handshakes(&gateway) == silent);
        // No other client notices, not even a new one from the same source.
        for source in [Ipv4Addr::LOCALHOST, ATTACKER] {
            let mut stream = dial_from(source, gateway.address);
            stream.write_all(request(origin.address, None).as_bytes()).expect("it reads");
            assert_eq!(client::read_head(&stream), client::ESTABLISHED, "{source} with {descriptors} descriptors");
            client::echoes(&stream, 10_000);
        }
        client::echoes(&open, 10_000);
        assert_eq!(admin::get(gateway.admin, "/healthz").status, 200);
        assert_eq!(admin::get(gateway.admin, "/readyz").status, 200);
        let by_attacker = |line: &crate::support::log::Line| line.text("reason") == "handshake_limit";
        let line = gateway.log_line("one had to make room", by_attacker);
        assert!(line.text("detail").starts_with("closed to make room for another connection: "), "{}", line.raw);
        assert!(line.text("client").starts_with(&ATTACKER.to_string()), "{}", line.raw);
        drop(crowd);
        eventually("nothing is left of them", || handshakes(&gateway) == 0);
    }
}

#[test]
fn many_sources_share_what_there_is() {
    raise_descriptor_limit();
    let origin = Origin::echo();
    let gateway = Setup::new(&["--no-auth"]).descriptors(600).start();
    let room = gateway.metric(&LIMIT, &["handshakes"]);
    // Each source has an equal number, so the oldest connections are evicted.
    let crowd: Vec<_> = (0..2 * room)
        .map(|number| {
            let host = u8::try_from(number % 200).expect("a small number") + 1;
            dial_from(Ipv4Addr::new(127, 66, 0, host), gateway.address)
        })
        .collect();
    for _ in 0..20 {
        client::echoes(&connect(gateway.address, origin.address), 1_000);
    }
    drop(crowd);
}

/// A stage of the handshake with a waiting client.
struct Wait {
    stage: &'static str,
    arguments: Vec<String>,
    head: String,
    /// Keeps the client waiting.
    _held: Vec<Box<dyn std::any::Any>>,
}

fn waits() -> [Wait; 6] {
    let wait = |stage, arguments: &[&str], head: String, held| Wait {
        stage,
        arguments: arguments.iter().map(ToString::to_string).collect(),
        head,
        _held: held,
    };
    let (full, queue) = full_listener();
    let target = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let (parent, origin) = (Origin::new(), Origin::new());
    let (stalling, asked) = (Origin::new(), Origin::new());
    let stalled = format!("http://{}", stalling.address);
    let with_content = |target| client::upgrade(target, None, "Content-Length: 5\r\n") + "bytes";
    let (url, upgrade) = (format!("http://{}", parent.address), client::upgrade(origin.address, None, ""));
    [
        wait("request", &[], "CONNECT 127.0.0.1:443 HTTP/1.1\r\n".to_owned(), vec![]),
        wait("dial", &[], request(target, None), vec![Box::new(full), Box::new(queue)]),
        wait("dial", &["--parent", &url], request("127.0.0.1:443", None), vec![Box::new(parent)]),
        wait("upgrade", &[], upgrade, vec![Box::new(origin)]),
        // The content of a request precedes the tunnel; within a tunnel a FIN would end one
        // direction only.
        wait("dial", &["--parent", &stalled], with_content(target), vec![Box::new(stalling)]),
        wait("upgrade", &[], with_content(asked.address), vec![Box::new(asked)]),
    ]
}

#[test]
fn a_client_that_left_costs_nothing() {
    for Wait { stage, arguments, head, _held } in waits() {
        let arguments = arguments.iter().map(String::as_str).chain(FOR_EVER.iter().copied());
        let gateway =
            Setup::new(&["--no-auth", "--max-tunnels", "4", "--max-dials-per-user", "4"]).args(arguments).start();
        for (how, leave) in
            [("closed", (|stream| drop(stream)) as fn(TcpStream)), ("reset", |stream| client::reset(&stream))]
        {
            let left = gateway.metric(&CONNECT_REQUESTS, &["none", "client_gone"]);
            let mut streams: Vec<_> = (0..4).map(|_| dial(gateway.address)).collect();
            streams.iter_mut().for_each(|stream| stream.write_all(head.as_bytes()).expect("it reads"));
            gateway.wait_for_metric(&HANDSHAKES, &[stage], 4);
            streams.into_iter().for_each(leave);
            eventually(&format!("{how} while waiting for {stage}"), || handshakes(&gateway) == 0);
            assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["none", "client_gone"]), left + 4, "{stage} {how}");
        }
    }
}

#[test]
fn a_client_by_tls_that_left_costs_nothing() {
    let Some(certificate) = Certificate::make() else { return };
    let (full, _queue) = full_listener();
    let target = full.local_addr().expect("an address").as_socket().expect("an IP address");
    for version in [&TLS12, &TLS13] {
        let gateway = certificate.shown_by(Setup::new(&["--no-auth"])).args(FOR_EVER.iter().copied()).start();
        let address = gateway.secure.expect("an address");
        for (how, leave) in [
            ("announced", (|stream| leave(stream, true)) as fn(Secure)),
            ("closed", |stream| leave(stream, false)),
            ("reset", |stream| client::reset(&stream.sock)),
        ] {
            let session = tls::client(&certificate.path(), &[version]);
            let mut stream = StreamOwned::new(session, dial(address));
            stream.write_all(request(target, None).as_bytes()).expect("it reads");
            gateway.wait_for_metric(&HANDSHAKES, &["dial"], 1);
            leave(stream);
            eventually(&format!("{how}: nothing is dialled any more"), || handshakes(&gateway) == 0);
        }
    }
}

type Secure = StreamOwned<rustls::ClientConnection, TcpStream>;

fn leave(mut stream: Secure, announced: bool) {
    if announced {
        stream.conn.send_close_notify();
        stream.flush().expect("it reads");
    }
}

#[test]
fn a_client_that_ended_its_direction_behind_early_bytes_is_served() {
    let parent = Origin::new();
    let url = format!("http://{}", parent.address);
    let gateway = Setup::new(&["--no-auth", "--parent", &url]).start();
    let mut stream = dial(gateway.address);
    stream.write_all(&[request("127.0.0.1:443", None).as_bytes(), b"all there is"].concat()).expect("it reads");
    stream.shutdown(Shutdown::Write).expect("an open stream");
    let mut at_parent = parent.accept();
    client::read_head(&at_parent);
    // The gateway has had time to see the FIN.
    client::arrives(&stream);
    gateway.wait_for_metric(&HANDSHAKES, &["dial"], 1);
    at_parent.write_all(b"HTTP/1.1 200 OK\r\n\r\nan answer").expect("it reads");
    at_parent.shutdown(Shutdown::Write).expect("an open stream");
    let mut early = String::new();
    std::io::Read::read_to_string(&mut at_parent, &mut early).expect("a clean end");
    assert_eq!(early, "all there is");
    assert_eq!(client::answer(stream), format!("{}an answer", client::ESTABLISHED));
}

/// A client sends and a parent answers while the gateway is stopped, for longer than both time
/// limits.
#[test]
fn a_handshake_goes_on_where_the_gateway_stood_still() {
    let parent = Origin::new();
    let url = format!("http://{}", parent.address);
    let limits = ["--handshake-timeout", "3s", "--dial-timeout", "2s"];
    let gateway = Setup::new(&["--no-auth", "--parent", &url]).args(limits).start();
    let stand_still = |work: &mut dyn FnMut()| {
        gateway.signal(Signal::STOP);
        work();
        let until = Instant::now() + Duration::from_secs(4);
        eventually("time goes by", || Instant::now() >= until);
        gateway.signal(Signal::CONT);
    };
    let mut stream = dial(gateway.address);
    gateway.wait_for_metric(&HANDSHAKES, &["request"], 1);
    stand_still(&mut || stream.write_all(request("127.0.0.1:443", None).as_bytes()).expect("it reads"));
    let mut at_parent = parent.accept();
    client::read_head(&at_parent);
    stand_still(&mut || at_parent.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("it reads"));
    assert_eq!(client::read_head(&stream), client::ESTABLISHED);
}

/// A client waiting for the gateway's answer is not silent, even in a crowd from its own address.
#[test]
fn a_client_that_waits_for_the_gateway_outlives_silent_connections() {
    raise_descriptor_limit();
    let (full, _queue) = full_listener();
    let black_hole = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let origin = Origin::echo();
    let ann = "ann:one";
    let setup = Setup::new(&["--user", ann, "--max-dials-per-user", "1"]).args(FOR_EVER.iter().copied());
    let gateway = setup.descriptors(1_024).start();
    let mut dialling = dial(gateway.address);
    dialling.write_all(request(black_hole, Some(ann)).as_bytes()).expect("it reads");
    gateway.wait_for_metric(&HANDSHAKES, &["dial"], 1);
    let mut waiting = dial(gateway.address);
    waiting.write_all(request(origin.address, Some(ann)).as_bytes()).expect("it reads");
    gateway.wait_for_metric(&HANDSHAKES, &["queue"], 1);
    let room = gateway.metric(&LIMIT, &["handshakes"]);
    let crowd: Vec<_> = (0..room + 100).map(|_| dial(gateway.address)).collect();
    let evicted = || gateway.metric(&CONNECT_REQUESTS, &["none", "handshake_limit"]);
    eventually("silent ones had to go", || evicted() >= 100);
    drop(dialling);
    assert_eq!(client::read_head(&waiting), client::ESTABLISHED);
    client::echoes(&waiting, 1_000);
    drop(crowd);
}

/// The announced number of tunnels fits beside everything else: descriptors of a parent process,
/// and a listener for each address and core.
#[test]
fn as_many_tunnels_as_are_announced_can_be_opened() {
    raise_descriptor_limit();
    let origin = Origin::echo();
    let inherits = "for n in {10..159}; do eval \"exec $n</dev/null\"; done; ulimit -n 700; exec \"$@\"";
    let listens: Vec<_> = (0..99).flat_map(|_| ["--listen", "127.0.0.1:0"]).collect();
    for (setup, listens) in [
        (Setup::new(&["--no-auth"]).under(&["bash", "-c", inherits, "bash"]), &[][..]),
        (Setup::new(&["--no-auth"]).descriptors(1_000), &listens[..]),
    ] {
        let gateway = setup.args(listens.iter().copied()).start();
        let room = gateway.metric(&LIMIT, &["tunnels"]);
        assert!((20..240).contains(&room), "{room}");
        let tunnels: Vec<_> = (0..room).map(|_| connect(gateway.address, origin.address)).collect();
        tunnels.iter().for_each(|tunnel| client::echoes(tunnel, 100));
        assert_eq!(admin::get(gateway.admin, "/readyz").status, 503, "it says that it is full");
        assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["503", ""]), 0);
    }
}

#[test]
fn dials_of_one_user_that_come_to_nothing_hold_up_no_other() {
    let (full, _queue) = full_listener();
    let black_hole = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let origin = Origin::echo();
    let (ann, bob) = ("ann:one", "bob:two");
    let arguments = ["--max-tunnels", "200", "--user", ann, "--user", bob];
    let gateway = Setup::new(&arguments).args(FOR_EVER.iter().copied()).start();
    let most = gateway.metric(&LIMIT, &["dials_per_user"]);
    assert_eq!(most, 50);
    let mut dials: Vec<_> = (0..300).map(|_| dial(gateway.address)).collect();
    let head = request(black_hole, Some(ann));
    dials.iter_mut().for_each(|stream| stream.write_all(head.as_bytes()).expect("it reads"));
    gateway.wait_for_metric(&HANDSHAKES, &["dial"], most);
    gateway.wait_for_metric(&HANDSHAKES, &["queue"], 300 - most);
    client::echoes(&connect_as(gateway.address, origin.address, bob), 10_000);
    // The clients leave, and their dials are cancelled.
    drop(dials);
    eventually("nothing is dialled any more", || handshakes(&gateway) == 0);
    client::echoes(&connect_as(gateway.address, origin.address, ann), 10_000);
}

#[test]
fn a_full_gateway_says_so_until_there_is_room() {
    let origin = Origin::echo();
    let gateway = Gateway::open(&["--max-tunnels", "1"]);
    assert_eq!(admin::get(gateway.admin, "/readyz").status, 200);
    let only = connect(gateway.address, origin.address);
    let full = admin::get(gateway.admin, "/readyz");
    assert_eq!((full.status, full.body.as_str()), (503, "full: --max-tunnels reached\n"));
    client::hang_up(&only);
    eventually("there is room again", || admin::get(gateway.admin, "/readyz").status == 200);
}

#[test]
fn an_accept_that_is_forbidden_is_told_once() {
    let mut gateway = refusing(&[(&[libc::SYS_accept4], libc::EPERM)], || {
        // The admin listener cannot accept either.
        Setup::new(&["--no-auth"]).start()
    });
    let _waiting = TcpStream::connect(gateway.address).expect("it is in the queue");
    let told = |line: &crate::support::log::Line| line.message().starts_with("cannot accept");
    let line = gateway.log_line("it cannot accept", told);
    assert!(line.message().contains("a filter of the host"), "{}", line.raw);
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().success());
    assert_eq!(gateway.log.count(told), 1);
}
