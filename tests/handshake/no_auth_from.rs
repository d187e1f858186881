//! Clients without a password, admitted by their network.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use sluicegate::metrics::USER_BYTES;
use socket2::{Domain, Socket, Type};

use crate::support::client::{basic, read_head, request};
use crate::support::origin::{Serving, patient};
use crate::support::process::sluicegate;
use crate::support::{Gateway, Origin, Setup, client};

/// A gateway with the users ann and the clients of two networks, one network with its own policy.
struct Rig {
    _folder: tempfile::TempDir,
    file: String,
    origin: Serving,
    gateway: Gateway,
}

impl Rig {
    fn new() -> Self {
        let (folder, origin) = (tempfile::tempdir().expect("a folder"), Origin::echo());
        let text = format!(
            "allow = ['127.0.0.0/8:*']\nno-auth-from = ['127.7.0.0/16', '127.7.7.7']\n\
             [users.ann]\npasswords = '{}'\n\
             [users.'127.7.0.0/16']\nallow = '127.0.0.1:{}'\nmax-tunnels = 1\n",
            bcrypt::hash("pw", 4).expect("a hash"),
            origin.address.port()
        );
        let file = folder.path().join("gateway.toml");
        fs::write(&file, text).expect("a file");
        let file = file.to_str().expect("a plain path").to_owned();
        let gateway = Setup::bare(&["--config", &file]).debug().start();
        Self { _folder: folder, file, origin, gateway }
    }

    fn send(&self, from: &str, head: &str) -> (TcpStream, String) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(from.parse().expect("an address"), 0).into()).expect("loopback");
        socket.connect(&self.gateway.address.into()).expect("the gateway accepts");
        let mut stream = TcpStream::from(socket);
        patient(&stream);
        stream.write_all(head.as_bytes()).expect("it reads");
        let answer = read_head(&stream);
        (stream, answer.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned())
    }

    fn ask(&self, from: &str, user: Option<&str>) -> (TcpStream, String) {
        self.send(from, &request(self.origin.address, user))
    }
}

#[test]
fn a_client_without_credentials_is_the_user_of_its_network() {
    let rig = Rig::new();
    let (open, answer) = rig.ask("127.7.0.1", None);
    assert_eq!(answer, "200 Connection established");
    client::echoes(&open, 1_000);
    assert_eq!(rig.gateway.tunnels()[0]["user"], "127.7.0.0/16");
    // The policy of this network's user only.
    assert_eq!(rig.ask("127.7.0.2", None).1, "503 Service Unavailable: max-tunnels 1 of user 127.7.0.0/16 reached");
    let elsewhere = request("127.0.0.2:9", None);
    let refused = "403 Forbidden: no rule of user 127.7.0.0/16 matches 127.0.0.2:9";
    assert_eq!(rig.send("127.7.0.2", &elsewhere).1, refused);
    assert!(rig.send("127.7.7.7", &elsewhere).1.starts_with("502 "), "the narrowest network counts");
    let (narrow, answer) = rig.ask("127.7.7.7", None);
    assert_eq!(answer, "200 Connection established");
    // Clients of other networks need credentials, and credentials sent are checked.
    assert_eq!(rig.ask("127.8.0.1", None).1, "407 Proxy Authentication Required: proxy credentials are needed");
    let wrong = "407 Proxy Authentication Required: wrong user name or password";
    for user in ["ann:no", "127.7.0.0/16:", "127.7.0.0/16:x"] {
        assert_eq!(rig.ask("127.7.0.2", Some(user)).1, wrong, "{user}");
    }
    assert_eq!(rig.ask("127.7.0.2", Some("ann:pw")).1, "200 Connection established");
    let malformed = format!("CONNECT {} HTTP/1.1\r\nProxy-Authorization: Bearer x\r\n\r\n", rig.origin.address);
    assert!(rig.send("127.7.0.2", &malformed).1.starts_with("407 "), "{}", basic("x:x"));

    client::hang_up(&open);
    assert_eq!(rig.gateway.closing_line(open.local_addr().unwrap()).text("user"), "127.7.0.0/16");
    rig.gateway.wait_for_metric(&USER_BYTES, &["127.7.0.0/16", "to_origin"], 1_000);
    client::hang_up(&narrow);
    assert_eq!(rig.gateway.closing_line(narrow.local_addr().unwrap()).text("user"), "127.7.7.7");
}

#[test]
fn explain_and_check_know_the_users_of_networks() {
    let rig = Rig::new();
    let port = rig.origin.address.port();
    let explain = |from: &str, target: &str| {
        let outcome = sluicegate(&["explain", "--config", &rig.file, "--from", from, target], &[]);
        (outcome.code, outcome.out + &outcome.err)
    };
    let (code, said) = explain("127.7.0.1", &format!("127.0.0.1:{port}"));
    for words in [
        "127.7.0.0/16 from 127.7.0.1 requests 127.0.0.1:",
        "need no credentials (--no-auth-from 127.7.0.0/16)",
        "of user 127.7.0.0/16",
    ] {
        assert!(code == Some(0) && said.contains(words), "{words}: {said}");
    }
    let (code, said) = explain("127.7.0.1", "127.0.0.2:9");
    assert!(code == Some(1) && said.contains("no rule of user 127.7.0.0/16 matches 127.0.0.2:9"), "{said}");
    assert_eq!(explain("127.7.7.7", "127.0.0.2:9").0, Some(0));
    assert!(explain("127.8.0.1", "127.0.0.2:9").1.starts_with("any user from 127.8.0.1 requests"));

    let outcome = sluicegate(&["check", "--config", &rig.file], &[]);
    let said = ": 1 user, no credentials from 127.7.0.0/16, no credentials from 127.7.7.7, up to";
    assert!(outcome.code == Some(0) && outcome.out.contains(said), "{outcome:?}");
    let outcome = sluicegate(&["check"], &[("SLUICEGATE_NO_AUTH_FROM", "10.0.0.0/8;fd00::/8")]);
    let said = ": 0 users, no credentials from 10.0.0.0/8, no credentials from fd00::/8, up to";
    assert!(outcome.code == Some(0) && outcome.out.contains(said), "{outcome:?}");
    for (arguments, said) in [
        (&["--no-auth", "--no-auth-from", "10.0.0.0/8"][..], "--no-auth-from names networks; remove one of the two"),
        (&["--no-auth-from", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (&["--no-auth-from", "10.0.0.0/8", "--no-auth-from", "10.0.0.0/8"], "'10.0.0.0/8' is listed twice"),
        (&["--no-auth-from", "10.0.0.0/8", "--user", "10.0.0.0/8:x"], "'10.0.0.0/8' is a network of --no-auth-from"),
    ] {
        let outcome = sluicegate(&[&["check"], arguments].concat(), &[]);
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{said}: {outcome:?}");
    }
    let outcome = sluicegate(&["check", "--no-auth-from", "0.0.0.0/0", "--strict"], &[]);
    assert!(outcome.code == Some(2) && outcome.err.contains("--no-auth-from 0.0.0.0/0: every client"), "{outcome:?}");
}
