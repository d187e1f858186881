use std::collections::HashSet;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::PrometheusRecorder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::account::{Account, Limits, TunnelView, register_series};
use crate::metrics::{ALL, Kind, describe};
use crate::reason::Reason;
use crate::target::Target;
use crate::tunnel::{Direction, Flow, Order};

/// No answer takes this long on any machine that is worth a test.
const DEADLINE: Duration = Duration::from_secs(30);

/// An admin server on loopback with a recorder of this thread's own.
struct Scene {
    admin: Admin,
    address: SocketAddr,
    _server: JoinSet<()>,
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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(admin.clone().run_with(listener, Patience { head: DEADLINE * 2, whole: DEADLINE * 2 }));
        Self { admin, address, _server: server, _recorder: guard }
    }

    /// Sends bytes as they are, and returns all that comes back until the server closes.
    async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            // The server may have answered and closed before it saw all of a request that is too long.
            let _ = stream.write_all(request.as_ref()).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        };
        timeout(DEADLINE, exchange).await.expect("the server neither answers nor closes")
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        self.raw(format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address)).await
    }

    /// A live tunnel, and what its engine is told.
    fn tunnel(&self) -> (Account, Arc<Flow>, Arc<Mutex<Option<Order>>>) {
        let told = Arc::new(Mutex::new(None));
        let flow = Arc::new(Flow::default());
        let engine = Arc::clone(&told);
        flow.on_order(move |order| *engine.lock().unwrap() = Some(order));
        let mut account = self.admin.registry.accepted("192.0.2.7:40000".parse().unwrap());
        account.user(Some("ann".into()));
        account.target(&Target::from("198.51.100.1:443".parse::<SocketAddr>().unwrap()));
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
        ("/healthz", 200, "text/plain; charset=utf-8"),
        ("/readyz", 503, "text/plain; charset=utf-8"),
        ("/api/tunnels", 200, "application/json"),
        ("/api/tunnels?x=1", 200, "application/json"),
        ("/api/tunnels/1", 404, "application/json"),
        ("/api/tunnels/x", 400, "application/json"),
        ("/api/tunnels/", 400, "application/json"),
        ("/api/tunnels/+1", 400, "application/json"),
        ("/api/tunnels/18446744073709551616", 400, "application/json"),
        ("/api/tunnels/1/x", 400, "application/json"),
        ("/nothing", 404, "text/plain; charset=utf-8"),
        ("/../metrics", 404, "text/plain; charset=utf-8"),
    ] {
        let answer = scene.ask("GET", path).await;
        assert_eq!((status(&answer), header(&answer, "content-type")), (code, Some(content_type)), "{path}");
        if content_type == "application/json" && code >= 400 {
            let error: serde_json::Value = serde_json::from_str(body(&answer)).unwrap();
            assert!(error["error"].is_string(), "{path}: {error}");
        }
        let head = scene.ask("HEAD", path).await;
        assert_eq!((status(&head), body(&head)), (code, ""), "HEAD {path}");
        let allowed = header(&scene.ask("POST", path).await, "allow").map(str::to_owned);
        let expected = match path {
            "/nothing" | "/../metrics" => None,
            _ if path.starts_with("/api/tunnels/") => Some("GET, HEAD, DELETE".to_owned()),
            _ => Some("GET, HEAD".to_owned()),
        };
        assert_eq!(allowed, expected, "POST {path}");
    }
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

    let foreign = format!("DELETE {path} HTTP/1.1\r\nHost: {}\r\nOrigin: http://evil.example\r\n\r\n", scene.address);
    let rebound = format!("DELETE {path} HTTP/1.1\r\nHost: evil.example:9128\r\n\r\n");
    for request in [&foreign, &rebound] {
        assert_eq!(status(&scene.raw(request).await), 403, "{request}");
        assert_eq!(*told.lock().unwrap(), None);
    }
    let scrape = scene.raw("GET /metrics HTTP/1.1\r\nHost: gateway.monitoring.svc:9128\r\n\r\n").await;
    assert_eq!(status(&scrape), 200, "Prometheus scrapes by name");

    let killed = scene.ask("DELETE", &path).await;
    assert_eq!((status(&killed), body(&killed)), (204, ""));
    assert_eq!(*told.lock().unwrap(), Some(Order::Stop(Reason::Killed)));
    account.closed(Reason::Killed);
    assert_eq!(status(&scene.ask("DELETE", &path).await), 404);
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

/// Neither a head that never ends nor an answer that nobody reads holds a place for good.
#[tokio::test]
async fn slow_peers_are_cut() {
    let scene = Scene::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (short, long) = (Duration::from_millis(20), Duration::from_secs(3_600));
    for (head, whole) in [(short, long), (long, short)] {
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\nHos").await.unwrap();
        timeout(DEADLINE, scene.admin.clone().serve(stream, Patience { head, whole })).await.expect("it is cut");
    }
}

#[tokio::test]
async fn places_are_limited_and_come_back() {
    let scene = Scene::new().await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(TcpStream::connect(scene.address).await.unwrap());
    }
    let ask = scene.ask("GET", "/healthz");
    tokio::pin!(ask);
    // The one too many waits until somebody leaves.
    tokio::select! {
        biased;
        answer = &mut ask => panic!("served beyond the limit: {answer}"),
        () = async { for _ in 0..200 { tokio::task::yield_now().await } } => {}
    }
    idle.pop();
    assert_eq!(status(&ask.await), 200);
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
    // What no code of this module writes shows up with its first use.
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

/// Silent is all that promtool is when it likes the metrics.
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
