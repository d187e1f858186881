//! Rate limits of tunnels. The tests check the rates set on the gateway's sockets; `cargo xtask
//! bench` measures the actual rates.

use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use sluicegate::relay::Engine;
use sluicegate::sys::pacing::max_pacing_rate;

use crate::support::gateway::engines;
use crate::support::process::{sees_descriptors, sluicegate, sockets_to};
use crate::support::{Gateway, Noise, Origin, Setup, admin, client, connect_as, eventually};

const USER: &str = "mover:secret";
const TUNNEL: u64 = 50 << 20;
const OF_USER: u64 = 80 << 20;

/// A tunnel, with duplicates of both of the gateway's sockets.
struct Paced {
    client: TcpStream,
    origin: TcpStream,
    of_gateway: [OwnedFd; 2],
}

impl Paced {
    fn new(gateway: &Gateway, origin: &Origin) -> Self {
        let client = connect_as(gateway.address, origin.address, USER);
        let origin = origin.accept();
        let peers = [&client, &origin].map(|end| end.local_addr().expect("a connection"));
        Self { of_gateway: sockets_to(gateway.pid(), peers), client, origin }
    }

    fn is_held_to(&self, rate: Option<u64>) -> bool {
        self.of_gateway.iter().all(|socket| max_pacing_rate(socket).expect("a socket") == rate)
    }

    fn becomes(&self, rate: Option<u64>) {
        eventually(&format!("a rate of {rate:?}"), || self.is_held_to(rate));
    }

    /// Drops the duplicates, which would keep the gateway's sockets open.
    fn into_ends(self) -> (TcpStream, TcpStream) {
        (self.client, self.origin)
    }
}

fn gateway(engine: Engine, rates: &[&str]) -> Gateway {
    Setup::new(rates).args(["--engine", engine.label()]).user(USER).debug().start()
}

fn change(gateway: &Gateway, change: &Value) -> Value {
    let answer = admin::patch(&gateway.control, "/api/rates", &change.to_string());
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).expect("JSON")
}

fn ended(paced: Paced) {
    let (client, origin) = paced.into_ends();
    client::hang_up_both(&client, &origin);
}

#[test]
fn every_tunnel_has_its_rate_and_its_share_of_its_users() {
    if !sees_descriptors() {
        return;
    }
    for &engine in engines() {
        let gateway = gateway(engine, &["--rate", "50MiB", "--rate-per-user", "80MiB/s"]);
        let origin = Origin::new();
        let first = Paced::new(&gateway, &origin);
        first.becomes(Some(TUNNEL));
        let second = Paced::new(&gateway, &origin);
        [&first, &second].iter().for_each(|paced| paced.becomes(Some(OF_USER / 2)));
        let third = Paced::new(&gateway, &origin);
        [&first, &second, &third].iter().for_each(|paced| paced.becomes(Some(OF_USER / 3)));
        eventually("three listed", || gateway.tunnels().len() == 3);
        assert!(gateway.tunnels().iter().all(|tunnel| tunnel["rate"] == OF_USER / 3), "{:?}", gateway.tunnels());
        // A bulk tunnel has moved to another worker by then.
        let bytes = 24 << 20;
        thread::scope(|scope| {
            scope.spawn(|| Noise::new(1).send(&first.client, bytes));
            Noise::new(1).expect_exactly(&first.origin, bytes);
        });
        ended(second);
        ended(third);
        first.becomes(Some(TUNNEL));
        let from = first.client.local_addr().unwrap();
        ended(first);
        let line = gateway.closing_line(from);
        assert_eq!(line.number("rate"), TUNNEL, "{}", line.raw);
    }
}

#[test]
fn rates_are_changed_while_bytes_flow() {
    if !sees_descriptors() {
        return;
    }
    for &engine in engines() {
        let gateway = gateway(engine, &[]);
        let origin = Origin::new();
        let paced = Paced::new(&gateway, &origin);
        eventually("it is listed", || gateway.tunnels().len() == 1);
        assert!(paced.is_held_to(None) && gateway.tunnels()[0].get("rate").is_none());
        let id = gateway.tunnels()[0]["id"].as_u64().unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            // Rates too high to delay the tunnel for long, and all different.
            scope.spawn(|| {
                for round in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                    let rate = (1_u64 << 30) + round;
                    match round % 4 {
                        0 => change(&gateway, &json!({ "tunnel": rate })),
                        1 => change(&gateway, &json!({ "users": { "mover": rate } })),
                        2 => change(&gateway, &json!({ "tunnels": { id.to_string(): rate } })),
                        _ => change(&gateway, &json!({ "tunnel": "none", "users": { "mover": null } })),
                    };
                }
            });
            let (ends, bytes) = ([&paced.client, &paced.origin], 64 << 20);
            thread::scope(|scope| {
                for (seed, (from, to)) in [(1, (ends[0], ends[1])), (2, (ends[1], ends[0]))] {
                    scope.spawn(move || Noise::new(seed).send(from, bytes));
                    scope.spawn(move || Noise::new(seed).expect_exactly(to, bytes));
                }
            });
            over.store(true, Ordering::Relaxed);
        });
        ended(paced);
    }
}

#[test]
fn an_operator_sees_and_changes_rates() {
    if !sees_descriptors() {
        return;
    }
    let gateway = gateway(Engine::Uring, &["--rate", "50MiB"]);
    let origin = Origin::new();
    let paced = Paced::new(&gateway, &origin);
    eventually("it is listed", || gateway.tunnels().len() == 1);
    let id = gateway.tunnels()[0]["id"].to_string();
    let control = gateway.control.to_str().expect("a plain path");
    let command = |words: &[&str]| {
        let outcome = sluicegate(&[&["rates", "--control", control], words].concat(), &[]);
        (outcome.code.unwrap_or(-1), outcome.out + &outcome.err)
    };
    assert_eq!(command(&[]), (0, "each tunnel: 50MiB/s\neach user: none\n".to_owned()));
    assert_eq!(command(&["--each-tunnel", "none"]), (0, "each tunnel: none\neach user: none\n".to_owned()));
    paced.becomes(None);
    let own = format!("each tunnel: none\neach user: none\nuser mover: 2Gbit/s\ntunnel {id}: 1Gbit/s\n");
    assert_eq!(command(&["--user", "mover", "2Gbit"]).0, 0);
    assert_eq!(command(&["--tunnel", &id, "1Gbit"]), (0, own));
    paced.becomes(Some(125_000_000));
    let answer = admin::get(gateway.admin, "/api/rates");
    let shown: Value = serde_json::from_str(&answer.body).expect("JSON");
    let expected = json!({ "tunnel": "none", "user": "none", "users": { "mover": 250_000_000 }, "tunnels": { id.clone(): 125_000_000 } });
    assert_eq!(shown, expected);
    for (words, said) in [
        (&["--user", "nobody", "1Gbit"][..], "no user 'nobody'"),
        (&["--tunnel", "4711", "1Gbit"], "no tunnel 4711 is open"),
        (&["--tunnel", "all", "1Gbit"], "a tunnel is named by its number"),
        (&["--tunnel", &id, "fast"], "write it as 100MiB, 1Gbit"),
    ] {
        let (code, text) = command(words);
        assert!(code != 0 && text.contains(said), "{text}");
    }
    assert_eq!(command(&["--tunnel", &id, "configured"]).0, 0);
    paced.becomes(Some(250_000_000));
    assert_eq!(command(&["--user", "mover", "configured"]).0, 0);
    assert_eq!(command(&["--each-tunnel", "configured"]).0, 0);
    paced.becomes(Some(TUNNEL));
    assert_eq!(command(&[]), (0, "each tunnel: 50MiB/s\neach user: none\n".to_owned()));
}

#[test]
fn only_an_operator_changes_rates() {
    let gateway = gateway(Engine::Copy, &[]);
    for (body, status) in
        [("{}", 200), ("", 400), ("{\"tunnel\": 1}", 400), ("7", 400), ("[\"7MiB\"]", 400), (&"x".repeat(300_000), 400)]
    {
        let answer = admin::patch(&gateway.control, "/api/rates", body);
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let foreign = "PATCH /api/rates HTTP/1.1\r\nHost: gateway.example\r\nContent-Length: 16\r\n\r\n{\"tunnel\": 5000}";
    let (_, answer) = client::ask(gateway.admin, foreign.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(serde_json::from_str::<Value>(&admin::get(gateway.admin, "/api/rates").body).unwrap()["tunnel"], "none");
    assert_eq!(admin::delete(&gateway.control, "/api/rates").status, 405);
}
