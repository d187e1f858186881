//! Password checks under attack and under shortage: a right password is served within its own
//! limit.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use sluicegate::metrics::CONNECT_REQUESTS;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::support::client::{ask, basic, read_head, request, status};
use crate::support::origin::patient;
use crate::support::pids::Pids;
use crate::support::process::raise_descriptor_limit;
use crate::support::{Gateway, Origin, Setup, client};

/// A users file with alice, password `right`, at this bcrypt cost.
struct Users {
    _folder: TempDir,
    path: String,
}

impl Users {
    fn new(cost: u32) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("users");
        fs::write(&path, format!("alice:{}\n", bcrypt::hash("right", cost).expect("a hash"))).expect("a file");
        Self { path: path.to_str().expect("a plain path").to_owned(), _folder: folder }
    }

    fn setup(&self) -> Setup {
        Setup::new(&["--users-file", &self.path])
    }
}

/// Connects from this loopback address and sends a request.
fn send_from(source: Ipv4Addr, gateway: &Gateway, request: &str) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into()).expect("an address of loopback");
    socket.connect(&gateway.address.into()).expect("the gateway accepts");
    let mut stream = TcpStream::from(socket);
    patient(&stream);
    stream.write_all(request.as_bytes()).expect("the gateway reads");
    stream
}

/// ca-3: the hash is slow enough for the guesses to keep the queue full.
#[test]
fn a_right_password_is_served_beside_guessers_from_sixteen_networks() {
    raise_descriptor_limit();
    let users = Users::new(6);
    let gateway = users.setup().start();
    let origin = Origin::echo();
    let guess = |number: u32| {
        let source = Ipv4Addr::from(0x7f01_0001 + ((number % 16) << 8));
        send_from(source, &gateway, &request(origin.address, Some(&format!("alice:guess {number}"))))
    };
    let _guesses: Vec<TcpStream> = (0..1_280).map(guess).collect();
    let right = send_from(Ipv4Addr::LOCALHOST, &gateway, &request(origin.address, Some("alice:right")));
    assert_eq!(read_head(&right), client::ESTABLISHED);
    client::echoes(&right, 1_000);
    // A verified password needs no second hash, even from an address of the guessers.
    let again = send_from(Ipv4Addr::new(127, 1, 0, 1), &gateway, &request(origin.address, Some("alice:right")));
    assert_eq!(read_head(&again), client::ESTABLISHED);
}

/// A migration with a wrong password: each retry gets a 407 as long as no other client waits.
#[test]
fn whoever_fails_often_is_told_so_each_time() {
    let users = Users::new(4);
    let gateway = users.setup().start();
    for number in 0..40 {
        assert_eq!(status(gateway.address, "127.0.0.1:9", &format!("alice:{number}")), "407");
    }
    assert_eq!(status(gateway.address, Origin::echo().address, "alice:right"), "200", "nobody is locked out");
}

/// th-1: no thread can be started during password checks.
#[test]
fn passwords_are_checked_where_no_thread_can_be_started() {
    let users = Users::new(4);
    // Declared before the gateway, so dropped after it.
    let pids;
    let mut gateway = users.setup().start();
    let origin = Origin::echo();
    let Some(group) = Pids::of(gateway.pid()) else { return };
    pids = group;
    pids.freeze();
    let check =
        || ["alice:wrong", "alice:right", "bob:wrong"].map(|user| status(gateway.address, origin.address, user));
    assert_eq!(check(), ["407", "200", "407"]);
    pids.lift();
    assert_eq!(check(), ["407", "200", "407"]);
    pids.freeze();
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(!gateway.log.text().contains("panicked"), "{}", gateway.log.text());
}

#[test]
fn the_log_line_of_a_failure_names_a_configured_user_and_no_other() {
    let users = Users::new(4);
    let gateway = users.setup().user("bob:pw").start();
    for (user, named) in [("alice:x", "alice"), ("bob:x", "bob"), ("mallory:x", "")] {
        let (from, answer) = ask(gateway.address, request("127.0.0.1:9", Some(user)).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 407 "), "{answer}");
        let line = gateway.refusal_line(from);
        assert_eq!(line.text("user"), named, "{}", line.raw);
        assert!(!line.raw.contains("mallory"), "{}", line.raw);
    }
}

/// au-1: requests, aiohttp, Apache HttpClient 4.5 and OkHttp 3 send credentials in Latin-1.
#[test]
fn credentials_in_latin1_are_the_same_as_in_utf8() {
    let gateway = Setup::new(&[]).user("ann:p\u{f6}").start();
    let origin = Origin::echo();
    for password in [&b"ann:p\xf6"[..], "ann:p\u{f6}".as_bytes()] {
        let credentials = BASE64_STANDARD.encode(password);
        let head = format!("CONNECT {} HTTP/1.1\r\nProxy-Authorization: Basic {credentials}\r\n\r\n", origin.address);
        client::echoes(&client::established(gateway.address, &head, b""), 100);
    }
}

/// au-2: tinyproxy as a child proxy sends its own credentials and the client's.
#[test]
fn identical_credentials_may_come_twice_and_different_ones_may_not() {
    let gateway = Setup::new(&[]).user("ann:a").start();
    let origin = Origin::echo();
    let twice = |one: &str, other: &str| {
        let lines = [one, other].map(|user| format!("Proxy-Authorization: {}\r\n", basic(user))).concat();
        format!("CONNECT {} HTTP/1.1\r\n{lines}\r\n", origin.address)
    };
    client::echoes(&client::established(gateway.address, &twice("ann:a", "ann:a"), b""), 100);
    let (_, answer) = ask(gateway.address, twice("ann:a", "ann:b").as_bytes());
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request: several different Proxy-Authorization headers\r\n"),
        "{answer}"
    );
}

/// au-3: a container's variable filled from a mounted file.
#[test]
fn the_line_end_of_a_mounted_secret_is_no_part_of_the_password() {
    let origin = Origin::echo();
    for user in ["ann:a\n", "ann:a\r\n"] {
        let gateway = Setup::new(&[]).user(user).start();
        assert_eq!(status(gateway.address, origin.address, "ann:a"), "200", "{user:?}");
    }
    let refused = Setup::new(&[]).user("ann:a\n\n").refused();
    assert_eq!(refused.code, Some(2));
    assert!(refused.err.contains("the password contains a control character"), "{}", refused.err);
}

/// Processor time used by a process, in clock ticks.
fn processor_ticks(gateway: &Gateway) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).expect("a process of ours");
    // Fields 14 and 15 (proc_pid_stat(5)); the second field ends at the last parenthesis.
    let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

/// ca-2: no hash is computed for a client after its reset.
#[test]
fn a_wrong_password_costs_nothing_after_its_sender_has_reset() {
    let users = Users::new(6);
    let gateway = users.setup().start();
    let before = processor_ticks(&gateway);
    assert_eq!(status(gateway.address, "127.0.0.1:9", "alice:first"), "407");
    let one_hash = processor_ticks(&gateway) - before;
    // Keeps the threads busy until the other clients have left.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let guess =
        |name: &str| send_from(Ipv4Addr::LOCALHOST, &gateway, &request("127.0.0.1:9", Some(&format!("alice:{name}"))));
    let before = processor_ticks(&gateway);
    let staying: Vec<TcpStream> = (0..threads).map(|number| guess(&format!("stays {number}"))).collect();
    let leaving: Vec<TcpStream> = (0..60).map(|number| guess(&format!("leaves {number}"))).collect();
    leaving.iter().for_each(client::reset);
    gateway.wait_for_metric(&CONNECT_REQUESTS, &["none", "client_gone"], 60);
    for stream in staying {
        assert!(read_head(&stream).starts_with("HTTP/1.1 407 "));
    }
    let ticks = processor_ticks(&gateway) - before;
    // The remaining guesses, one started hash per thread, and the same again for everything else.
    let most = one_hash * 4 * (threads as u64 + 1);
    assert!(ticks < most, "{ticks} ticks, where a hash takes {one_hash} and 60 take {}", 60 * one_hash);
}
