//! Output of `/metrics`, as Prometheus reads it.

use std::process::Command;

use sluicegate::metrics;

use crate::support::process::{program, run};
use crate::support::tls::testdata;
use crate::support::{Origin, Setup, admin, client, connect_as};

const USER: &str = "mover:s3cret";

#[test]
fn promtool_has_nothing_to_say_about_a_gateway_that_has_worked() {
    let Some(promtool) = program("promtool", "prometheus") else { return };
    let (certificate, key) = (testdata("certificate.pem"), testdata("key.pem"));
    let parent = ["--parent", "http://nx.invalid:3128 for nx.invalid:*"];
    let shown = ["--listen-tls", "127.0.0.1:0", "--tls-cert", &certificate, "--tls-key", &key];
    let gateway = Setup::new(&parent).args(shown).user(USER).start();
    let origin = Origin::echo();
    let stream = connect_as(gateway.address, origin.address, USER);
    client::echoes(&stream, 1 << 20);
    client::hang_up(&stream);
    client::ask(gateway.address, b"GET / HTTP/1.1\r\n\r\n");
    client::ask(gateway.address, client::request("127.0.0.1:1", Some("mover:wrong")).as_bytes());
    gateway.closing_line(stream.local_addr().unwrap());

    let answer = admin::get(gateway.admin, "/metrics");
    assert_eq!(answer.status, 200);
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]);
    let outcome = run(command, answer.body.as_bytes());
    assert_eq!((outcome.code, outcome.out.as_str(), outcome.err.as_str()), (Some(0), "", ""));
    // Every documented metric is present, except fallbacks: none has happened.
    for metric in metrics::ALL.iter().filter(|metric| metric.name != metrics::ENGINE_FALLBACKS.name) {
        assert!(answer.body.contains(&format!("# TYPE {} ", metric.name)), "{}", metric.name);
    }
}

/// The counters hold while a tunnel is open and after its end.
#[test]
fn counters_follow_a_live_tunnel() {
    let gateway = Setup::new(&[]).user(USER).start();
    let origin = Origin::echo();
    let stream = connect_as(gateway.address, origin.address, USER);
    gateway.wait_for_metric(&metrics::TUNNELS_ACTIVE, &[""], 1);
    for round in 1..=3 {
        client::echoes(&stream, 100_000);
        for way in ["to_origin", "to_client"] {
            gateway.wait_for_metric(&metrics::BYTES, &[way, ""], round * 100_000);
            gateway.wait_for_metric(&metrics::USER_BYTES, &["mover", way], round * 100_000);
        }
        let tunnel = &gateway.tunnels()[0];
        assert_eq!((&tunnel["bytes_to_origin"], &tunnel["user"]), (&(round * 100_000).into(), &"mover".into()));
    }
    client::hang_up(&stream);
    gateway.wait_for_metric(&metrics::TUNNELS_ACTIVE, &[""], 0);
    gateway.wait_for_metric(&metrics::TUNNELS, &["", "client_closed"], 1);
    assert_eq!(gateway.metric(&metrics::TUNNELS, &["", ""]), 1);
    assert_eq!(gateway.metric(&metrics::BYTES, &["", ""]), 600_000);
    assert!(gateway.tunnels().is_empty());
}
