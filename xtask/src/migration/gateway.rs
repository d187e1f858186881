//! Gateway under test: started from a given binary, observed through its log and its admin address.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{Process, wait_any};
use crate::failure::{Context, Failure, Result};
use crate::interrupt;

/// User name sent by stunnel.
pub const USER: &str = "migrator";
/// Password of the user, with every character often mishandled by clients.
pub const PASSWORD: &str = "s3cret:with:@/%ü";

const TICK: Duration = Duration::from_millis(20);
const SETTLE_DEADLINE: Duration = Duration::from_secs(15);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    process: Process,
    listen: SocketAddr,
    admin: Option<SocketAddr>,
}

impl Gateway {
    /// Starts `binary`, permitting only the loopback ports `ports`. Passes the password in the
    /// environment, hence not in `/proc/PID/cmdline`.
    ///
    /// # Errors
    /// The gateway does not log `listening` before the start deadline.
    pub fn start(binary: &Path, dir: &Path, ports: impl Display) -> Result<Self> {
        Self::start_with(binary, dir, ports, &[])
    }

    /// Starts `binary` like [`Gateway::start`], with additional environment variables.
    ///
    /// # Errors
    /// Errors of [`Gateway::start`].
    pub fn start_with(binary: &Path, dir: &Path, ports: impl Display, variables: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(binary);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--control", "none", "--log", "json"])
            .args(["--allow", &format!("127.0.0.0/8:{ports}")])
            .env("SLUICEGATE_USER", format!("{USER}:{PASSWORD}"))
            .envs(variables.iter().copied());
        let mut process = Process::spawn("gateway", &mut command, dir)?;
        let (listen, admin) = process.ready(|process| addresses(&process.output()))?;
        Ok(Self { process, listen, admin: Some(admin) })
    }

    /// Wraps any other CONNECT proxy, to test the rig itself or to compare.
    #[must_use]
    pub fn other(process: Process, listen: SocketAddr) -> Self {
        Self { process, listen, admin: None }
    }

    /// Listen address for clients.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// The process, for its log and its id.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Log so far, one JSON object per line; other lines are skipped.
    #[must_use]
    pub fn log(&self) -> Vec<Value> {
        self.process.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Access-log lines of closed tunnels, oldest first.
    #[must_use]
    pub fn closed_tunnels(&self) -> Vec<Value> {
        self.log().into_iter().filter(|line| line["message"] == "tunnel closed").collect()
    }

    /// Series of `/metrics` after `tunnels` tunnels have been opened and all are closed.
    ///
    /// # Errors
    /// 15 seconds pass before.
    pub fn metrics_after(&self, tunnels: usize) -> Result<Metrics> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        loop {
            interrupt::check()?;
            let metrics = self.metrics()?;
            let ended = metrics.sum("sluicegate_tunnels_total", &[]);
            if ended >= tunnels as f64 && metrics.sum("sluicegate_tunnels_active", &[]) < 1.0 {
                return Ok(metrics);
            }
            if Instant::now() > deadline {
                return Err(self
                    .process
                    .failure(&format!("has ended {ended} of {tunnels} tunnels, long after the last byte")));
            }
            wait_any(&[&self.process], TICK)?;
        }
    }

    /// Current series of `/metrics`.
    ///
    /// # Errors
    /// The admin address does not answer with 200.
    pub fn metrics(&self) -> Result<Metrics> {
        let admin = self.admin.ok_or_else(|| Failure::new("this gateway has no admin address"))?;
        get(admin, "/metrics").map(|text| Metrics::parse(&text))
    }
}

/// Both addresses of the log line `listening`.
fn addresses(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|line| {
        let address = |name: &str| line[name].as_str()?.parse().ok();
        (line["message"] == "listening").then(|| Some((address("listen")?, address("admin")?))).flatten()
    })
}

/// Sends an HTTP/1.0 GET: the body ends with the connection and is never chunked.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    let exchange = || -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, ADMIN_TIMEOUT)?;
        stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map(|_| answer)
    };
    let answer = exchange().context(format!("GET http://{address}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(Failure::new(format!("GET http://{address}{path} was answered {status:?}")));
    }
    Ok(body.to_owned())
}

/// Values of `/metrics` by series, without histogram buckets: sum and count suffice.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Parses the Prometheus text format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            let family = name.split('{').next()?;
            (!family.ends_with("_bucket")).then_some((name.to_owned(), value.parse().ok()?))
        });
        Self(series.collect())
    }

    /// Sum over all series of `family` with every one of `labels`, each written `name="value"`.
    #[must_use]
    pub fn sum(&self, family: &str, labels: &[&str]) -> f64 {
        let matches = |series: &str| {
            let (name, rest) = series.split_once('{').unwrap_or((series, ""));
            name == family && labels.iter().all(|label| rest.contains(label))
        };
        self.0.iter().filter(|(series, _)| matches(series)).map(|(_, value)| value).sum()
    }

    /// Series changed since `before`, ordered by name: series, value before, value now.
    #[must_use]
    pub fn changed_since(&self, before: &Self) -> Vec<(&str, f64, f64)> {
        let was = |series: &str| before.0.get(series).copied().unwrap_or(0.0);
        let all = self.0.iter().map(|(series, now)| (series.as_str(), was(series), *now));
        all.filter(|(_, was, now)| was.to_bits() != now.to_bits()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_names_both_addresses() {
        let log = concat!(
            "not json\n",
            r#"{"level":"INFO","message":"starting"}"#,
            "\n",
            r#"{"level":"INFO","message":"listening","listen":"127.0.0.1:3128","admin":"127.0.0.1:9128"}"#,
        );
        let expected = ("127.0.0.1:3128".parse().unwrap(), "127.0.0.1:9128".parse().unwrap());
        assert_eq!(addresses(log), Some(expected));
        assert_eq!(addresses(r#"{"message":"listening","listen":"127.0.0.1:1"}"#), None);
    }

    #[test]
    fn metrics_are_summed_by_label_and_compared() {
        let before = Metrics::parse("# HELP x\nb_total{direction=\"to_origin\",engine=\"copy\"} 1\nidle 5\n");
        let now = Metrics::parse(concat!(
            "b_total{direction=\"to_origin\",engine=\"copy\"} 3\nb_total{direction=\"to_origin\",engine=\"splice\"} 4\n",
            "b_total{direction=\"to_client\",engine=\"copy\"} 9\nidle 5\nh_seconds_bucket{le=\"1\"} 2\nh_seconds_sum 0.5\n",
        ));
        assert_eq!(now.sum("b_total", &["direction=\"to_origin\""]).to_bits(), 7f64.to_bits());
        assert_eq!(now.sum("b_total", &[]).to_bits(), 16f64.to_bits());
        let names: Vec<_> =
            now.changed_since(&before).iter().map(|(series, ..)| series.split('{').next().unwrap()).collect();
        assert_eq!(names, ["b_total", "b_total", "b_total", "h_seconds_sum"]);
    }
}
