use std::collections::HashSet;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::PrometheusRecorder;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connections::{Connection, Deadlines};
use super::*;
use crate::account::{Account, Limits, Registry, TunnelView, register_series};
use crate::metrics::{ALL, Kind, describe};
use crate::reason::Reason;
use crate::target::Target;
use crate::tunnel::{self, Direction, Flow};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// No answer takes this long on any useful machine.
const DEADLINE: Duration = Duration::from_secs(30);

/// Deadlines too long for any test.
const NEVER: Deadlines = Deadlines {
    head: Duration::from_secs(3_600),
    content: Duration::from_secs(3_600),
    whole: Duration::from_secs(3_600),
};

/// The three listeners on loopback, with a recorder of this thread's own.
struct Scene {
    admin: Admin,
    address: SocketAddr,
    metrics: SocketAddr,
    control: PathBuf,
    stop: watch::Sender<bool>,
    servers: JoinSet<()>,
    _directory: TempDir,
    _recorder: LocalRecorderGuard<'static>,
}

impl Scene {
    async fn new() -> Self {
        let recorder: &'static PrometheusRecorder = Box::leak(Box::new(build()));
        let guard = ::metrics::set_default_local_recorder(recorder);
        describe();
        register_series(&["splice", "copy"]);
        let registry = Registry::new(Limits { tunnels: 9, per_user: None, per_source: None, ..Limits::default() });
        let admin = Admin::new(registry, Arc::default(), recorder.handle());
        let (read, metrics_only) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (address, metrics) = (read.local_addr().unwrap(), metrics_only.local_addr().unwrap());
        let directory = tempfile::tempdir().unwrap();
        let control = directory.path().join("control.sock");
        let listeners = [
            Listener::Tcp(read, Access::Read),
            Listener::Tcp(metrics_only, Access::Metrics),
            Listener::Control(UnixListener::bind(&control).unwrap()),
        ];
        let (stop, stopping) = watch::channel(false);
        let servers = listeners.map(|listener| admin.clone().run_with(listener, stopping.clone(), NEVER));
        let servers = servers.into_iter().collect();
        Self { admin, address, metrics, control, stop, servers, _directory: directory, _recorder: guard }
    }

    async fn connect(&self, access: Access) -> Box<dyn Stream> {
        match access {
            Access::Metrics => Box::new(TcpStream::connect(self.metrics).await.unwrap()),
            Access::Read => Box::new(TcpStream::connect(self.address).await.unwrap()),
            Access::Control => Box::new(UnixStream::connect(&self.control).await.unwrap()),
        }
    }

    /// Sends bytes as they are, and returns the received bytes until the server closes.
    async fn raw_to(&self, access: Access, request: impl AsRef<[u8]>) -> String {
        let exchange = async {
            let mut stream = self.connect(access).await;
            // The server may have answered and closed before it received all of an oversized
            // request.
            let _ = stream.write_all(request.as_ref()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        timeout(DEADLINE, exchange).await.expect("the server neither answers nor closes")
    }

    async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        self.raw_to(Access::Read, request).await
    }

    async fn send(&self, access: Access, method: &str, path: &str, content: &str) -> String {
        let (host, length) = (self.address, content.len());
        self.raw_to(
            access,
            format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{content}"),
        )
        .await
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        self.send(Access::Read, method, path, "").await
    }

    async fn control(&self, method: &str, path: &str) -> String {
        self.send(Access::Control, method, path, "").await
    }

    /// A live tunnel, and the command to its engine.
    fn tunnel(&self) -> (Account, Arc<Flow>, Arc<Mutex<Option<tunnel::Command>>>) {
        let told = Arc::new(Mutex::new(None));
        let flow = Arc::new(Flow::default());
        let engine = Arc::clone(&told);
        flow.attach_control(move |command| *engine.lock().unwrap() = Some(command));
        let mut account = self.admin.registry.accepted("192.0.2.7:40000".parse().unwrap());
        account.set_user(Some("ann".into()));
        account.set_target(&Target::from("198.51.100.1:443".parse::<SocketAddr>().unwrap()));
        account.established("198.51.100.1:443".parse().unwrap(), "splice", Arc::clone(&flow));
        (account, flow, told)
    }
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("the head ends").1
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next()?;
    head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v))
}

#[tokio::test]
async fn every_path_answers_what_it_is_for() {
    let scene = Scene::new().await;
    for (path, code, content_type) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/metrics", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/metrics?module=x", 200, "text/plain; version=0.0.4; charset=utf-8"),
        ("/healthz", 200, "text/plain; charset=utf-8"),
        ("/readyz", 503, "text/plain; charset=utf-8"),
        ("/api/tunnels", 200, "application/json"),
        ("/api/tunnels?", 200, "application/json"),
        ("/api/tunnels?x=1", 400, "application/json"),
        ("/api/tunnels/1", 404, "application/json"),
        ("/api/tunnels/x", 400, "application/json"),
        ("/api/tunnels/", 400, "application/json"),
        ("/api/tunnels/+1", 400, "application/json"),
        ("/api/tunnels/18446744073709551616", 400, "application/json"),
        ("/api/tunnels/1/x", 400, "application/json"),
        ("/api/rates", 200, "application/json"),
        ("/api/drain", 200, "application/json"),
        ("/nothing", 404, "text/plain; charset=utf-8"),
        ("/../metrics", 404, "text/plain; charset=utf-8"),
    ] {
        for access in [Access::Read, Access::Control] {
            let answer = scene.send(access, "GET", path, "").await;
            assert_eq!((status(&answer), header(&answer, "content-type")), (code, Some(content_type)), "{path}");
            if content_type == "application/json" && code >= 400 {
                error(&answer);
            }
            let head = scene.send(access, "HEAD", path, "").await;
            assert_eq!((status(&head), body(&head)), (code, ""), "HEAD {path}");
        }
        let path = path.split('?').next().unwrap();
        let allowed = header(&scene.ask("PUT", path).await, "allow").map(str::to_owned);
        let expected = if code == 404 && !path.starts_with("/api/") { None } else { Some("GET, HEAD".to_owned()) };
        assert_eq!(allowed, expected, "PUT {path}");
    }
}

/// The words of an error in JSON.
fn error(answer: &str) -> String {
    let error: serde_json::Value = serde_json::from_str(body(answer)).unwrap();
    error["error"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

#[tokio::test]
async fn the_metrics_address_serves_metrics_and_health_alone() {
    let scene = Scene::new().await;
    for (path, code) in [("/metrics", 200), ("/healthz", 200), ("/readyz", 503)] {
        assert_eq!(status(&scene.send(Access::Metrics, "GET", path, "").await), code, "{path}");
    }
    for path in ["/", "/api/tunnels", "/api/tunnels/1", "/api/rates", "/api/drain"] {
        let answer = scene.send(Access::Metrics, "GET", path, "").await;
        let expected = "not found on the metrics address; try /metrics /healthz /readyz\n";
        assert_eq!((status(&answer), body(&answer)), (404, expected), "{path}");
    }
}

#[tokio::test]
async fn tcp_only_reads() {
    let scene = Scene::new().await;
    let (account, _flow, told) = scene.tunnel();
    let path = format!("/api/tunnels/{}", account.id());
    for (method, path, content) in
        [("DELETE", &*path, ""), ("PATCH", "/api/rates", "{\"tunnel\": 5000}"), ("POST", "/api/drain", "")]
    {
        let answer = scene.send(Access::Read, method, path, content).await;
        assert_eq!((status(&answer), header(&answer, "allow")), (405, Some("GET, HEAD")), "{method} {path}");
        let words = error(&answer);
        assert!(words.contains("control socket (--control PATH)") && words.contains("`sluicegate kill`"), "{words}");
        assert_eq!(status(&scene.send(Access::Metrics, method, path, content).await), 404, "{method} {path}");
    }
    assert_eq!(*told.lock().unwrap(), None);
    assert_eq!(scene.admin.registry.rates().tunnel.0, None);
    assert!(timeout(Duration::ZERO, scene.admin.readiness.drain_requested()).await.is_err());
    account.closed(Reason::ClientClosed);
}

#[tokio::test]
async fn what_the_api_does_not_know_is_refused_by_name() {
    let scene = Scene::new().await;
    for (method, path, content, said) in [
        (
            "GET",
            "/api/tunnels?user=ann&limit=5",
            "",
            "unknown query parameters 'user', 'limit': /api/tunnels takes none",
        ),
        ("GET", "/api/tunnels/1?x", "", "unknown query parameter 'x': /api/tunnels/ID takes none"),
        ("DELETE", "/api/tunnels/1?force=1", "", "unknown query parameter 'force'"),
        ("POST", "/api/drain?timeout=5s", "", "unknown query parameter 'timeout'"),
        ("PATCH", "/api/rates", "{\"each\": 5000}", "unknown field `each`"),
        ("PATCH", "/api/rates", "{\"tunnel\": 5000, \"tunnel\": 6000}", "duplicate field `tunnel`"),
        ("PATCH", "/api/rates", "[5000]", "expected a JSON object"),
        ("POST", "/api/drain", "{\"timeout\": 5}", "unknown field `timeout`"),
        ("POST", "/api/drain", "now", "expected a JSON object"),
        ("DELETE", "/api/tunnels/1", "{\"force\": true}", "unknown field `force`"),
    ] {
        let answer = scene.send(Access::Control, method, path, content).await;
        assert_eq!(status(&answer), 400, "{method} {path} {content}");
        assert!(error(&answer).contains(said), "{answer}");
    }
    assert!(timeout(Duration::ZERO, scene.admin.readiness.drain_requested()).await.is_err());
    for content in ["", "{}", " {} "] {
        assert_eq!(status(&scene.send(Access::Control, "DELETE", "/api/tunnels/1", content).await), 404, "{content}");
    }
}

#[tokio::test]
async fn a_drain_is_answered_when_the_listeners_are_closed() {
    let scene = Scene::new().await;
    scene.admin.readiness.set(Ready::Ready);
    let view = |answer: &str| serde_json::from_str::<DrainView>(body(answer)).unwrap();
    let open = DrainView { draining: false, accepting: true, tunnels: 0, handshakes: 0 };
    assert_eq!(view(&scene.ask("GET", "/api/drain").await), open);
    let (account, _flow, _) = scene.tunnel();
    let handshake = scene.admin.registry.accepted("192.0.2.7:40001".parse().unwrap());
    let drains = scene.control("POST", "/api/drain");
    let closes = async {
        scene.admin.readiness.drain_requested().await;
        scene.admin.readiness.set(Ready::Draining);
        scene.admin.readiness.set_closed();
    };
    let (answer, ()) = tokio::join!(drains, closes);
    let draining = DrainView { draining: true, accepting: false, tunnels: 1, handshakes: 1 };
    assert_eq!((status(&answer), view(&answer)), (202, draining));
    assert_eq!(view(&scene.control("POST", "/api/drain").await), draining, "a second one changes nothing");
    drop(handshake);
    account.closed(Reason::ClientClosed);
    assert_eq!(view(&scene.control("GET", "/api/drain").await).tunnels, 0);
}

#[tokio::test]
async fn the_last_answer_is_written_before_the_server_ends() {
    let mut scene = Scene::new().await;
    let mut stream = scene.connect(Access::Control).await;
    let _idle = scene.connect(Access::Control).await;
    stream.write_all(b"POST /api/drain HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    timeout(DEADLINE, scene.admin.readiness.drain_requested()).await.unwrap();
    scene.stop.send_replace(true);
    scene.admin.readiness.set_closed();
    timeout(DEADLINE, async { while scene.servers.join_next().await.is_some() {} }).await.expect("they end");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 202);
}

#[tokio::test]
async fn readiness_follows_the_gateway() {
    let scene = Scene::new().await;
    for (state, code, text) in
        [(Ready::Starting, 503, "starting\n"), (Ready::Ready, 200, "ready\n"), (Ready::Draining, 503, "draining\n")]
    {
        scene.admin.readiness.set(state);
        let answer = scene.ask("GET", "/readyz").await;
        assert_eq!((status(&answer), body(&answer)), (code, text));
    }
    assert_eq!(status(&scene.ask("GET", "/healthz").await), 200, "a draining gateway is alive");
}

#[tokio::test]
async fn a_live_tunnel_is_shown_counted_and_killed() {
    let scene = Scene::new().await;
    let (account, flow, told) = scene.tunnel();
    flow.add(Direction::ToOrigin, 5_000, std::time::Instant::now());
    let tunnels: Vec<TunnelView> = serde_json::from_str(body(&scene.ask("GET", "/api/tunnels").await)).unwrap();
    let [tunnel] = &tunnels[..] else { panic!("{tunnels:?}") };
    assert_eq!((tunnel.id, tunnel.user.as_deref(), &*tunnel.engine), (account.id(), Some("ann"), "splice"));
    assert_eq!((tunnel.target.as_str(), tunnel.origin.to_string()), ("198.51.100.1:443", "198.51.100.1:443".into()));
    assert_eq!((tunnel.bytes_to_origin, tunnel.bytes_to_client), (5_000, 0));
    let path = format!("/api/tunnels/{}", account.id());
    let one: TunnelView = serde_json::from_str(body(&scene.ask("GET", &path).await)).unwrap();
    assert_eq!(one.client, tunnel.client);

    // The counters rise while the tunnel runs, and one scrape after another counts a byte once.
    for _ in 0..2 {
        let metrics = scene.ask("GET", "/metrics").await;
        assert!(metrics.contains("sluicegate_bytes_total{direction=\"to_origin\",engine=\"splice\"} 5000\n"));
        assert!(metrics.contains("sluicegate_user_bytes_total{user=\"ann\",direction=\"to_origin\"} 5000\n"));
    }

    for foreign in ["Host: 127.0.0.1:1\r\nOrigin: http://evil.example", "Host: evil.example:9128"] {
        let request = format!("GET {path} HTTP/1.1\r\n{foreign}\r\n\r\n");
        assert_eq!(status(&scene.raw(&request).await), 403, "{request}");
        // No browser connects to a unix socket.
        assert_eq!(status(&scene.raw_to(Access::Control, &request).await), 200, "{request}");
    }
    assert_eq!(status(&scene.raw("GET / HTTP/1.1\r\nHost: evil.example:9128\r\n\r\n").await), 403);
    let scrape = scene.raw("GET /metrics HTTP/1.1\r\nHost: gateway.monitoring.svc:9128\r\n\r\n").await;
    assert_eq!(status(&scrape), 200, "Prometheus scrapes by name");

    let killed = scene.control("DELETE", &path).await;
    assert_eq!((status(&killed), body(&killed)), (204, ""));
    assert_eq!(*told.lock().unwrap(), Some(tunnel::Command::Stop(Reason::Killed)));
    account.closed(Reason::Killed);
    assert_eq!(status(&scene.control("DELETE", &path).await), 404);
}

#[tokio::test]
async fn malformed_requests_end_with_an_answer_and_a_close() {
    let scene = Scene::new().await;
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(100_000));
    let wide = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2_000));
    for garbage in [
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        &long,
        &wide,
        &many,
    ] {
        let answer = scene.raw(garbage).await;
        assert!(answer.is_empty() || (400..500).contains(&status(&answer)), "{garbage:.40?}: {answer:?}");
    }
    assert_eq!(status(&scene.ask("GET", "/healthz").await), 200, "the server lives on");
}

#[tokio::test]
async fn a_half_closed_tool_gets_its_answer_and_one_request_is_all() {
    let scene = Scene::new().await;
    let two = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2);
    assert_eq!(scene.raw(two).await.matches("HTTP/1.1 200").count(), 1);
    let mut stream = TcpStream::connect(scene.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(body(&answer), "ok\n");
}

/// Silence, an endless request and an unread answer hold no place for good.
#[tokio::test]
async fn slow_peers_are_cut() {
    let scene = Scene::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let short = Duration::from_millis(20);
    let patch = "PATCH /api/rates HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{";
    for (sent, deadlines) in [
        ("", Deadlines { head: short, ..NEVER }),
        ("GET / HTTP/1.1\r\nHos", Deadlines { head: short, ..NEVER }),
        (patch, Deadlines { content: short, ..NEVER }),
        (patch, Deadlines { whole: short, ..NEVER }),
    ] {
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        peer.write_all(sent.as_bytes()).await.unwrap();
        let connection = Connection::new(Access::Control, true, deadlines);
        timeout(DEADLINE, scene.admin.clone().serve(stream, connection)).await.expect("it is cut");
    }
}

#[tokio::test]
async fn nobody_is_shut_out_by_idle_connections_and_unfinished_requests() {
    let scene = Scene::new().await;
    for access in [Access::Metrics, Access::Read, Access::Control] {
        for sent in ["", "G", "PATCH /api/rates HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"] {
            let mut crowd = Vec::new();
            for _ in 0..3 * MAX_CONNECTIONS {
                let mut stream = scene.connect(access).await;
                // A replaced connection reads no more.
                let _ = stream.write_all(sent.as_bytes()).await;
                crowd.push(stream);
            }
            // No deadline ends any of them.
            assert_eq!(status(&scene.send(access, "GET", "/healthz", "").await), 200, "{access:?} {sent}");
            assert_eq!(status(&scene.send(access, "GET", "/metrics", "").await), 200, "{access:?} {sent}");
        }
    }
}

#[tokio::test]
async fn the_oldest_unfinished_request_makes_room() {
    let scene = Scene::new().await;
    // Complete, and kept waiting by the drain.
    let mut drains = scene.connect(Access::Control).await;
    drains.write_all(b"POST /api/drain HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    timeout(DEADLINE, scene.admin.readiness.drain_requested()).await.unwrap();
    let mut idle = Vec::new();
    for _ in 1..MAX_CONNECTIONS {
        idle.push(scene.connect(Access::Control).await);
    }
    assert_eq!(status(&scene.control("GET", "/healthz").await), 200);
    let mut oldest = idle.remove(0);
    assert_eq!(timeout(DEADLINE, oldest.read(&mut [0; 1])).await.expect("it made room").unwrap(), 0);
    for mut stream in idle {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(DEADLINE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert_eq!(status(&answer), 200);
    }
    scene.admin.readiness.set_closed();
    let mut answer = String::new();
    timeout(DEADLINE, drains.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(status(&answer), 202);
}

#[tokio::test]
async fn a_slow_prober_outlives_a_flood_from_another_source() {
    let scene = Scene::new().await;
    let from = async |source: [u8; 4]| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        socket.connect(scene.metrics).await.unwrap()
    };
    let mut prober = from([127, 0, 0, 2]).await;
    let mut flood = Vec::new();
    for _ in 0..3 * MAX_CONNECTIONS {
        flood.push(from([127, 0, 0, 1]).await);
    }
    // Accepted behind the flood, so that the flood has been dealt with.
    assert_eq!(status(&scene.send(Access::Metrics, "GET", "/healthz", "").await), 200);
    prober.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(DEADLINE, prober.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(status(&answer), 200);
}

#[tokio::test]
async fn strangers_to_the_control_socket_are_refused() {
    let scene = Scene::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    peer.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    scene.admin.clone().serve(stream, Connection::new(Access::Control, false, NEVER)).await;
    let mut answer = String::new();
    peer.read_to_string(&mut answer).await.unwrap();
    assert_eq!(status(&answer), 403);
    assert!(error(&answer).contains("only the gateway's user and root"), "{answer}");
}

#[tokio::test]
async fn metrics_keep_their_order() {
    let scene = Scene::new().await;
    let (account, flow, _) = scene.tunnel();
    flow.add(Direction::ToClient, 1, std::time::Instant::now());
    let series = |answer: &str| {
        let lines =
            body(answer).lines().map(|line| line.rsplit_once(' ').map_or(line, |(series, _)| series).to_owned());
        lines.collect::<Vec<_>>()
    };
    let first = series(&scene.ask("GET", "/metrics").await);
    assert!(first.len() > 50);
    for access in [Access::Metrics, Access::Read, Access::Control] {
        assert_eq!(series(&scene.send(access, "GET", "/metrics", "").await), first);
    }
    account.closed(Reason::ClientClosed);
}

#[tokio::test]
async fn every_metric_is_rendered_as_what_it_is() {
    let scene = Scene::new().await;
    let (account, flow, _) = scene.tunnel();
    flow.add(Direction::ToClient, 1, std::time::Instant::now());
    account.closed(Reason::ClientClosed);
    let answer = scene.ask("GET", "/metrics").await;
    let text = body(&answer);
    let types: HashSet<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    // Names written outside this module's code show up at their first use.
    let written =
        |name: &str| text.contains(&format!("\n# TYPE {name} ")) || text.starts_with(&format!("# TYPE {name} "));
    for metric in ALL.iter().filter(|metric| written(metric.name)) {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert!(types.contains(&*format!("{} {kind}", metric.name)), "{}: {types:?}", metric.name);
        assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{}", metric.name);
    }
    assert!(types.len() >= 11, "{types:?}");
    assert!(text.contains("sluicegate_tunnel_duration_seconds_bucket{le=\"86400\"} 1\n"), "{text}");
    check_with_promtool(text);
}

/// promtool is silent if the metrics are valid.
fn check_with_promtool(text: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match spawned {
        Ok(promtool) => promtool,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("not checked by promtool, which is not installed (package `prometheus`)");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test]
async fn the_page_needs_nobody_else_and_trusts_no_text() {
    let scene = Scene::new().await;
    let answer = scene.ask("GET", "/").await;
    assert!(header(&answer, "content-security-policy").unwrap().starts_with("default-src 'none';"));
    let page = body(&answer);
    assert!(page.contains("textContent") && page.contains("api/tunnels"));
    for word in
        ["://", "src=", "@import", "url(", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
    {
        assert!(!page.contains(word), "the page holds {word}");
    }
    for link in page.split("href=\"").skip(1) {
        let link = link.split('"').next().unwrap();
        assert!(["metrics", "api/tunnels", "readyz"].contains(&link), "{link}");
    }
}
