//! Forbidden targets: the gateway itself, services meant only for this host, and addresses in
//! disguise.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use sluicegate::metrics::CONNECT_REQUESTS;

use crate::support::client::{ask, request};
use crate::support::skipped::skipped;
use crate::support::{Gateway, Origin, Setup, connect};

/// Status line of the answer, without the version.
fn status(gateway: &Gateway, target: &str) -> String {
    let (_, answer) = ask(gateway.address, request(target, None).as_bytes());
    answer.lines().next().unwrap_or_default().trim_start_matches("HTTP/1.1 ").to_owned()
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// The source address of this host, if it has one besides loopback: connecting a UDP socket sends
/// nothing.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback())
}

/// Even with a rule for the address: a tunnel to the gateway would be a loop, and a tunnel to the
/// admin address would open it to remote clients.
#[test]
fn its_own_listeners_are_refused_by_every_address_of_the_host() {
    let mut arguments = vec!["--listen", "0.0.0.0:0", "--allow", "*:*", "--allow", "[::1]:*", "--allow", "0.0.0.0/8:*"];
    if has_ipv6() {
        arguments.extend(["--listen", "[::]:0"]);
    } else {
        skipped("this host has no IPv6");
    }
    let gateway = Gateway::open(&arguments);
    let own = own_address().map(|address| address.to_string());
    if own.is_none() {
        skipped("this host has no address but those of loopback");
    }
    let hosts = ["127.0.0.1", "127.0.0.2", "127.1.2.3", "[::1]", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0", "[::]"];
    let ports = gateway.listeners.iter().chain([&gateway.admin]).map(SocketAddr::port);
    let mut refused = 0;
    for port in ports {
        for host in hosts.iter().copied().chain(own.as_deref()) {
            let said = status(&gateway, &format!("{host}:{port}"));
            assert!(said.starts_with("403 Forbidden: "), "{host}:{port}: {said}");
            let by_kind = ["0.0.0.0", "[::]"].contains(&host);
            assert!(by_kind || said.contains("is a listener of this gateway"), "{host}:{port}: {said}");
            refused += 1;
        }
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["403", "denied"]), refused);
    // The next port is permitted.
    drop(connect(gateway.address, Origin::echo().address));
}

#[test]
fn what_only_this_host_should_reach_needs_a_rule_that_names_it() {
    let gateway =
        Setup::bare(&["--no-auth", "--allow", "*:*", "--allow", "0.0.0.0/0:*", "--allow", "[::]/0:*"]).start();
    let origin = Origin::new();
    let port = origin.address.port();
    for (host, kind) in [
        ("127.0.0.1", "loopback"),
        ("localhost", "loopback"),
        ("[::1]", "loopback"),
        ("[::ffff:127.0.0.1]", "loopback"),
        ("169.254.169.254", ""),
        ("[::ffff:169.254.169.254]", ""),
        ("[fd00:ec2::254]", ""),
        ("169.254.7.7", ""),
        ("[fe80::1]", ""),
        ("0.0.0.0", ""),
        ("[::]", ""),
        ("224.0.0.1", ""),
        ("255.255.255.255", ""),
        ("[ff02::1]", ""),
        ("[64:ff9b::7f00:1]", ""),
        ("[64:ff9b::a9fe:a9fe]", ""),
        ("[2002:7f00:1::]", ""),
    ] {
        let said = status(&gateway, &format!("{host}:{port}"));
        assert!(said.starts_with("403 Forbidden: ") && said.contains(kind), "{host}: {said}");
        assert!(said.contains("needs a rule that names it"), "{host}: {said}");
    }
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &["200", "established"]), 0);
}

/// Spellings of 127.0.0.1 understood by inet_aton(3), browsers or Unicode.
#[test]
fn numbers_that_look_like_an_address_reach_nothing() {
    let gateway = Gateway::open(&["--allow", "*:*"]);
    let origin = Origin::new();
    let port = origin.address.port();
    for host in [
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "0177.0.0.01",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "0",
        "00",
        "127.0.0.01",
        "0x7f.1",
        "017700000001",
        "127.0.0.0x1",
        "[::127.1]",
        "[127.0.0.1]",
    ] {
        let said = status(&gateway, &format!("{host}:{port}"));
        assert!(said.starts_with("400 Bad Request: "), "{host}: {said}");
    }
    // Full-width digits and an ideographic full stop, mapped to 127.0.0.1 by IDNA: at most an
    // address seen by the policy, and permitted as such here.
    for host in ["１２７.0.0.1", "127。0。0。1", "①27.0.0.1"] {
        let said = status(&gateway, &format!("{host}:{port}"));
        assert!(said.starts_with("400 "), "{host}: {said}");
    }
}

#[test]
fn a_denied_name_or_network_stays_denied() {
    let arguments = ["--no-auth", "--allow", "*:*", "--deny", "*.bad.example:*", "--deny", "127.0.0.64/26:*"];
    let gateway = Setup::new(&arguments).start();
    let origin = Origin::echo();
    drop(connect(gateway.address, origin.address));
    for (target, rule) in [
        ("x.bad.example:443", "*.bad.example:*"),
        ("X.BAD.Example.:443", "*.bad.example:*"),
        ("127.0.0.65:443", "127.0.0.64/26:*"),
        ("[::ffff:127.0.0.65]:443", "127.0.0.64/26:*"),
    ] {
        assert_eq!(status(&gateway, target), format!("403 Forbidden: denied by rule --deny {rule}"), "{target}");
    }
}
