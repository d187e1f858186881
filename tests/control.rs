//! Access to a running gateway: views and changes.

use std::fs::{self, Permissions, set_permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::noise::End;
use crate::support::process::{raise_descriptor_limit, run, sluicegate};
use crate::support::stranger::Stranger;
use crate::support::{DEADLINE, Gateway, Origin, Setup, admin, client, connect, eventually};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn with_metrics() -> Setup {
    Setup::new(&["--no-auth", "--metrics", "127.0.0.1:0"])
}

/// Opens a tunnel and returns its number too.
fn tunnel(gateway: &Gateway, origin: SocketAddr) -> (TcpStream, u64) {
    let stream = connect(gateway.address, origin);
    let from = stream.local_addr().expect("an address").to_string();
    let mut id = None;
    eventually("it is listed", || {
        id = gateway.tunnels().iter().find(|tunnel| tunnel["client"] == from.as_str()).and_then(|it| it["id"].as_u64());
        id.is_some()
    });
    (stream, id.expect("just seen"))
}

#[test]
fn tcp_only_reads() {
    let origin = Origin::echo();
    let gateway = with_metrics().start();
    let (stream, id) = tunnel(&gateway, origin.address);
    let tcp = |address: SocketAddr, method: &str, path: &str, body: &str| {
        let stream = TcpStream::connect(address).expect("it accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        admin::ask(stream, method, path, body)
    };
    let metrics = gateway.metrics.expect("an address");
    for (method, path, body) in [
        ("DELETE", format!("/api/tunnels/{id}"), ""),
        ("PATCH", "/api/rates".to_owned(), "{\"tunnel\": 5000}"),
        ("POST", "/api/drain".to_owned(), ""),
    ] {
        let answer = tcp(gateway.admin, method, &path, body);
        assert_eq!(answer.status, 405, "{answer:?}");
        assert!(answer.body.contains("control socket (--control PATH)"), "{answer:?}");
        assert_eq!(tcp(metrics, method, &path, body).status, 404);
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(admin::get(metrics, path).status, 200, "{path}");
    }
    for path in ["/", "/api/tunnels", "/api/rates"] {
        assert_eq!(admin::get(gateway.admin, path).status, 200, "{path}");
        assert_eq!(admin::get(metrics, path).status, 404, "{path}");
        assert_eq!(admin::control(&gateway.control, "GET", path, "").status, 200, "{path}");
    }
    client::echoes(&stream, 10_000);
    assert_eq!(admin::get(gateway.admin, "/readyz").status, 200, "it does not drain");
    let rates = admin::get(gateway.admin, "/api/rates");
    assert_eq!(serde_json::from_str::<Value>(&rates.body).expect("JSON")["tunnel"], "none");
    assert_eq!(admin::delete(&gateway.control, &format!("/api/tunnels/{id}")).status, 204);
    assert_eq!(client::end_of(&stream), End::Reset);
}

/// With any umask.
#[test]
fn the_socket_is_its_users_alone() {
    for umask in ["0000", "0027"] {
        let gateway = Setup::new(&["--no-auth"]).under(&["sh", "-c", &format!("umask {umask} && exec \"$@\""), "sh"]);
        let gateway = gateway.start();
        let mode = fs::metadata(&gateway.control).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "umask {umask}");
    }
}

#[test]
fn a_folder_made_for_the_socket_lets_the_user_of_run_as_in_whatever_the_umask() {
    let Some(stranger) = Stranger::new() else { return };
    let user = format!("{0}:{0}", stranger.uid());
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("made/for");
    let socket = folder.join("control.sock");
    let _gateway = Setup::new(&["--no-auth", "--engine", "copy", "--run-as", &user, "--control", text(&socket)])
        .under(&["sh", "-c", "umask 0077 && exec \"$@\"", "sh"])
        .start();
    for made in [&folder, &directory.path().join("made")] {
        let mode = fs::metadata(made).expect("a folder").permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{}", made.display());
    }
    let outcome = sluicegate(&["tunnels", "--control", text(&socket)], &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn another_user_is_told_apart() {
    let Some(stranger) = Stranger::new() else { return };
    let gateway = Setup::new(&["--no-auth"]).start();
    let list = || {
        let wrapper = stranger.wrapper("true");
        let mut command = std::process::Command::new(&wrapper[0]);
        command.args(&wrapper[1..]).args(["-", "tunnels", "--control", text(&gateway.control)]);
        run(command, b"")
    };
    let outcome = list();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.err.contains("belongs to another user: Permission denied"), "{outcome:?}");
    // The socket's mode is one lock, the peer's credentials are another.
    set_permissions(&gateway.control, Permissions::from_mode(0o666)).expect("our own socket");
    let outcome = list();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.err.contains("403 Forbidden: only the gateway's user and root may use the control socket"));
    gateway.log_line("the refusal", |line| line.message() == "the control socket refused a user");
}

#[test]
fn a_gateway_of_another_user_serves_root_and_itself() {
    let Some(stranger) = Stranger::new() else { return };
    let wrapper = stranger.wrapper("true");
    let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
    let mut gateway = Setup::new(&["--no-auth", "--engine", "copy"]).under(&wrapper).start();
    let outcome = sluicegate(&["tunnels", "--control", text(&gateway.control)], &[]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().success());
    assert!(!gateway.control.exists(), "it is removed at the end");
}

#[test]
fn a_gateway_that_becomes_another_user_serves_root_and_itself() {
    let Some(stranger) = Stranger::new() else { return };
    let user = format!("{0}:{0}", stranger.uid());
    let mut gateway = Setup::new(&["--no-auth", "--engine", "copy", "--run-as", &user]).start();
    let socket = fs::metadata(&gateway.control).expect("the socket");
    assert_eq!((socket.uid(), socket.permissions().mode() & 0o777), (stranger.uid(), 0o600));
    for drain in [&["tunnels"][..], &["drain"]] {
        let outcome = sluicegate(&[drain, &["--control", text(&gateway.control)]].concat(), &[]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }
    assert!(gateway.wait().success());
}

#[test]
fn nobody_is_shut_out_of_any_listener() {
    raise_descriptor_limit();
    let origin = Origin::echo();
    let gateway = with_metrics().start();
    let metrics = gateway.metrics.expect("an address");
    let (stream, _) = tunnel(&gateway, origin.address);
    let unfinished = "PATCH /api/rates HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{";
    for (count, sent) in [(700, ""), (700, unfinished), (1_000, "GET /")] {
        let tcp = |address: SocketAddr| {
            let connect = || {
                let mut stream = TcpStream::connect(address).expect("it accepts");
                // An evicted connection reads nothing more.
                let _ = stream.write_all(sent.as_bytes());
                stream
            };
            (0..count).map(|_| connect()).collect::<Vec<_>>()
        };
        let unix = || {
            let mut stream = UnixStream::connect(&gateway.control).expect("it accepts");
            let _ = stream.write_all(sent.as_bytes());
            stream
        };
        let crowd = (tcp(gateway.admin), tcp(metrics), (0..count).map(|_| unix()).collect::<Vec<_>>());
        for address in [gateway.admin, metrics] {
            assert_eq!(admin::get(address, "/healthz").status, 200, "{count} {sent}");
            assert_eq!(admin::get(address, "/metrics").status, 200, "{count} {sent}");
        }
        let (victim, id) = tunnel(&gateway, origin.address);
        let outcome = sluicegate(&["kill", &id.to_string(), "--control", text(&gateway.control)], &[]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(client::end_of(&victim), End::Reset);
        drop(crowd);
    }
    client::echoes(&stream, 10_000);
}

#[test]
fn a_drain_is_asked_for_and_waited_for() {
    let origin = Origin::echo();
    let mut gateway = Gateway::open(&[]);
    let (stream, _) = tunnel(&gateway, origin.address);
    let outcome = sluicegate(&["drain", "--control", text(&gateway.control)], &[]);
    let said = "draining, no more connections are accepted: 1 tunnel is left\n";
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), said), "{outcome:?}");
    TcpStream::connect(gateway.address).expect_err("the listener is closed");
    assert_eq!(admin::get(gateway.admin, "/readyz").body, "draining\n");
    let line = gateway.log_line("draining", |line| line.message().starts_with("draining"));
    assert_eq!(line.text("command"), "drain", "{}", line.raw);
    // A second drain command is not a second signal.
    let again = sluicegate(&["drain", "--control", text(&gateway.control)], &[]);
    assert_eq!((again.code, again.out.as_str()), (Some(0), said), "{again:?}");
    client::echoes(&stream, 10_000);
    let waited = std::thread::scope(|scope| {
        let control = gateway.control.clone();
        let waits = scope.spawn(move || sluicegate(&["drain", "--wait", "--control", text(&control)], &[]));
        eventually("the third request", || gateway.log.count(|line| line.message().starts_with("asked to drain")) == 3);
        client::echoes(&stream, 10_000);
        client::hang_up(&stream);
        waits.join().expect("it does not panic")
    });
    assert_eq!((waited.code, waited.out.as_str()), (Some(0), "no tunnel is left, and the gateway has ended\n"));
    assert_eq!(gateway.wait().code(), Some(0));
    assert!(!gateway.control.exists());
}

/// The answer precedes the end of the process, which follows at once.
#[test]
fn a_drain_without_tunnels_ends_the_gateway() {
    for arguments in [&["drain"][..], &["drain", "--wait"]] {
        let mut gateway = Gateway::open(&[]);
        let outcome = sluicegate(&[arguments, &["--control", text(&gateway.control)]].concat(), &[]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(gateway.wait().code(), Some(0));
        let over = sluicegate(&[arguments, &["--control", text(&gateway.control)]].concat(), &[]);
        assert!(over.code == Some(1) && over.err.contains("is the gateway running"), "{over:?}");
    }
}

#[test]
fn two_gateways_do_not_share_a_socket() {
    let first = Gateway::open(&[]);
    let control = text(&first.control);
    let outcome = Setup::new(&["--no-auth", "--control", control]).refused();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let said = format!("--control {control}: another gateway listens there; stop it, or give this one a socket");
    assert!(outcome.err.contains(&said), "{outcome:?}");
    assert_eq!(admin::control(&first.control, "GET", "/healthz", "").status, 200);
}

#[test]
fn the_socket_of_a_killed_gateway_is_replaced() {
    let mut first = Gateway::open(&[]);
    first.signal(Signal::KILL);
    first.wait();
    assert!(first.control.exists());
    let second = Gateway::open(&["--control", text(&first.control)]);
    assert_eq!(admin::control(&first.control, "GET", "/healthz", "").status, 200);
    drop(second);
}

/// In a directory in place of the user's own.
#[test]
fn a_default_path_that_cannot_be_had_is_a_warning() {
    let Some(stranger) = Stranger::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("our own folder");
    let path = folder.path().join("sluicegate/control.sock");
    fs::create_dir(folder.path().join("sluicegate")).expect("a folder");
    let start = |line: String| {
        let wrapper = stranger.wrapper(&format!("unset SLUICEGATE_CONTROL; {line}"));
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        Setup::new(&["--no-auth", "--engine", "copy"]).under(&wrapper).start()
    };
    let warned = |gateway: &Gateway, said: &str| {
        let line = gateway.log_line("a warning", |line| line.message().starts_with("no control socket, so kill"));
        assert!(line.level() == "WARN" && line.message().contains(said), "{}", line.raw);
    };
    let exported = || format!("export XDG_RUNTIME_DIR={}", folder.path().display());
    let _live = UnixListener::bind(&path).expect("a socket");
    set_permissions(&path, Permissions::from_mode(0o666)).expect("our own socket");
    warned(&start(exported()), "another gateway listens there; stop it, or give this one a socket of its own");
    warned(&start("unset XDG_RUNTIME_DIR".to_owned()), "XDG_RUNTIME_DIR is not set; name one with --control PATH");
    fs::remove_dir_all(folder.path().join("sluicegate")).expect("our own folder");
    let gateway = start(exported());
    assert_eq!(admin::control(&path, "GET", "/healthz", "").status, 200);
    drop(gateway);
}

#[test]
fn an_address_that_others_reach_says_what_it_shows() {
    let shows =
        |line: &crate::support::log::Line| line.message().starts_with("every client that reaches the admin address");
    let metrics =
        |line: &crate::support::log::Line| line.message().starts_with("every client that reaches the metrics");
    let open = Setup::new(&["--no-auth"]).start();
    let others = Setup::new(&["--no-auth", "--metrics", "0.0.0.0:0"]).at("0.0.0.0").start();
    let line = others.log_line("a warning", shows);
    assert_eq!(line.level(), "WARN");
    assert!(line.message().contains("users, clients, targets") && line.message().contains("--metrics ADDR:PORT"));
    others.log_line("a word", metrics);
    // The socket is bound before the listeners, so lines about addresses are already written.
    admin::control(&open.control, "GET", "/healthz", "");
    assert_eq!(open.log.count(|line| shows(line) || metrics(line)), 0);
}

#[test]
fn what_names_no_tunnel_is_explained() {
    for (id, code) in [("all", 2), ("-1", 2), ("1.5", 2), ("+1", 2)] {
        let outcome = sluicegate(&["kill", id, "--control", "/nonexistent/control.sock"], &[]);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.err.contains(&format!("invalid value '{id}' for '<ID>")), "{outcome:?}");
        assert!(outcome.err.contains("`sluicegate kill 17 18`; `sluicegate tunnels` lists the numbers"), "{outcome:?}");
    }
    let outcome = sluicegate(&["kill", "1", "--control", "/nonexistent/control.sock"], &[]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.err.contains("no control socket at /nonexistent/control.sock: "), "{outcome:?}");
}

/// Requests in no valid HTTP are refused.
#[test]
fn the_socket_survives_nonsense() {
    let gateway = Gateway::open(&[]);
    for nonsense in [&b"\0\0\0\0"[..], b"kill 1\r\n\r\n", &[0xff; 100_000]] {
        let mut stream = UnixStream::connect(&gateway.control).expect("it accepts");
        let _ = stream.write_all(nonsense);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(admin::control(&gateway.control, "GET", "/healthz", "").status, 200);
}
