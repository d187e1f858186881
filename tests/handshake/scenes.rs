//! Scenes for refusals not caused by request bytes alone.

use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use sluicegate::metrics::{CONNECT_REQUESTS, HANDSHAKES, LOOKUPS_ACTIVE};
use sluicegate::reason::Reason;

use super::refused::{Refused, check};
use crate::support::client::{ask, dial, request};
use crate::support::log::Line;
use crate::support::skipped::skipped;
use crate::support::tls::Certificate;
use crate::support::{Gateway, Origin, Setup, client, connect, connect_as, eventually};

/// Sends a request and expects a refusal.
fn refused(gateway: &Gateway, bytes: &[u8]) -> Refused {
    let (from, answer) = ask(gateway.address, bytes);
    Refused { from, answer }
}

/// Returns the answer to the client of a log line; the other clients hang up.
fn refused_of(streams: Vec<TcpStream>, line: &Line) -> Refused {
    let from = |stream: &TcpStream| stream.local_addr().expect("an address");
    let (refused, _others): (Vec<_>, Vec<_>) = streams.into_iter().partition(|stream| line.is_of(from(stream)));
    let refused = refused.into_iter().next().expect("it was one of these");
    Refused { from: from(&refused), answer: client::answer(refused) }
}

pub(super) fn head_too_large() {
    let gateway = Gateway::open(&[]);
    let head = format!("CONNECT 127.0.0.1:443 HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(16 << 10));
    let line = "431 Request Header Fields Too Large: the request head is longer than 16384 bytes";
    check(&gateway, Reason::HeadTooLarge, line, &refused(&gateway, head.as_bytes()));
}

pub(super) fn handshake_timeout() {
    let gateway = Gateway::open(&["--handshake-timeout", "300ms"]);
    let line = "408 Request Timeout: no complete request within 300ms (--handshake-timeout)";
    check(&gateway, Reason::HandshakeTimeout, line, &refused(&gateway, b"CONNECT 127.0.0.1:443 HTTP/1.1\r\nHo"));
}

/// The answer to a plaintext request is plaintext.
pub(super) fn plain_http() {
    let Some(certificate) = Certificate::make() else { return };
    for request in
        ["CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let gateway = certificate.shown_by(Setup::new(&["--no-auth"])).start();
        let (from, answer) = ask(gateway.secure.expect("an address"), request.as_bytes());
        let line = "400 Bad Request: plain HTTP on a TLS port; use https:// not http:// in the proxy URL";
        check(&gateway, Reason::PlainHttp, line, &Refused { from, answer });
    }
}

/// A hash slow enough for a queue even on a busy machine: bcrypt of cost 15, of a password no test
/// sends.
const DEAR: &str = "alice:$2y$15$abcdefghijklmnopqrstuuJvGdVLmYoFdYv7F1mJ5W6oSgYbR0hyS\n";

/// Most unverified credentials per source in the queue.
const UNVERIFIED: usize = 64;

pub(super) fn auth_busy() {
    let directory = tempfile::tempdir().expect("a directory");
    let users = directory.path().join("users");
    fs::write(&users, DEAR).expect("a file");
    let gateway = Setup::new(&["--users-file", users.to_str().expect("a plain path")]).start();
    // More guesses than the queue has room for, all different, so that no two share a hash.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut guesses: Vec<TcpStream> = Vec::new();
    let turned_away = || gateway.metric(&CONNECT_REQUESTS, &["503", "auth_busy"]) == 1;
    eventually("a guess is turned away", || {
        if guesses.len() < UNVERIFIED + 2 * threads && !turned_away() {
            let mut guess = dial(gateway.address);
            let number = guesses.len();
            guess.write_all(request("127.0.0.1:443", Some(&format!("alice:{number}"))).as_bytes()).expect("it reads");
            guesses.push(guess);
        }
        turned_away()
    });
    let line = gateway.log_line("busy", |line| line.text("reason") == "auth_busy");
    let refused = refused_of(guesses, &line);
    let line = "503 Service Unavailable: 64 unverified credentials of this source are already waiting";
    check(&gateway, Reason::AuthBusy, line, &refused);
}

pub(super) fn resolve_failed() {
    let gateway = Gateway::open(&["--allow", "*:443"]);
    let refused = refused(&gateway, request("nx.invalid:443", None).as_bytes());
    let line = refused.answer.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned();
    assert!(line.starts_with("502 Bad Gateway: nx.invalid does not resolve: "), "{line}");
    check(&gateway, Reason::ResolveFailed, &line, &refused);
}

/// A gateway with a silent name server, and the server's socket: the gateway runs with its own
/// `/etc/resolv.conf`.
fn with_silent_name_server(options: &[&str]) -> Option<(Gateway, UdpSocket)> {
    // resolv.conf has no port: find a loopback address with port 53 free.
    let free = (1..=254).find_map(|last| UdpSocket::bind((Ipv4Addr::new(127, 213, 77, last), 53)).ok());
    let Some(silent) = free else {
        assert!(!rustix::process::geteuid().is_root(), "root can listen on port 53 of a loopback address");
        skipped("a name server on port 53 needs root");
        return None;
    };
    let address = silent.local_addr().expect("an address").ip();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("resolv.conf");
    fs::write(&file, format!("nameserver {address}\noptions timeout:30 attempts:5\n")).expect("a file");
    let script = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", file.display());
    let in_namespace = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let possible = Command::new(in_namespace[0]).args(&in_namespace[1..]).arg("true").status();
    assert!(possible.is_ok_and(|status| status.success()), "root can make a mount namespace");
    // The gateway has read the file by the time it listens.
    Some((Setup::new(options).under(&in_namespace).start(), silent))
}

pub(super) fn resolve_timeout() {
    let Some((gateway, _silent)) = with_silent_name_server(&["--no-auth", "--allow", "*:443"]) else { return };
    let refused = refused(&gateway, request("silent.example:443", None).as_bytes());
    let line = "504 Gateway Timeout: no answer about silent.example from the resolver in 10s";
    check(&gateway, Reason::ResolveTimeout, line, &refused);
}

pub(super) fn lookup_limit() {
    let options = ["--no-auth", "--allow", "*:443", "--max-lookups-per-user", "1"];
    let Some((gateway, _silent)) = with_silent_name_server(&options) else { return };
    let mut waiting = dial(gateway.address);
    waiting.write_all(request("first.example:443", None).as_bytes()).expect("it reads");
    eventually("a name is looked up", || gateway.metric(&LOOKUPS_ACTIVE, &[]) == 1);
    let refused = refused(&gateway, request("second.example:443", None).as_bytes());
    let why = "second.example is not looked up: --max-lookups-per-user 1 reached by source 127.0.0.1";
    check(&gateway, Reason::LookupLimit, &format!("503 Service Unavailable: {why}"), &refused);
}

pub(super) fn connect_refused() {
    let gateway = Gateway::open(&[]);
    let closed = Origin::new().address;
    let refused = refused(&gateway, request(closed, None).as_bytes());
    let line = format!("502 Bad Gateway: connection refused by {closed}");
    check(&gateway, Reason::ConnectRefused, &line, &refused);
}

/// A listener with a full queue drops new connections (`net.ipv4.tcp_abort_on_overflow` is off).
pub(super) fn connect_timeout() {
    let gateway = Gateway::open(&["--dial-timeout", "300ms"]);
    let (full, _queue) = full_listener();
    let target = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let refused = refused(&gateway, request(target, None).as_bytes());
    let line = format!("504 Gateway Timeout: no answer from {target} (--dial-timeout 300ms)");
    check(&gateway, Reason::ConnectTimeout, &line, &refused);
}

pub(crate) fn full_listener() -> (socket2::Socket, Vec<TcpStream>) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("a port");
    listener.listen(0).expect("it listens");
    let address = listener.local_addr().expect("an address").as_socket().expect("an IP address");
    let mut queue = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queue.push(stream);
        assert!(queue.len() < 100, "the queue has no end");
    }
    (listener, queue)
}

/// Sends a request through a parent with this answer, within three times `time`.
fn through_parent(answer: &'static [u8], time: &str) -> (Gateway, Origin, Refused) {
    let parent = Origin::new();
    let url = format!("http://{}", parent.address);
    let gateway = Gateway::open(&["--dial-timeout", time, "--allow", "*:443", "--parent", &url]);
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut at_parent = parent.accept();
            client::read_head(&at_parent);
            at_parent.write_all(answer).expect("the gateway reads");
            let _ = std::io::Read::read(&mut at_parent, &mut [0]);
        });
        refused(&gateway, request("db.example:443", None).as_bytes())
    });
    (gateway, parent, refused)
}

pub(super) fn parent_refused() {
    let (gateway, parent, refused) = through_parent(b"HTTP/1.1 403 No Way\r\n\r\n", "10s");
    let line = format!("502 Bad Gateway: the parent proxy {} answered 403 No Way", parent.address);
    check(&gateway, Reason::ParentRefused, &line, &refused);
}

/// A parent answers TLS in plaintext.
pub(super) fn parent_tls() {
    let Some(certificate) = Certificate::make() else { return };
    let parent = Origin::http("no TLS\n");
    let url = format!("https://{}", parent.address);
    let certificate = certificate.path();
    let gateway = Gateway::open(&["--parent", &url, "--parent-ca", certificate.to_str().expect("a plain path")]);
    let refused = refused(&gateway, request("127.0.0.1:1", None).as_bytes());
    let line = refused.answer.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned();
    let expected = format!("502 Bad Gateway: TLS handshake with the parent proxy {} failed: ", parent.address);
    assert!(line.starts_with(&expected), "{line}");
    check(&gateway, Reason::ParentTls, &line, &refused);
}

pub(super) fn parent_timeout() {
    let (gateway, parent, refused) = through_parent(b"HTTP/1.1 2", "500ms");
    let words =
        format!("no answer from the parent proxy {} within 1s 500ms (three times --dial-timeout)", parent.address);
    check(&gateway, Reason::ParentTimeout, &format!("504 Gateway Timeout: {words}"), &refused);
}

/// A request with the gateway's own name in Via has come through one of its parents.
pub(super) fn comes_back() {
    let parent = Origin::new();
    let url = format!("http://{}", parent.address);
    let gateway = Gateway::open(&["--allow", "*:443", "--parent", &url]);
    let mut stream = dial(gateway.address);
    stream.write_all(request("db.example:443", None).as_bytes()).expect("it reads");
    let head = client::read_head(&parent.accept());
    let via = head.lines().find(|line| line.starts_with("Via: ")).expect("a parent is told");
    let again = format!("CONNECT db.example:443 HTTP/1.1\r\nVia: 1.1 other\r\n{via}, 1.1 another\r\n\r\n");
    let line = "508 Loop Detected: the request came back to this gateway: its parent proxies form a loop";
    check(&gateway, Reason::Loop, line, &refused(&gateway, again.as_bytes()));
}

pub(super) fn tunnel_limit() {
    let origin = Origin::echo();
    let gateway = Gateway::open(&["--max-tunnels", "1"]);
    let open = connect(gateway.address, origin.address);
    let refused = refused(&gateway, request(origin.address, None).as_bytes());
    check(&gateway, Reason::TunnelLimit, "503 Service Unavailable: --max-tunnels 1 reached", &refused);
    // The open tunnel is not disturbed, and its end makes room.
    client::echoes(&open, 1_000);
    client::hang_up(&open);
    gateway.closing_line(open.local_addr().expect("an address"));
    client::echoes(&connect(gateway.address, origin.address), 1_000);
}

pub(super) fn user_limit() {
    let origin = Origin::echo();
    let (alice, bob) = ("alice:one", "bob:two");
    let arguments = ["--max-tunnels-per-user", "1", "--user", bob, "--user", alice];
    let gateway = Setup::new(&arguments).start();
    let _open = connect_as(gateway.address, origin.address, alice);
    let refused = refused(&gateway, request(origin.address, Some(alice)).as_bytes());
    check(&gateway, Reason::UserLimit, "503 Service Unavailable: --max-tunnels-per-user 1 reached", &refused);
    client::echoes(&connect_as(gateway.address, origin.address, bob), 1_000);
}

/// A gateway with a policy for one user.
fn with_terms(terms: &str) -> (tempfile::TempDir, Gateway) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sluicegate.toml");
    fs::write(&file, format!("[users.alice]\n{terms}\n")).expect("a file");
    let gateway = Setup::new(&["--config", file.to_str().expect("a plain path"), "--user", "alice:one"]).start();
    (directory, gateway)
}

pub(super) fn user_expired() {
    let (_directory, gateway) = with_terms("expires = 2001-02-03T04:05:06+00:06");
    let refused = refused(&gateway, request("127.0.0.1:443", Some("alice:one")).as_bytes());
    let line = "403 Forbidden: user alice has expired at 2001-02-03T03:59:06Z";
    check(&gateway, Reason::UserExpired, line, &refused);
}

pub(super) fn user_source() {
    let (_directory, gateway) = with_terms("from = '192.0.2.0/24'");
    let refused = refused(&gateway, request("127.0.0.1:443", Some("alice:one")).as_bytes());
    check(&gateway, Reason::UserSource, "403 Forbidden: user alice may not connect from 127.0.0.1", &refused);
}

pub(super) fn source_limit() {
    let origin = Origin::echo();
    let gateway = Gateway::open(&["--max-tunnels-per-source", "1"]);
    let _open = connect(gateway.address, origin.address);
    let refused = refused(&gateway, request(origin.address, None).as_bytes());
    check(&gateway, Reason::SourceLimit, "503 Service Unavailable: --max-tunnels-per-source 1 reached", &refused);
}

/// A gateway loses its descriptors after a client has connected.
pub(super) fn exhausted() {
    let origin = Origin::echo();
    let gateway = Setup::new(&["--no-auth"]).start();
    let before = connect(gateway.address, origin.address);
    let mut first = dial(gateway.address);
    gateway.wait_for_metric(&HANDSHAKES, &["request"], 1);
    let limit = prlimit(Some(gateway.pid()), Resource::Nofile, rlimit(1)).expect("a process of ours");
    first.write_all(request(origin.address, None).as_bytes()).expect("it reads");
    let from = first.local_addr().expect("an address");
    let refused = Refused { from, answer: client::answer(first) };
    prlimit(Some(gateway.pid()), Resource::Nofile, limit).expect("what it was");
    let words = format!("the gateway cannot dial {}: Too many open files (os error 24)", origin.address);
    check(&gateway, Reason::Exhausted, &format!("503 Service Unavailable: {words}"), &refused);
    client::echoes(&before, 100_000);
    client::echoes(&connect(gateway.address, origin.address), 100_000);
}

fn rlimit(current: u64) -> Rlimit {
    Rlimit { current: Some(current), maximum: getrlimit(Resource::Nofile).maximum }
}

/// A user with one dial in progress, to a target that does not answer.
pub(super) fn dial_limit() {
    let (full, _queue) = full_listener();
    let target = full.local_addr().expect("an address").as_socket().expect("an IP address");
    let gateway = Gateway::open(&["--max-dials-per-user", "1", "--handshake-timeout", "1s", "--dial-timeout", "1m"]);
    let mut dialling = dial(gateway.address);
    dialling.write_all(request(target, None).as_bytes()).expect("it reads");
    gateway.wait_for_metric(&HANDSHAKES, &["dial"], 1);
    let refused = refused(&gateway, request("127.0.0.1:443", None).as_bytes());
    let line = "503 Service Unavailable: --max-dials-per-user 1 reached, and no connection attempt ended within 1s";
    check(&gateway, Reason::DialLimit, line, &refused);
}
