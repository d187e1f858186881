//! Series with labels known beforehand.

use super::meters::EXCHANGE;
use crate::metrics;
use crate::reason::Reason;
use crate::tunnel::Direction;

/// Reasons for a missing tunnel without an answer from the gateway.
const UNANSWERED: [Reason; 8] = [
    Reason::Silent,
    Reason::ClientGone,
    Reason::NotProxied,
    Reason::TlsFailed,
    Reason::HandshakeLimit,
    Reason::NotUpgraded,
    Reason::AnswerCut,
    Reason::AnswerTooLong,
];

/// Reasons that end an exchange as they end a tunnel.
const STOPPED: [Reason; 3] = [Reason::Killed, Reason::Expired, Reason::Shutdown];

/// Sets every series with labels known beforehand to zero, so that a rate over the first event is
/// right and a graph of failures shows zero rather than nothing. `engines` are the available ones.
pub fn register_series(engines: &[&str]) {
    metrics::AUTH_FAILURES.counter(&[]).increment(0);
    for code in ["200", "101"] {
        metrics::CONNECT_REQUESTS.counter(&[code, "established"]).increment(0);
    }
    for reason in UNANSWERED.into_iter().chain(STOPPED) {
        metrics::CONNECT_REQUESTS.counter(&["none", reason.label()]).increment(0);
    }
    for reason in Reason::ALL {
        let code = reason.status().map(|status| status.0.to_string());
        match code {
            Some(code) => metrics::CONNECT_REQUESTS.counter(&[&code, reason.label()]).increment(0),
            None if UNANSWERED.contains(reason) => {}
            None => engines.iter().for_each(|engine| {
                metrics::TUNNELS.counter(&[engine, reason.label()]).increment(0);
            }),
        }
    }
    for engine in engines.iter().chain(&[EXCHANGE]) {
        metrics::TUNNELS_ACTIVE.gauge(&[engine]).increment(0.0);
        for direction in Direction::BOTH {
            metrics::BYTES.counter(&[direction.label(), engine]).increment(0);
        }
    }
    for side in metrics::LimitedSide::ALL {
        for by in metrics::LimitedBy::ALL {
            metrics::TCP_LIMITED.counter(&[side.label(), by.label()]).increment(0);
        }
    }
    for by in metrics::Carrier::ALL {
        metrics::SOCKMAP_SECONDS.counter(&[by.label()]).increment(0);
    }
    metrics::SOCKMAP_SPILLED_BYTES.gauge(&[]).increment(0.0);
    // The exporter shows a histogram as soon as it is asked for.
    for metric in [metrics::HANDSHAKE_DURATION, metrics::DIAL_DURATION, metrics::TUNNEL_DURATION] {
        drop(metric.histogram());
    }
}
