//! Every exported metric: its name, kind, labels and help, and nothing else.
//!
//! A tunnel, a target or a client address is never a label: those are unbounded. `cargo xtask tidy`
//! fails on a metric missing in docs/operations.md or never written by code.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Label};

/// Prometheus type of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Seconds, in the buckets of [`SECONDS`] or [`LONG_SECONDS`].
    Histogram(&'static [f64]),
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name, with the `sluicegate_` prefix and the unit.
    pub name: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Label names, in the order of their values.
    pub labels: &'static [&'static str],
    /// Description in one line.
    pub help: &'static str,
}

/// Buckets for durations of milliseconds: a handshake, a dial.
pub const SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Buckets for durations of minutes to days: a tunnel.
pub const LONG_SECONDS: &[f64] =
    &[0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0];

macro_rules! metrics_table {
    ($($ident:ident: $kind:expr, $name:literal, [$($label:literal),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $ident: Metric = Metric {
            name: concat!("sluicegate_", $name), kind: $kind, labels: &[$($label),*], help: $help,
        };)*
        /// All of them.
        pub const ALL: &[Metric] = &[$($ident,)*];
    };
}

metrics_table! {
    TUNNELS_ACTIVE: Kind::Gauge, "tunnels_active", ["engine"],
        "Tunnels open now";
    TUNNELS: Kind::Counter, "tunnels_total", ["engine", "outcome"],
        "Ended tunnels by outcome";
    CONNECT_REQUESTS: Kind::Counter, "connect_requests_total", ["code", "reason"],
        "Ended handshakes by status (none: not answered) and reason";
    HANDSHAKES: Kind::Gauge, "handshakes_in_progress", ["stage"],
        "Connections without a tunnel by stage: request (the client), password, queue (other dials of the user), look_up, dial, upgrade (the origin's answer), answer (the refused client)";
    LIMIT: Kind::Gauge, "limit", ["of"],
        "Limits of tunnels, tunnels_per_user, tunnels_per_source, handshakes, dials_per_user, lookups and lookups_per_user; +Inf: no limit";
    HANDSHAKE_DURATION: Kind::Histogram(SECONDS), "handshake_duration_seconds", [],
        "Seconds from accept to the 200, dialling included";
    DIAL_DURATION: Kind::Histogram(SECONDS), "dial_duration_seconds", [],
        "Seconds to reach a target, name resolution excluded";
    LOOKUPS_ACTIVE: Kind::Gauge, "lookups_active", [],
        "Name look-ups in progress";
    LOOKUPS: Kind::Counter, "lookups_total", ["outcome"],
        "Name look-ups by outcome (abandoned: the clients left); answers from the cache and the hosts file are not counted";
    PARENT_REQUESTS: Kind::Counter, "parent_requests_total", ["parent", "outcome"],
        "Requests to parent proxies by outcome";
    TUNNEL_DURATION: Kind::Histogram(LONG_SECONDS), "tunnel_duration_seconds", [],
        "Seconds from the 200 to the end of the tunnel";
    BYTES: Kind::Counter, "bytes_total", ["direction", "engine"],
        "Bytes handed to the receiving side's kernel";
    USER_BYTES: Kind::Counter, "user_bytes_total", ["user", "direction"],
        "Bytes passed on, by configured user";
    ENGINE_FALLBACKS: Kind::Counter, "engine_fallbacks_total", ["from", "to", "cause"],
        "Fallbacks from one engine to another";
    AUTH_FAILURES: Kind::Counter, "auth_failures_total", [],
        "Requests with wrong credentials";
    LOOP_MOVES: Kind::Counter, "loop_moves_total", ["engine", "to"],
        "Moves of tunnels to bulk workers, or back to interactive ones";
    TCP_LIMITED: Kind::Counter, "tcp_limited_seconds_total", ["side", "by"],
        "Whole seconds that sending to a side was limited by its window (receiver), the send buffer (gateway), the path (network) or the tunnel's rate limit (rate)";
    SOCKMAP_SECONDS: Kind::Counter, "sockmap_seconds_total", ["by"],
        "Whole seconds that directions of tunnels were redirected by the kernel, or passed on in userspace because the receiver did not keep up";
    SOCKMAP_SPILLED_BYTES: Kind::Gauge, "sockmap_spilled_bytes", [],
        "Bytes that the engine sockmap holds in process memory for receivers that do not keep up; at most four times --sockmap-backlog or 64 MiB";
    PIPE_BYTES: Kind::Gauge, "pipe_bytes", [],
        "Capacity of all the pipes that the engine holds, in use or pooled";
    CERTIFICATE_EXPIRY: Kind::Gauge, "tls_certificate_expiry_timestamp_seconds", [],
        "Unix time until which clients accept the certificate of --tls-cert";
    CONFIG_RELOAD_SUCCESSFUL: Kind::Gauge, "config_last_reload_successful", [],
        "1 if the last reload of all files succeeded, else 0";
    CONFIG_RELOAD_TIME: Kind::Gauge, "config_last_reload_success_timestamp_seconds", [],
        "Unix time of the last successful reload, the start included";
    BUILD_INFO: Kind::Gauge, "build_info", ["version"],
        "Always 1; the version is the label";
}

impl Metric {
    /// The counter with these label values, in the order of [`Metric::labels`].
    pub fn counter(&self, values: &[&str]) -> Counter {
        metrics::counter!(self.name, self.label_values(values))
    }

    /// The gauge with these label values.
    pub fn gauge(&self, values: &[&str]) -> Gauge {
        metrics::gauge!(self.name, self.label_values(values))
    }

    /// The histogram.
    pub fn histogram(&self) -> Histogram {
        metrics::histogram!(self.name)
    }

    fn label_values(&self, values: &[&str]) -> Vec<Label> {
        debug_assert_eq!(self.labels.len(), values.len(), "{}", self.name);
        self.labels.iter().zip(values).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
    }
}

/// Describes each metric to the installed recorder; call it once, after installing.
pub fn describe() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram(_) => metrics::describe_histogram!(metric.name, metric.help),
        }
    }
    BUILD_INFO.gauge(&[env!("CARGO_PKG_VERSION")]).set(1.0);
}

/// The socket with limited sending: a value of the `side` label of [`TCP_LIMITED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedSide {
    /// The client's.
    Client,
    /// The origin's.
    Origin,
}

impl LimitedSide {
    /// Both, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Client, Self::Origin];

    /// The value of the label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Origin => "origin",
        }
    }
}

/// Cause of limited sending: a value of the `by` label of [`TCP_LIMITED`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitedBy {
    /// The peer's receive window was closed (`tcpi_rwnd_limited`).
    Receiver,
    /// The send buffer was full or empty for want of the gateway (`tcpi_sndbuf_limited`).
    Gateway,
    /// Neither: the congestion window, so the network path.
    Network,
    /// The tunnel's rate limit, lower than the estimated capacity of the path.
    Rate,
}

impl LimitedBy {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::Receiver, Self::Gateway, Self::Network, Self::Rate];

    /// The value of the label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Receiver => "receiver",
            Self::Gateway => "gateway",
            Self::Network => "network",
            Self::Rate => "rate",
        }
    }
}

/// Adds time to [`TCP_LIMITED`].
///
/// Counters are whole numbers here, so the rest below a second is kept, for the whole process, for
/// the next call with the same labels: many short tunnels count like one long one.
pub fn tcp_limited(side: LimitedSide, by: LimitedBy, time: Duration) {
    static REST: [[AtomicU64; LimitedBy::ALL.len()]; 2] =
        [const { [const { AtomicU64::new(0) }; LimitedBy::ALL.len()] }; 2];
    let seconds = whole_seconds(&REST[side as usize][by as usize], time);
    if seconds > 0 {
        TCP_LIMITED.counter(&[side.label(), by.label()]).increment(seconds);
    }
}

/// Forwarder of the bytes of a direction of the engine `sockmap`: a value of the `by` label of
/// [`SOCKMAP_SECONDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// The kernel redirects.
    Kernel,
    /// A worker forwards, until the receiver has caught up.
    Userspace,
}

impl Carrier {
    /// Both, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Kernel, Self::Userspace];

    /// The value of the label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Userspace => "userspace",
        }
    }
}

/// Adds time of one direction to [`SOCKMAP_SECONDS`], as [`tcp_limited`] does.
pub fn sockmap_time(by: Carrier, time: Duration) {
    static REST: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
    let seconds = whole_seconds(&REST[by as usize], time);
    if seconds > 0 {
        SOCKMAP_SECONDS.counter(&[by.label()]).increment(seconds);
    }
}

/// Adds `time` to the nanoseconds in `rest`, and takes the whole seconds out.
fn whole_seconds(rest: &AtomicU64, time: Duration) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    let sum = |old: u64| old + u64::from(time.subsec_nanos());
    let old = rest
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(sum(old) % SECOND))
        .unwrap_or_else(|unchanged| unchanged);
    time.as_secs() + sum(old) / SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_fraction_of_a_second_is_lost() {
        let rest = AtomicU64::new(0);
        let counted = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        let seconds = whole_seconds(&rest, Duration::from_millis(1_250));
                        counted.fetch_add(seconds, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!((counted.into_inner(), rest.into_inner()), (5_000, 0));
    }

    #[test]
    fn names_carry_the_prefix_and_end_as_prometheus_wants() {
        for metric in ALL {
            assert!(metric.name.starts_with("sluicegate_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(!metric.help.is_empty(), "{}", metric.name);
        }
    }
}
