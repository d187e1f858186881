//! Signals, draining, and the end of one tunnel among others.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::thread;

use rustix::process::Signal;
use serde_json::Value;
use sluicegate::metrics;
use sluicegate::sys::thread::{pin_to_cpus, unthrottled_cpus};

use crate::support::noise::End;
use crate::support::process::sluicegate;
use crate::support::{DEADLINE, Gateway, Origin, Setup, admin, client, connect, eventually};

/// Starts a drain of a gateway with an open tunnel, and waits until it accepts no connection.
fn drain(gateway: &Gateway) {
    gateway.signal(Signal::TERM);
    let line = gateway.log_line("draining", |line| line.message().starts_with("draining"));
    assert_eq!((line.text("signal"), line.number("tunnels")), ("SIGTERM", 1), "{}", line.raw);
    let error = TcpStream::connect(gateway.address).expect_err("the listener is closed");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(admin::get(gateway.admin, "/readyz").status, 503);
    assert_eq!(admin::get(gateway.admin, "/healthz").status, 200);
}

#[test]
fn a_drain_waits_for_open_tunnels() {
    let mut gateway = Gateway::open(&[]);
    let origin = Origin::echo();
    assert_eq!(admin::get(gateway.admin, "/readyz").status, 200);
    let stream = connect(gateway.address, origin.address);
    drain(&gateway);
    client::echoes(&stream, 1 << 20);
    client::hang_up(&stream);
    assert_eq!(gateway.wait().code(), Some(0));
    let line = gateway.closing_line(stream.local_addr().unwrap());
    assert_eq!((line.text("outcome"), line.number("to_origin")), ("client_closed", 1 << 20));
    assert_eq!(gateway.log.count(|line| line.message() == "stopped"), 1);
}

/// Repeated, since the runtime may see the queue in time.
#[test]
fn whoever_is_in_the_queue_when_a_drain_begins_is_served() {
    let origin = Origin::echo();
    let request = client::request(origin.address, None);
    let cores = unthrottled_cpus();
    for _ in 0..8 {
        let mut gateway = Gateway::open(&["--listen", "[::1]:0"]);
        // Stops the gateway for a moment.
        gateway.signal(Signal::STOP);
        let dial = |number: usize| {
            if let Some(core) = cores.get(number % cores.len().max(1)) {
                pin_to_cpus([*core]).unwrap();
            }
            gateway.listeners.iter().map(|listener| client::dial(*listener)).collect::<Vec<_>>()
        };
        let dial = |number| thread::scope(|scope| scope.spawn(|| dial(number)).join().unwrap());
        let clients: Vec<TcpStream> = (0..8).flat_map(dial).collect();
        for mut client in &clients {
            client.write_all(request.as_bytes()).unwrap();
        }
        gateway.signal(Signal::TERM);
        gateway.signal(Signal::CONT);
        for client in &clients {
            assert_eq!(client::read_head(client), client::ESTABLISHED);
            client::echoes(client, 1_000);
        }
        clients.iter().for_each(client::hang_up);
        assert_eq!(gateway.wait().code(), Some(0));
    }
}

#[test]
fn handshakes_that_a_drain_gives_up_have_their_lines() {
    const CLIENTS: usize = 8;
    let mut gateway = Gateway::open(&["--drain-timeout", "200ms"]);
    let clients: Vec<TcpStream> = (0..CLIENTS).map(|_| client::dial(gateway.address)).collect();
    for mut client in &clients {
        client.write_all(b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHo").unwrap();
    }
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
    let refused = |client: &TcpStream| gateway.refusal_line(client.local_addr().unwrap());
    for client in &clients {
        assert_eq!(refused(client).text("reason"), "shutdown");
    }
}

#[test]
fn without_tunnels_a_drain_is_over_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut gateway = Gateway::open(&[]);
        gateway.signal(signal);
        assert_eq!(gateway.wait().code(), Some(0));
    }
}

/// Asserts that the tunnel open at the gateway's end is reset on both sides and accounted for.
fn was_reset(gateway: &mut Gateway, client: &TcpStream, origin: &TcpStream) {
    assert_eq!(client::end_of(client), End::Reset);
    assert_eq!(client::end_of(origin), End::Reset);
    assert_eq!(gateway.wait().code(), Some(0));
    let line = gateway.closing_line(client.local_addr().unwrap());
    assert_eq!((line.text("outcome"), line.text("by")), ("shutdown", "operator"), "{}", line.raw);
}

/// Opens a tunnel and sends a byte, so that the closing line is not at debug level.
fn tunnel(gateway: &Gateway) -> (TcpStream, TcpStream) {
    let origin = Origin::new();
    let client = connect(gateway.address, origin.address);
    let accepted = origin.accept();
    crate::support::Noise::new(1).send(&client, 1);
    crate::support::Noise::new(1).expect_exactly(&accepted, 1);
    (client, accepted)
}

#[test]
fn a_second_signal_ends_a_drain() {
    let mut gateway = Gateway::open(&[]);
    let (client, origin) = tunnel(&gateway);
    drain(&gateway);
    gateway.signal(Signal::TERM);
    was_reset(&mut gateway, &client, &origin);
}

#[test]
fn a_drain_has_the_time_that_it_is_given() {
    let mut gateway = Gateway::open(&["--drain-timeout", "1s"]);
    let (client, origin) = tunnel(&gateway);
    gateway.signal(Signal::TERM);
    gateway.log_line("its end", |line| line.message().starts_with("--drain-timeout is over"));
    was_reset(&mut gateway, &client, &origin);
}

#[test]
fn one_tunnel_is_killed_and_another_lives_on() {
    let gateway = Gateway::open(&[]);
    let echo = Origin::echo();
    let lives = connect(gateway.address, echo.address);
    let (killed, origin) = tunnel(&gateway);
    let from = killed.local_addr().unwrap().to_string();
    let (admin, control) = (gateway.admin.to_string(), gateway.control.to_str().expect("a plain path"));

    let listed = sluicegate(&["tunnels", "--json", "--control", control], &[]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let listed: Vec<Value> = serde_json::from_str(&listed.out).expect("an array");
    assert_eq!(listed.len(), 2);
    let of_killed = listed.iter().find(|tunnel| tunnel["client"] == from.as_str()).expect("it is there");
    assert_eq!((&of_killed["bytes_to_origin"], &of_killed["user"]), (&1.into(), &Value::Null));
    let id = of_killed["id"].to_string();

    // The table too, through the environment variable that also starts the gateway and through the
    // admin address.
    for table in [
        sluicegate(&["tunnels"], &[("SLUICEGATE_CONTROL", control)]),
        sluicegate(&["tunnels", "--admin", &admin], &[("SLUICEGATE_CONTROL", "/nonexistent/control.sock")]),
    ] {
        assert!(table.out.lines().count() == 3 && table.out.contains(&from), "{table:?}");
    }

    let outcome = sluicegate(&["kill", &id, "--control", control], &[]);
    assert_eq!((outcome.code, outcome.out), (Some(0), format!("ended tunnel {id}\n")));
    assert_eq!(client::end_of(&killed), End::Reset);
    assert_eq!(client::end_of(&origin), End::Reset);
    let line = gateway.closing_line(killed.local_addr().unwrap());
    let said = (line.text("outcome"), line.text("by"), line.number("to_origin"));
    assert_eq!(said, ("killed", "operator", 1), "{}", line.raw);
    assert_eq!(gateway.metric(&metrics::TUNNELS, &["", "killed"]), 1);
    eventually("it is gone", || gateway.tunnels().len() == 1);

    let again = sluicegate(&["kill", &id, "--control", control], &[]);
    assert!(again.code == Some(1) && again.err.contains(&format!("no tunnel {id} is open")), "{again:?}");
    client::echoes(&lives, 1 << 20);
}

#[test]
fn an_idle_tunnel_is_ended_only_where_that_is_asked_for() {
    let gateway = Gateway::open(&["--idle-timeout", "300ms"]);
    let (client, origin) = tunnel(&gateway);
    assert_eq!(client::end_of(&client), End::Reset);
    assert_eq!(client::end_of(&origin), End::Reset);
    let line = gateway.closing_line(client.local_addr().unwrap());
    assert_eq!((line.text("outcome"), line.text("by")), ("idle", "gateway"), "{}", line.raw);
}

#[test]
fn systemd_hears_of_the_beginning_and_of_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(DEADLINE)).unwrap();
    let heard = || {
        let mut message = [0; 64];
        let length = systemd.recv(&mut message).expect("a word to systemd");
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let setup = Setup::new(&["--no-auth"]).variable("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut gateway = setup.start();
    assert_eq!(heard(), "READY=1\n");
    gateway.signal(Signal::TERM);
    assert_eq!(heard(), "STOPPING=1\n");
    assert_eq!(gateway.wait().code(), Some(0));
}

#[test]
fn a_killed_gateway_leaves_no_clean_end() {
    for engine in ["uring", "splice", "copy"] {
        let mut gateway = Gateway::open(&["--engine", engine]);
        let (client, origin) = tunnel(&gateway);
        gateway.signal(Signal::KILL);
        assert!(!gateway.wait().success());
        for end in [&client, &origin] {
            assert_eq!(client::end_of(end), End::Reset, "{engine}");
        }
    }
}

#[test]
fn a_level_that_is_none_is_refused() {
    let outcome = sluicegate(&["serve", "--no-auth"], &[("SLUICEGATE_LOG_LEVEL", "debgu")]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(
        outcome.err.contains("SLUICEGATE_LOG_LEVEL=debgu: unknown value; write one of error, warn, info, debug"),
        "{outcome:?}"
    );
}
