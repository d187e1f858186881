//! One gateway with one engine, and its expected counters.

use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sluicegate::metrics;
use sluicegate::reason::Reason;
use sluicegate::relay::Engine;

use crate::support::client::request;
use crate::support::gateway::engines;
use crate::support::log::Line;
use crate::support::network::Network;
use crate::support::tls::{Certificate, Front};
use crate::support::{Gateway, Origin, Setup, client};

const USER: &str = "mover";
const CREDENTIALS: &str = "mover:s3cret:with:@/%\u{fc}";

/// A gateway with one user, one engine, and an origin.
pub(super) struct Rig {
    pub(super) gateway: Gateway,
    /// A TLS front for the clients.
    front: Option<Front>,
    pub(super) engine: Engine,
    origin: Origin,
    /// Bytes of all tunnels so far, to the origin and to the client.
    counted: Mutex<(u64, u64)>,
}

/// One tunnel, with both ends in the test.
pub(super) struct Ends {
    pub(super) client: TcpStream,
    pub(super) origin: TcpStream,
    pub(super) from: SocketAddr,
    /// Log position before the tunnel: client ports are reused, and their lines look alike.
    pub(super) position: usize,
}

/// Concurrent tunnels of a crowd.
const AT_ONCE: usize = 12;

/// Runs `one` for each tunnel number, several at a time; each run has its own origin, so that an
/// accepted connection belongs to its tunnel.
pub(super) fn crowd(tunnels: u64, one: impl Fn(&Origin, u64) + Sync) {
    let next = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                let origin = Origin::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= tunnels {
                        return;
                    }
                    one(&origin, number);
                }
            });
        }
    });
}

/// Runs a test with every engine in turn and behind TLS; with [`Engine::Sockmap`] also over a link,
/// since segments there have boundaries of their own and the program takes them as they arrive.
pub(super) fn each_engine(test: impl Fn(&Rig) + Sync) {
    over_each(test, None);
}

/// As [`each_engine`], and with [`Engine::Sockmap`] over a link losing 1 % of its packets. Not for
/// tests resting on a single packet, such as a reset: a lost reset is not repeated.
pub(super) fn each_engine_and_loss(test: impl Fn(&Rig) + Sync) {
    over_each(test, Some(100));
}

/// Runs a test with every engine side by side, and behind TLS, each with these options of `serve`.
/// For slow tests.
pub(super) fn all_engines_with(arguments: &[&str], test: impl Fn(&Rig) + Sync) {
    thread::scope(|scope| {
        for &engine in engines() {
            let test = &test;
            scope.spawn(move || test(&Rig::with(engine, Setup::new(arguments))));
        }
        if let Some(certificate) = Certificate::make() {
            test(&Rig::with_tls(&certificate, arguments));
        }
    });
}

/// Runs a test with every engine side by side, across a link from each gateway.
pub(super) fn all_engines_over_a_link(network: &Network, arguments: &[&str], test: impl Fn(&Rig) + Sync) {
    thread::scope(|scope| {
        for &engine in engines() {
            let test = &test;
            scope.spawn(move || {
                network.run(|| test(&Rig::before(Origin::at(network.outside()), engine, network.setup(arguments))));
            });
        }
    });
}

fn over_each(test: impl Fn(&Rig) + Sync, loss: Option<u32>) {
    for &engine in engines() {
        eprintln!("engine {engine}");
        test(&Rig::new(engine));
    }
    if let Some(certificate) = Certificate::make() {
        eprintln!("engine copy behind TLS");
        test(&Rig::behind_tls(&certificate));
    }
    let Some(network) = engines().contains(&Engine::Sockmap).then(Network::new).flatten() else { return };
    eprintln!("engine sockmap over a link");
    over_a_link(&network, &[], &test);
    if let Some(packets) = loss {
        eprintln!("engine sockmap over a link that loses packets");
        network.lose_one_in(packets);
        over_a_link(&network, &[], &test);
    }
}

/// Runs a test across a link from a gateway with the engine `sockmap`.
pub(super) fn over_a_link(network: &Network, arguments: &[&str], test: impl Fn(&Rig) + Sync) {
    network.run(|| {
        let setup = network.setup(arguments).args(["--congestion-control", "reno"]);
        test(&Rig::before(Origin::at(network.outside()), Engine::Sockmap, setup));
    });
}

impl Rig {
    pub(super) fn new(engine: Engine) -> Self {
        Self::with(engine, Setup::new(&[]))
    }

    pub(super) fn with(engine: Engine, setup: Setup) -> Self {
        Self::before(Origin::new(), engine, setup)
    }

    /// A rig with TLS clients; its other tunnels would use another engine.
    fn behind_tls(certificate: &Certificate) -> Self {
        Self::with_tls(certificate, &[])
    }

    fn with_tls(certificate: &Certificate, arguments: &[&str]) -> Self {
        let setup = Setup::new(arguments).args(["--engine", "auto"]);
        let setup = Front::believed_by(certificate.shown_by(setup));
        let gateway = setup.user(CREDENTIALS).debug().start();
        let front = Front::new(gateway.secure.expect("an address"), &certificate.path());
        Self { gateway, front: Some(front), engine: Engine::Copy, origin: Origin::new(), counted: Mutex::default() }
    }

    /// Returns true if clients connect through the TLS front, with buffers of its own.
    pub(super) const fn is_behind_tls(&self) -> bool {
        self.front.is_some()
    }

    /// Address for clients.
    fn address(&self) -> SocketAddr {
        self.front.as_ref().map_or(self.gateway.address, |front| front.address)
    }

    /// A rig with tunnels to this origin.
    pub(super) fn before(origin: Origin, engine: Engine, setup: Setup) -> Self {
        // Debug, because the gateway logs a clean tunnel without a byte only at this level.
        let gateway = setup.args(["--engine", engine.label()]).user(CREDENTIALS).debug().start();
        Self { gateway, front: None, engine, origin, counted: Mutex::default() }
    }

    pub(super) fn tunnel(&self) -> Ends {
        self.tunnel_with(b"")
    }

    /// Opens a tunnel with its first bytes in the segment of the head.
    pub(super) fn tunnel_with(&self, early: &[u8]) -> Ends {
        self.tunnel_to(&self.origin, early)
    }

    /// Another origin at the same IP address.
    pub(super) fn another_origin(&self) -> Origin {
        Origin::at(self.origin.address.ip())
    }

    /// Opens a tunnel to an origin with its own accept thread; returns the client's end.
    pub(super) fn client_of(&self, origin: SocketAddr) -> TcpStream {
        client::connect_as(self.address(), origin, CREDENTIALS)
    }

    pub(super) fn tunnel_to(&self, origin: &Origin, early: &[u8]) -> Ends {
        self.ends(origin, |gateway, head| client::established(gateway, head, early))
    }

    /// Opens a tunnel with these bytes and the client's FIN in the segment of the head.
    pub(super) fn tunnel_ended_early(&self, early: &[u8]) -> Ends {
        self.ends(&self.origin, |gateway, head| {
            let mut stream = client::dial(gateway);
            stream.write_all(&[head.as_bytes(), early].concat()).expect("the gateway reads");
            stream.shutdown(Shutdown::Write).expect("an open stream");
            assert_eq!(client::read_head(&stream), client::ESTABLISHED);
            stream
        })
    }

    /// Opens a tunnel by an origin's 101. Each side sends its head and first bytes in two segments,
    /// split at `cut`.
    pub(super) fn upgraded(&self, early: [&[u8]; 2], cut: usize) -> Ends {
        let position = self.gateway.log.position();
        let stream = client::dial(self.address());
        let from = stream.local_addr().expect("an address");
        let target = self.origin.address;
        let origin = thread::scope(|scope| {
            let origin = scope.spawn(|| {
                let origin = self.origin.accept();
                assert_eq!(client::read_head(&origin), client::upgrade_at_origin(target, ""), "cut at {cut}");
                assert!(client::is_silent(&origin), "what came behind the head waits, cut at {cut}");
                client::send_cut(&origin, &[client::SWITCHING.as_bytes(), early[1]].concat(), cut);
                origin
            });
            let head = client::upgrade(target, Some(CREDENTIALS), "");
            client::send_cut(&stream, &[head.as_bytes(), early[0]].concat(), cut);
            origin.join().expect("an origin")
        });
        assert_eq!(client::read_head(&stream), client::SWITCHED, "cut at {cut}");
        Ends { client: stream, origin, from, position }
    }

    fn ends(&self, origin: &Origin, connect: impl FnOnce(SocketAddr, &str) -> TcpStream) -> Ends {
        let position = self.gateway.log.position();
        let client = connect(self.address(), &request(origin.address, Some(CREDENTIALS)));
        let from = client.local_addr().expect("an address");
        Ends { client, origin: origin.accept(), from, position }
    }

    /// Asserts the tunnel's end, its bytes in the log line, and the counters as sums over all
    /// tunnels so far. Only for tunnels ending one after the other.
    pub(super) fn settled(&self, ends: &Ends, why: Reason, to_origin: usize, to_client: usize) {
        let line = self.ended(ends, why);
        let moved = (line.number("to_origin"), line.number("to_client"));
        assert_eq!(moved, (to_origin as u64, to_client as u64), "{}: {}", self.engine, line.raw);
        self.count(&line);
    }

    /// Returns true if the only tunnel has been quiet for a while. The API lists a tunnel a moment
    /// after the client's answer.
    pub(super) fn is_quiet(&self) -> bool {
        let tunnels = self.gateway.tunnels();
        tunnels.first().and_then(|tunnel| tunnel["quiet_seconds"].as_f64()).is_some_and(|quiet| quiet > 0.3)
    }

    pub(super) fn closing_line(&self, ends: &Ends) -> Line {
        // By its number: after a reset the client's port is free at once, before its own line is
        // written.
        let began = |line: &Line| line.message() == "tunnel established" && line.is_of(ends.from);
        let id = self.gateway.log.line_from(ends.position, "tunnel established", began).number("id");
        let is_it = |line: &Line| line.message() == "tunnel closed" && line.number("id") == id;
        self.gateway.log.line_from(ends.position, "tunnel closed", is_it)
    }

    /// Asserts the reason for the tunnel's end; the caller checks the bytes.
    pub(super) fn ended(&self, ends: &Ends, why: Reason) -> Line {
        let line = self.closing_line(ends);
        let said = (line.text("outcome"), line.text("by"), line.text("engine"), line.text("user"));
        assert_eq!(said, (why.label(), why.side().label(), self.engine.label(), USER), "{}", line.raw);
        line
    }

    /// Asserts that the counters equal the sums of all tunnels' lines so far, this one included.
    pub(super) fn count(&self, line: &Line) {
        let mut counted = self.counted.lock().expect("no other test holds it");
        counted.0 += line.number("to_origin");
        counted.1 += line.number("to_client");
        let sum = *counted;
        assert_eq!(self.counters(), (sum, sum), "{}: {}", self.engine, line.raw);
    }

    /// `bytes_total` of the engine and `user_bytes_total` of the user.
    pub(super) fn counters(&self) -> ((u64, u64), (u64, u64)) {
        let engine = |way| self.gateway.metric(&metrics::BYTES, &[way, self.engine.label()]);
        let user = |way| self.gateway.metric(&metrics::USER_BYTES, &[USER, way]);
        ((engine("to_origin"), engine("to_client")), (user("to_origin"), user("to_client")))
    }
}
