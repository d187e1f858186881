use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::Value;
use tracing::level_filters::LevelFilter;

use super::live::Live;
use super::*;
use crate::rate::Rate;
use crate::reason::{Reason, Refusal};
use crate::target::{Host, Target};
use crate::tunnel::{Command, Direction, Flow};

const LIMITS: Limits = Limits { tunnels: 10, ..Limits::NONE };

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Log and metrics of a run.
struct Trace {
    metrics: String,
    log: Vec<Value>,
}

impl Trace {
    /// Runs with a recorder and a log of its own.
    fn of(run: impl FnOnce(&Arc<Registry>)) -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let sink = Sink::default();
        let writer = sink.clone();
        let log = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_max_level(LevelFilter::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        let registry = Registry::new(LIMITS);
        ::metrics::with_local_recorder(&recorder, || tracing::subscriber::with_default(log, || run(&registry)));
        assert_eq!(registry.active(), 0, "a tunnel stayed in the registry");
        assert_eq!(*registry.connections().borrow(), 0, "a connection was not accounted");
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let log = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        Self { metrics: recorder.handle().render(), log }
    }

    /// The value of a series, zero if it does not exist.
    fn value(&self, series: &str) -> f64 {
        let series = format!("sluicegate_{series} ");
        let line = self.metrics.lines().find_map(|line| line.strip_prefix(&series));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    /// The sum over all series of a name.
    fn sum(&self, name: &str) -> f64 {
        let of_name =
            |line: &&str| line.strip_prefix("sluicegate_").is_some_and(|l| l.starts_with(&format!("{name}{{")));
        self.metrics.lines().filter(of_name).map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// The lines with this message, as (level, fields).
    fn lines(&self, message: &str) -> Vec<(&str, &Value)> {
        let lines = self.log.iter().filter(|line| line["message"] == message);
        lines.map(|line| (line["level"].as_str().unwrap(), line)).collect()
    }

    fn line(&self, message: &str) -> (&str, &Value) {
        let lines = self.lines(message);
        assert_eq!(lines.len(), 1, "{message}: {:?}", self.log);
        lines[0]
    }
}

fn client() -> SocketAddr {
    "[::ffff:192.0.2.7]:40000".parse().unwrap()
}

fn target() -> Target {
    Target { host: Host::Name("db.example".into()), port: 443, absolute: false }
}

fn origin() -> SocketAddr {
    "198.51.100.1:443".parse().unwrap()
}

/// An established tunnel of ann's; `flow` is the end an engine would hold.
fn established(registry: &Arc<Registry>, flow: &Arc<Flow>) -> Account {
    let mut account = registry.accepted(client());
    account.received_bytes();
    account.set_user(Some("ann".into()));
    account.set_target(&target());
    account.reserve(None).unwrap();
    account.established(origin(), "splice", Arc::clone(flow));
    account
}

fn move_bytes(flow: &Flow, to_origin: u64, to_client: u64) {
    flow.add(Direction::ToOrigin, to_origin, Instant::now());
    flow.add(Direction::ToClient, to_client, Instant::now());
}

#[test]
fn a_tunnel_is_counted_and_logged_once() {
    let trace = Trace::of(|registry| {
        let flow = Arc::new(Flow::default());
        let account = established(registry, &flow);
        assert_eq!(registry.active(), 1);
        assert!(Arc::ptr_eq(account.flow().unwrap(), &flow));
        move_bytes(&flow, 1_000, 20);
        registry.publish();
        move_bytes(&flow, 1, 0);
        account.closed(Reason::OriginReset);
        registry.publish();
    });
    let (level, line) = trace.line("tunnel closed");
    assert_eq!(level, "INFO");
    for (field, value) in [
        ("id", Value::from(1)),
        ("client", "192.0.2.7:40000".into()),
        ("user", "ann".into()),
        ("target", "db.example:443".into()),
        ("origin", "198.51.100.1:443".into()),
        ("engine", "splice".into()),
        ("outcome", "origin_reset".into()),
        ("by", "origin".into()),
        ("to_origin", 1_001.into()),
        ("to_client", 20.into()),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert!(line["duration_s"].is_f64() && line["quiet_s"].is_f64(), "{line}");
    assert_eq!(trace.line("tunnel established").0, "DEBUG");
    for (series, value) in [
        ("tunnels_active{engine=\"splice\"}", 0.0),
        ("tunnels_total{engine=\"splice\",outcome=\"origin_reset\"}", 1.0),
        ("connect_requests_total{code=\"200\",reason=\"established\"}", 1.0),
        ("bytes_total{direction=\"to_origin\",engine=\"splice\"}", 1_001.0),
        ("bytes_total{direction=\"to_client\",engine=\"splice\"}", 20.0),
        ("user_bytes_total{user=\"ann\",direction=\"to_origin\"}", 1_001.0),
        ("user_bytes_total{user=\"ann\",direction=\"to_client\"}", 20.0),
        ("handshake_duration_seconds_count", 1.0),
        ("tunnel_duration_seconds_count", 1.0),
    ] {
        assert_eq!(trace.value(series), value, "{series}");
    }
    assert_eq!(trace.sum("connect_requests_total"), 1.0);
}

#[test]
fn every_refusal_is_counted_and_logged_once() {
    for &reason in Reason::ALL.iter().filter(|reason| reason.status().is_some()) {
        let trace = Trace::of(|registry| {
            let mut account = registry.accepted(client());
            account.set_target(&target());
            account.refused(&Refusal::new(reason, "the rule that did it"));
        });
        let code = reason.status().unwrap().0;
        let series = format!("connect_requests_total{{code=\"{code}\",reason=\"{reason}\"}}");
        assert_eq!((trace.value(&series), trace.sum("connect_requests_total")), (1.0, 1.0), "{reason}");
        assert_eq!(trace.sum("tunnels_total"), 0.0);
        let (level, line) = trace.line("refused");
        assert_eq!(level, if reason.side().label() == "gateway" { "WARN" } else { "INFO" }, "{reason}");
        assert_eq!((&line["code"], &line["reason"]), (&Value::from(code), &Value::from(reason.label())));
        assert_eq!(line["id"], 1, "{reason}");
        assert_eq!((&line["detail"], &line["target"]), (&"the rule that did it".into(), &"db.example:443".into()));
        assert_eq!(line["user"], Value::Null);
        assert!(line["duration_s"].is_f64());
    }
}

/// A connection that nobody ended, by what happened to it; whether it stood; what it is counted as.
#[test]
fn what_is_only_dropped_is_accounted_too() {
    type Fate = fn(&Arc<Registry>, Account);
    let dropped: Fate = |_, account| drop(account);
    let stopped: Fate = |registry, account| {
        registry.stop_all(Reason::Shutdown);
        drop(account);
    };
    let panicked: Fate = |_, account| {
        let fall = AssertUnwindSafe(|| {
            let _account = account;
            std::panic::resume_unwind(Box::new("a fault"));
        });
        assert!(catch_unwind(fall).is_err());
    };
    for (fate, stood, reason) in [
        (dropped, false, Reason::ClientGone),
        (dropped, true, Reason::EngineFailed),
        (stopped, false, Reason::Shutdown),
        (stopped, true, Reason::Shutdown),
        (panicked, false, Reason::EngineFailed),
        (panicked, true, Reason::EngineFailed),
    ] {
        let trace = Trace::of(|registry| {
            let account = if stood { established(registry, &Arc::default()) } else { registry.accepted(client()) };
            fate(registry, account);
        });
        let case = format!("stood: {stood}, {reason}");
        assert_eq!(trace.lines("refused").len(), usize::from(!stood), "{case}");
        assert_eq!(trace.lines("tunnel closed").len(), usize::from(stood), "{case}");
        assert_eq!(trace.sum("connect_requests_total"), 1.0, "{case}");
        assert_eq!(trace.sum("tunnels_total"), f64::from(stood), "{case}");
        let series = if stood {
            format!("tunnels_total{{engine=\"splice\",outcome=\"{reason}\"}}")
        } else {
            format!("connect_requests_total{{code=\"none\",reason=\"{reason}\"}}")
        };
        assert_eq!(trace.value(&series), 1.0, "{case}");
    }
}

#[test]
fn a_task_that_panics_or_is_cancelled_is_accounted() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let trace = Trace::of(|registry| {
        let account = established(registry, &Arc::default());
        let cancelled = registry.accepted(client());
        runtime.block_on(async {
            let failed = tokio::spawn(async move {
                tokio::task::yield_now().await;
                let _held = &account;
                std::panic::resume_unwind(Box::new("a fault"));
            });
            assert!(failed.await.unwrap_err().is_panic());
            let waits = tokio::spawn(async move {
                let _held = cancelled;
                std::future::pending::<()>().await;
            });
            waits.abort();
            assert!(waits.await.unwrap_err().is_cancelled());
        });
    });
    assert_eq!(trace.value("tunnels_total{engine=\"splice\",outcome=\"engine_failed\"}"), 1.0);
    assert_eq!(trace.value("connect_requests_total{code=\"none\",reason=\"client_gone\"}"), 1.0);
}

/// The recorder and the log of a trace are those of this thread: what is closed elsewhere is not in
/// it.
#[test]
fn a_tunnel_is_closed_where_its_end_is_told() {
    for (tells, reason) in [(true, Reason::OriginClosed), (false, Reason::EngineFailed)] {
        let trace = Trace::of(|registry| {
            let (end, ended) = tokio::sync::oneshot::channel();
            established(registry, &Arc::default()).closed_by(async { ended.await.unwrap_or(Reason::EngineFailed) });
            assert_eq!(registry.active(), 1);
            if tells {
                end.send(reason).unwrap();
            } else {
                drop(end);
            }
        });
        let series = format!("tunnels_total{{engine=\"splice\",outcome=\"{reason}\"}}");
        assert_eq!((trace.value(&series), trace.sum("tunnels_total")), (1.0, 1.0));
        assert_eq!(trace.line("tunnel closed").1["outcome"], reason.label());
    }
}

#[test]
fn an_end_that_is_known_already_closes_at_once() {
    let trace = Trace::of(|registry| {
        established(registry, &Arc::default()).closed_by(std::future::ready(Reason::Killed));
        assert_eq!(registry.active(), 0);
    });
    assert_eq!(trace.line("tunnel closed").1["outcome"], "killed");
}

#[test]
fn what_is_still_open_at_the_end_of_the_process_is_accounted_once() {
    let trace = Trace::of(|registry| {
        let (end, ended) = tokio::sync::oneshot::channel();
        established(registry, &Arc::default()).closed_by(async { ended.await.unwrap_or(Reason::EngineFailed) });
        registry.close_all(Reason::Shutdown);
        registry.close_all(Reason::Shutdown);
        end.send(Reason::ClientClosed).unwrap();
    });
    assert_eq!(trace.line("tunnel closed").1["outcome"], "shutdown");
    assert_eq!(trace.sum("tunnels_total"), 1.0);
    assert_eq!(trace.value("tunnels_active{engine=\"splice\"}"), 0.0);
}

#[test]
fn the_half_of_its_life_decides_how_an_end_is_counted() {
    let trace = Trace::of(|registry| {
        let mut unanswered = established(registry, &Arc::default());
        unanswered.refused(&Refusal::new(Reason::ClientGone, "left before the 200 was written"));
        registry.accepted(client()).closed(Reason::Shutdown);
    });
    assert_eq!(trace.value("tunnels_total{engine=\"splice\",outcome=\"client_gone\"}"), 1.0);
    assert_eq!(trace.value("connect_requests_total{code=\"none\",reason=\"shutdown\"}"), 1.0);
    assert_eq!((trace.lines("tunnel closed").len(), trace.lines("refused").len()), (1, 1));
}

/// An exchange of ann's with an origin, and its flow.
fn exchanging(registry: &Arc<Registry>) -> (Account, Arc<Flow>) {
    let mut account = registry.accepted(client());
    account.set_user(Some("ann".into()));
    account.set_target(&target());
    account.set_upgrade("x/1");
    account.reserve(None).unwrap();
    let flow = account.exchange(origin());
    (account, flow)
}

#[test]
fn an_exchange_without_a_101_is_counted_and_logged_once() {
    let trace = Trace::of(|registry| {
        let (mut account, flow) = exchanging(registry);
        move_bytes(&flow, 300, 20);
        registry.publish();
        let view = registry.tunnel(account.id()).unwrap();
        assert_eq!((&*view.engine, view.user.as_deref(), view.bytes_to_origin), (EXCHANGE, Some("ann"), 300));
        move_bytes(&flow, 1, 0);
        account.refused(&Refusal::new(Reason::NotUpgraded, "the origin answered 403"));
        assert_eq!(registry.active(), 0);
        registry.close_all(Reason::Shutdown);
    });
    let (level, line) = trace.line("refused");
    assert_eq!((level, &line["reason"], &line["upgrade"]), ("INFO", &"not_upgraded".into(), &"x/1".into()));
    assert_eq!((&line["to_origin"], &line["to_client"], &line["id"]), (&301.into(), &20.into(), &1.into()));
    assert!(trace.lines("tunnel closed").is_empty());
    for (series, value) in [
        ("tunnels_active{engine=\"exchange\"}", 0.0),
        ("connect_requests_total{code=\"none\",reason=\"not_upgraded\"}", 1.0),
        ("bytes_total{direction=\"to_origin\",engine=\"exchange\"}", 301.0),
        ("user_bytes_total{user=\"ann\",direction=\"to_origin\"}", 301.0),
    ] {
        assert_eq!(trace.value(series), value, "{series}");
    }
    assert_eq!((trace.sum("connect_requests_total"), trace.sum("tunnels_total")), (1.0, 0.0));
}

#[test]
fn a_tunnel_takes_the_place_of_its_exchange() {
    let trace = Trace::of(|registry| {
        let (mut account, exchange) = exchanging(registry);
        move_bytes(&exchange, 300, 20);
        let flow = Arc::new(Flow::default());
        account.established(origin(), "splice", Arc::clone(&flow));
        assert_eq!((registry.active(), &*registry.tunnel(account.id()).unwrap().engine), (1, "splice"));
        move_bytes(&flow, 7, 8);
        account.closed(Reason::ClientClosed);
    });
    assert!(trace.lines("refused").is_empty());
    let line = trace.line("tunnel closed").1;
    assert_eq!((&line["to_origin"], &line["upgrade"], &line["user"]), (&7.into(), &"x/1".into(), &"ann".into()));
    for (series, value) in [
        ("tunnels_active{engine=\"exchange\"}", 0.0),
        ("tunnels_active{engine=\"splice\"}", 0.0),
        ("connect_requests_total{code=\"101\",reason=\"established\"}", 1.0),
        ("bytes_total{direction=\"to_origin\",engine=\"exchange\"}", 300.0),
        ("bytes_total{direction=\"to_origin\",engine=\"splice\"}", 7.0),
        ("user_bytes_total{user=\"ann\",direction=\"to_origin\"}", 307.0),
    ] {
        assert_eq!(trace.value(series), value, "{series}");
    }
    assert_eq!((trace.sum("connect_requests_total"), trace.sum("tunnels_total")), (1.0, 1.0));
}

#[test]
fn an_exchange_is_stopped_as_a_tunnel_is() {
    type Command = fn(&Registry);
    let killed: Command = |registry| assert!(registry.kill(1));
    let expired: Command = |registry| registry.stop_users(|user| user == "ann", Reason::Expired);
    let shutdown: Command = |registry| registry.stop_all(Reason::Shutdown);
    for (command, reason) in [(killed, Reason::Killed), (expired, Reason::Expired), (shutdown, Reason::Shutdown)] {
        Trace::of(|registry| {
            let (_account, flow) = exchanging(registry);
            command(registry);
            assert_eq!(flow.stopped(), Some(reason));
        });
        // Before, during or after the establishment of the tunnel.
        for moment in 0..3 {
            Trace::of(|registry| {
                let (mut account, exchange) = exchanging(registry);
                let flow = Arc::new(Flow::default());
                if moment == 0 {
                    command(registry);
                }
                account.established(origin(), "splice", Arc::clone(&flow));
                match moment {
                    0 => {}
                    1 => exchange.stop(reason),
                    _ => command(registry),
                }
                assert_eq!(flow.stopped(), Some(reason), "{reason} {moment}");
            });
        }
    }
}

#[test]
fn an_exchange_at_the_end_of_the_process_is_accounted_once() {
    let trace = Trace::of(|registry| {
        let (account, _) = exchanging(registry);
        registry.close_all(Reason::Shutdown);
        drop(account);
    });
    assert_eq!(trace.line("refused").1["reason"], "shutdown");
    assert_eq!((trace.sum("connect_requests_total"), trace.value("tunnels_active{engine=\"exchange\"}")), (1.0, 0.0));
}

#[test]
fn port_checks_are_for_the_debug_level() {
    for (reason, bytes, level) in [
        (Reason::ClientClosed, 0, "DEBUG"),
        (Reason::OriginClosed, 0, "DEBUG"),
        (Reason::ClientClosed, 1, "INFO"),
        (Reason::OriginReset, 0, "INFO"),
        (Reason::Killed, 0, "INFO"),
    ] {
        let trace = Trace::of(|registry| {
            let flow = Arc::new(Flow::default());
            let account = established(registry, &flow);
            flow.add(Direction::ToClient, bytes, Instant::now());
            account.closed(reason);
        });
        assert_eq!(trace.line("tunnel closed").0, level, "{reason} after {bytes} bytes");
        assert_eq!(trace.sum("tunnels_total"), 1.0, "it counts all the same");
    }
    for (heard, level) in [(false, "DEBUG"), (true, "INFO")] {
        let trace = Trace::of(|registry| {
            let mut account = registry.accepted(client());
            if heard {
                account.received_bytes();
            }
            account.refused(&Refusal::new(Reason::ClientGone, "left"));
        });
        assert_eq!(trace.line("refused").0, level);
        assert_eq!(trace.line("refused").1["code"], Value::Null);
    }
}

/// Both formats: one line each, nothing that a terminal obeys, and no field that the peer made up.
#[test]
fn a_peer_cannot_write_into_the_log() {
    const EVIL: &str = "eve\" outcome=forged\r\n2026 INFO tunnel closed id=9\u{1b}[2J\u{9b}31m\u{7f}\u{202e}";
    let end_both = |registry: &Arc<Registry>| {
        let evil = Target { host: Host::Name(EVIL.into()), port: 1, absolute: false };
        let mut account = registry.accepted(client());
        account.received_bytes();
        account.set_user(Some(EVIL.into()));
        account.set_target(&evil);
        account.refused(&Refusal::new(Reason::Denied, EVIL));
        let mut account = registry.accepted(client());
        account.set_user(Some(EVIL.into()));
        account.set_target(&evil);
        account.established(origin(), "splice", Arc::default());
        assert!(!registry.tunnels()[0].target.contains('\u{1b}'));
        account.closed(Reason::Killed);
    };
    let trace = Trace::of(end_both);
    let shown =
        "eve\" outcome=forged\u{fffd}\u{fffd}2026 INFO tunnel closed id=9\u{fffd}[2J\u{fffd}31m\u{fffd}\u{fffd}";
    for message in ["refused", "tunnel closed"] {
        let (_, line) = trace.line(message);
        assert_eq!((line["user"].as_str(), line["target"].as_str()), (Some(shown), Some(&*format!("{shown}:1"))));
    }
    assert_eq!(trace.line("refused").1["detail"], shown);

    let sink = Sink::default();
    let writer = sink.clone();
    let text = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(text, || end_both(&Registry::new(LIMITS)));
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    assert!(text.lines().all(|line| line.contains(r#"user="eve\" outcome=forged"#)), "{text}");
}

#[test]
fn long_tunnels_are_logged_every_ten_minutes() {
    const SECOND: Duration = Duration::from_secs(1);
    let trace = Trace::of(|registry| {
        let flow = Arc::new(Flow::default());
        let account = established(registry, &flow);
        let start = flow.started();
        move_bytes(&flow, 500, 7);
        registry.interim(start + INTERIM - SECOND);
        registry.interim(start + INTERIM);
        move_bytes(&flow, 50, 0);
        registry.interim(start + INTERIM * 2 - SECOND);
        registry.interim(start + INTERIM * 2);
        // The ticker may still hold a tunnel that closes meanwhile: nothing follows its last line.
        let held = Arc::clone(account.live().unwrap());
        account.closed(Reason::ClientClosed);
        held.interim(start + INTERIM * 9);
    });
    let lines = trace.lines("tunnel open");
    let counts: Vec<_> = ["to_origin", "to_client", "to_origin_since", "to_client_since"]
        .map(|field| lines.iter().map(|(_, line)| line[field].as_u64().unwrap()).collect::<Vec<_>>())
        .into();
    assert_eq!(counts, [[500, 550], [7, 7], [500, 50], [7, 0]]);
    assert_eq!((lines[0].0, &lines[0].1["age_s"]), ("INFO", &Value::from(600.0)));
}

#[test]
fn publishers_that_meet_count_no_byte_twice() {
    const EACH: u64 = 20_000;
    let trace = Trace::of(|registry| {
        let flow = Arc::new(Flow::default());
        let account = established(registry, &flow);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..EACH).for_each(|_| move_bytes(&flow, 3, 1)));
            }
            for _ in 0..3 {
                scope.spawn(|| (0..EACH).for_each(|_| registry.publish()));
            }
        });
        account.closed(Reason::ClientClosed);
    });
    assert_eq!(trace.value("bytes_total{direction=\"to_origin\",engine=\"splice\"}"), (EACH * 6) as f64);
    assert_eq!(trace.value("user_bytes_total{user=\"ann\",direction=\"to_client\"}"), (EACH * 2) as f64);
}

#[test]
fn a_publisher_that_comes_late_sets_nothing_back() {
    let trace = Trace::of(|registry| {
        let account = established(registry, &Arc::default());
        let live = account.live().unwrap();
        for read in [20, 10, 20, 25] {
            live.publish_up_to(Direction::ToOrigin, read);
        }
        account.closed(Reason::ClientClosed);
    });
    assert_eq!(trace.value("bytes_total{direction=\"to_origin\",engine=\"splice\"}"), 25.0);
}

#[test]
fn kill_and_stop_reach_the_engine() {
    let trace = Trace::of(|registry| {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listen = |flow: &Flow| {
            let told = Arc::clone(&told);
            flow.attach_control(move |command| told.lock().unwrap().push(command));
        };
        let flows: [Arc<Flow>; 2] = Default::default();
        let first = established(registry, &flows[0]);
        listen(&flows[0]);
        assert!(!registry.kill(77));
        assert!(registry.kill(first.id()));
        assert_eq!(*told.lock().unwrap(), [Command::Stop(Reason::Killed)]);
        first.closed(Reason::Killed);
        assert!(!registry.kill(1), "it is gone");
        registry.stop_all(Reason::Shutdown);
        let late = established(registry, &flows[1]);
        listen(&flows[1]);
        assert_eq!(
            *told.lock().unwrap(),
            [Reason::Killed, Reason::Shutdown].map(Command::Stop),
            "one established after the stop"
        );
        late.closed(Reason::Shutdown);
    });
    assert_eq!(trace.sum("tunnels_total"), 2.0);
}

#[test]
fn a_slot_comes_back_however_the_connection_ends() {
    let registry = Registry::new(Limits { tunnels: 1, per_user: None, per_source: None, ..Limits::default() });
    let ends: [fn(Account); 3] = [
        |account| account.closed(Reason::ClientClosed),
        |mut account| account.refused(&Refusal::new(Reason::Unreachable, "no route")),
        drop,
    ];
    for end in ends {
        let mut account = registry.accepted(client());
        account.reserve(None).unwrap();
        account.reserve(None).expect("a second reservation is the same one");
        let refusal = registry.accepted(client()).reserve(None).unwrap_err();
        assert_eq!(refusal, Refusal::new(Reason::TunnelLimit, "--max-tunnels 1 reached"));
        end(account);
    }
}

#[test]
fn a_drain_sees_handshakes_too() {
    let registry = Registry::new(LIMITS);
    let connections = registry.connections();
    let handshake = registry.accepted(client());
    assert_eq!((*connections.borrow(), registry.active()), (1, 0));
    drop(handshake);
    assert_eq!(*connections.borrow(), 0);
}

#[test]
fn known_series_stand_at_zero() {
    let trace = Trace::of(|_| register_series(&["splice", "copy"]));
    for series in [
        "auth_failures_total",
        "tunnels_active{engine=\"copy\"}",
        "tunnels_total{engine=\"copy\",outcome=\"client_lost\"}",
        "connect_requests_total{code=\"407\",reason=\"auth_required\"}",
        "bytes_total{direction=\"to_client\",engine=\"splice\"}",
        "tcp_limited_seconds_total{side=\"origin\",by=\"network\"}",
        "dial_duration_seconds_count",
    ] {
        assert!(trace.metrics.contains(&format!("sluicegate_{series} 0\n")), "{series}\n{}", trace.metrics);
    }
}

/// 10,000 idle tunnels are to cost megabytes: what is kept of one, without the text of its names.
#[test]
fn an_idle_tunnel_is_small() {
    let size = size_of::<Account>() + size_of::<Live>() + size_of::<Flow>();
    assert!(size <= 768, "{size} bytes");
}

#[test]
fn a_users_rate_is_divided_over_his_tunnels_as_they_come_and_go() {
    let rates = Rates { user: Rate::new(9_000).ok(), ..Rates::default() };
    let registry =
        Registry::with_rates(Limits { tunnels: 9, per_user: None, per_source: None, ..Limits::default() }, rates);
    let flows: [Arc<Flow>; 4] = Default::default();
    let rate = |index: usize| flows[index].rate().map(Rate::bytes);
    let first = established(&registry, &flows[0]);
    assert_eq!(rate(0), Some(9_000));
    let mut next = registry.accepted(client());
    next.set_user(Some("ann".into()));
    next.limit_rate(&flows[3]);
    assert_eq!(rate(3), Some(4_500), "one that is about to be has what it will have");
    drop(next);
    let second = established(&registry, &flows[1]);
    assert_eq!(rate(1), Some(4_500), "the new one has its share at once");
    registry.rebalance_shares();
    assert_eq!(rate(0), Some(4_500));
    // A tunnel of nobody shares with nobody.
    let mut nobody = registry.accepted(client());
    nobody.established(origin(), "splice", Arc::clone(&flows[2]));
    assert_eq!(rate(2), None);
    let id = second.id();
    registry
        .change_rates(&Change { tunnels: [(id, Some(Limit(Rate::new(2_000).ok())))].into(), ..Change::default() })
        .unwrap();
    assert_eq!([rate(0), rate(1), rate(2)], [Some(4_500), Some(2_000), None]);
    assert_eq!(registry.tunnel(id).unwrap().rate, Rate::new(2_000).ok());
    drop(second);
    registry.rebalance_shares();
    assert_eq!(rate(0), Some(9_000));
    assert!(registry.rates().tunnels.is_empty());
    drop((first, nobody));
}

#[tokio::test(start_paused = true)]
async fn who_keeps_rates_divided_hears_of_every_tunnel() {
    let rates = Rates { user: Rate::new(9_000).ok(), ..Rates::default() };
    let registry =
        Registry::with_rates(Limits { tunnels: 9, per_user: None, per_source: None, ..Limits::default() }, rates);
    let keeper = tokio::spawn({
        let registry = Arc::clone(&registry);
        async move { registry.keep_rebalanced().await }
    });
    let flows: [Arc<Flow>; 2] = Default::default();
    let [first, second] = [0, 1].map(|index| established(&registry, &flows[index]));
    while flows[0].rate() != Rate::new(4_500).ok() {
        tokio::task::yield_now().await;
    }
    drop(first);
    while flows[1].rate() != Rate::new(9_000).ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(second);
    keeper.abort();
}
