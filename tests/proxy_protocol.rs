//! The PROXY protocol: client addresses received from a proxy in front, and sent to a target
//! behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use sluicegate::proxy_protocol::{Version, header};

use crate::support::client::{self, ESTABLISHED, SWITCHED, SWITCHING, dial, read_head, request, send_cut, upgrade};
use crate::support::process::Haproxies;
use crate::support::{Gateway, Noise, Origin, eventually};

const LOCAL: [&str; 2] = ["--proxy-protocol-from", "127.0.0.0/8"];

/// A PROXY header for a client at this address.
fn from(address: &str, version: Version) -> Vec<u8> {
    header(version, address.parse().unwrap(), "198.51.100.1:3128".parse().unwrap())
}

#[test]
fn the_address_that_it_carries_is_the_clients() {
    let origin = Origin::echo();
    let gateway = Gateway::open(&[&LOCAL[..], &["--max-tunnels-per-source", "1"]].concat());
    let tunnel = |address: &str, version| {
        let mut stream = dial(gateway.address);
        stream.write_all(&[from(address, version), request(origin.address, None).into_bytes()].concat()).unwrap();
        stream
    };
    let first = tunnel("203.0.113.9:40000", Version::V1);
    assert_eq!(read_head(&first), ESTABLISHED);
    client::echoes(&first, 100_000);
    let second = tunnel("[2001:db8::9]:40000", Version::V2);
    assert_eq!(read_head(&second), ESTABLISHED);
    // In limits, in the API and in the log.
    let refused = client::answer(tunnel("203.0.113.9:50000", Version::V2));
    assert!(refused.starts_with("HTTP/1.1 503 Service Unavailable: --max-tunnels-per-source 1 reached"), "{refused}");
    eventually("both are listed", || gateway.tunnels().len() == 2);
    let mut clients: Vec<_> = gateway.tunnels().iter().map(|tunnel| tunnel["client"].to_string()).collect();
    clients.sort();
    assert_eq!(clients, ["\"203.0.113.9:40000\"", "\"[2001:db8::9]:40000\""]);
    let log = |client: &str| gateway.refusal_line(client.parse().unwrap()).text("reason").to_owned();
    assert_eq!(log("203.0.113.9:50000"), "source_limit");
    client::hang_up(&first);
    let line = gateway.closing_line("203.0.113.9:40000".parse().unwrap());
    assert_eq!((line.number("to_origin"), line.number("to_client")), (100_000, 100_000));
}

#[test]
fn however_it_is_cut() {
    let origin = Origin::new();
    let gateway = Gateway::open(&LOCAL);
    for version in [Version::V1, Version::V2] {
        let head = [from("203.0.113.9:40000", version), request(origin.address, None).into_bytes()].concat();
        for cut in 0..=head.len() {
            let stream = dial(gateway.address);
            send_cut(&stream, &[&head[..], &Noise::new(1).take(9)].concat(), cut);
            assert_eq!(read_head(&stream), ESTABLISHED);
            let at_origin = origin.accept();
            Noise::new(1).expect_exactly(&at_origin, 9);
            client::hang_up_both(&stream, &at_origin);
        }
    }
}

#[test]
fn who_has_to_send_one_and_does_not_is_closed() {
    let gateway = Gateway::open(&[&LOCAL[..], &["--handshake-timeout", "300ms"]].concat());
    for (bytes, detail) in [
        (&b"CONNECT h:443 HTTP/1.1\r\n\r\n"[..], "no PROXY protocol header (--proxy-protocol-from)"),
        (b"PROXY TCP4 1.2.3.4 nowhere 1 2\r\n", "malformed PROXY protocol header (--proxy-protocol-from)"),
        (b"PROXY TCP4 1.2.3.4", "PROXY header not complete within 300ms (--handshake-timeout)"),
    ] {
        let mut stream = dial(gateway.address);
        stream.write_all(bytes).unwrap();
        let ended = stream.read(&mut [0]);
        assert!(ended.as_ref().is_ok_and(|got| *got == 0) || ended.is_err(), "no answer: {ended:?}");
        let line = gateway.refusal_line(stream.local_addr().unwrap());
        assert_eq!((line.text("reason"), line.text("detail")), ("not_proxied", detail));
        assert_eq!(line.code(), "none", "{}", line.raw);
    }
    // A proxy's own connection, as for a health check, keeps its own source address.
    let origin = Origin::echo();
    let mut stream = dial(gateway.address);
    let own = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    stream.write_all(&[&own[..], request(origin.address, None).as_bytes()].concat()).unwrap();
    assert_eq!(read_head(&stream), ESTABLISHED);
    client::echoes(&stream, 100);
    client::hang_up(&stream);
    gateway.closing_line(stream.local_addr().unwrap());
}

#[test]
fn nobody_else_is_believed() {
    let gateway = Gateway::open(&["--proxy-protocol-from", "192.0.2.0/24"]);
    for version in [Version::V1, Version::V2] {
        let bytes = [from("203.0.113.9:40000", version), request("127.0.0.1:1", None).into_bytes()].concat();
        for cut in 0..bytes.len() {
            let stream = dial(gateway.address);
            send_cut(&stream, &bytes, cut);
            let client = stream.local_addr().unwrap();
            let answer = client::answer(stream);
            let line = "HTTP/1.1 400 Bad Request: unexpected PROXY protocol header; --proxy-protocol-from lists who may send one";
            assert!(answer.starts_with(line), "{answer}");
            assert_eq!(gateway.refusal_line(client).text("reason"), "proxy_header");
        }
    }
}

#[test]
fn targets_are_told_by_rule_before_anything_else() {
    let (origin, other) = (Origin::new(), Origin::new());
    let rules = [format!("v1 for 127.0.0.1:{}", origin.address.port()), "v2 for localhost:*".to_owned()];
    let gateway =
        Gateway::open(&["--allow", "localhost:*", "--proxy-protocol-to", &rules[0], "--proxy-protocol-to", &rules[1]]);
    let expect = |at_origin: &mut TcpStream, expected: &[u8]| {
        let mut told = vec![0; expected.len()];
        at_origin.read_exact(&mut told).unwrap();
        assert_eq!(told.escape_ascii().to_string(), expected.escape_ascii().to_string());
    };
    let own = |stream: &TcpStream, version| header(version, stream.local_addr().unwrap(), gateway.address);
    let stream = client::established(gateway.address, &request(origin.address, None), b"first");
    let mut at_origin = origin.accept();
    expect(&mut at_origin, &[&own(&stream, Version::V1)[..], b"first"].concat());
    client::hang_up_both(&stream, &at_origin);
    // Only bytes of the tunnel are counted.
    let line = gateway.closing_line(stream.local_addr().unwrap());
    assert_eq!((line.number("to_origin"), line.number("to_client")), (5, 0), "{}", line.raw);

    let name = format!("localhost:{}", other.address.port());
    let mut stream = dial(gateway.address);
    stream.write_all(upgrade(&name, None, "").as_bytes()).unwrap();
    let mut at_origin = other.accept();
    expect(&mut at_origin, &[&own(&stream, Version::V2)[..], client::upgrade_at_origin(&name, "").as_bytes()].concat());
    at_origin.write_all(SWITCHING.as_bytes()).unwrap();
    assert_eq!(read_head(&stream), SWITCHED);

    let stream = client::established(gateway.address, &request(other.address, None), b"first");
    expect(&mut other.accept(), b"first");
    drop(stream);
}

/// HAProxy in front of the gateway, and HAProxy behind it; the second one answers with the address
/// it received.
#[test]
fn between_two_haproxies() {
    let Some(haproxies) = Haproxies::new() else { return };
    let (_behind, behind) = haproxies.start("behind", |port| {
        format!(
            "frontend told\n  mode http\n  bind 127.0.0.1:{port} accept-proxy\n\
             \x20 http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port]\"\n"
        )
    });
    for (sends, version) in [("send-proxy", "v1"), ("send-proxy-v2", "v2")] {
        let rule = format!("{version} for 127.0.0.0/8:{behind}");
        let gateway = Gateway::open(&[&LOCAL[..], &["--proxy-protocol-to", &rule]].concat());
        let (_before, before) = haproxies.start(&format!("before-{version}"), |port| {
            format!(
                "listen before\n  mode tcp\n  bind 127.0.0.1:{port}\n  server gateway {} {sends}\n",
                gateway.address
            )
        });
        let stream = client::established(
            SocketAddr::from(([127, 0, 0, 1], before)),
            &request(format!("127.0.0.1:{behind}"), None),
            b"GET / HTTP/1.0\r\n\r\n",
        );
        let own = stream.local_addr().unwrap();
        let answer = client::answer(stream);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with(&format!("\r\n\r\n{own}")),
            "{version}: {answer}"
        );
        gateway.closing_line(own);
    }
}

#[test]
fn what_is_wrong_in_the_configuration_is_said() {
    for (arguments, words) in [
        (["--proxy-protocol-from", "10.0.0.1/8"], "write 10.0.0.0/8"),
        (["--proxy-protocol-from", "here"], "write it as 10.0.0.0/8"),
        (["--proxy-protocol-to", "v3 for a:1"], "write `v1 for RULE`"),
    ] {
        let outcome = crate::support::process::sluicegate(&[&["check", "--no-auth"][..], &arguments].concat(), &[]);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.err.contains(words), "{outcome:?}");
    }
}
