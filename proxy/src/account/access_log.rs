//! The access log. Operators parse these lines: a message and the names and meanings of its fields
//! stay as they are.
//!
//! | message | level | fields |
//! |---|---|---|
//! | `refused` | info; warn where the gateway ran out of something; debug if the client never sent a byte of a request | `id` `client` `user` `target` `tls` `upgrade` `parent` `code` `reason` `detail` `to_origin` `to_client` `duration_s` |
//! | `tunnel established` | debug | `id` `client` `user` `target` `tls` `upgrade` `parent` `origin` `engine` `rate` |
//! | `tunnel open` | info, every ten minutes | the same, `to_origin` `to_client` in all, `to_origin_since` `to_client_since` the last line, `age_s` `quiet_s` |
//! | `tunnel closed` | info; debug if it carried no byte and ended cleanly | the same, `outcome` `by` `to_origin` `to_client` `duration_s` `quiet_s` |
//!
//! `id` numbers the connection, from accept on. `code` is the HTTP status of the answer, a number,
//! and absent without an answer. `tls` is the TLS version between client and gateway, `upgrade` the
//! protocols of an `Upgrade` request, `parent` the parent proxy of the tunnel, with its address in
//! `origin`; `rate` is the limit in bytes per second. Counts are bytes, times seconds with up to
//! six decimals; `quiet_s` counts from the last byte sent or acknowledged by a peer. A field
//! without a value is absent. docs/operations.md documents the fields for operators, beside those
//! of ECS and OpenTelemetry.
//!
//! Text chosen by a peer is logged as a string, never by `Display`: the text format quotes and
//! escapes strings, so no user name can pretend to be the next field.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::live::{Live, RequestInfo, seconds};
use super::meters::EXCHANGE;
use super::sanitize::sanitize;
use crate::metrics;
use crate::rate::Rate;
use crate::reason::{Reason, Side};
use crate::tunnel::Direction;

/// Target of the access log in a filter (`sluicegate::access=info`).
const ACCESS: &str = "sluicegate::access";

/// Interval of the log lines of a long tunnel, and the age at its first one.
pub const INTERIM: Duration = Duration::from_secs(600);

impl Live {
    /// Counts and logs the end; a second call does nothing.
    pub(super) fn close(&self, reason: Reason) {
        if self.engine() == EXCHANGE {
            return self.refuse(reason, "");
        }
        if !self.leave() {
            return;
        }
        let now = Instant::now();
        self.engine.outcome(reason).increment(1);
        self.engine.duration.record(now.saturating_duration_since(self.flow.started()));
        closed(self, reason, now);
    }

    /// Counts and logs the end of an exchange without a tunnel; a second call does nothing.
    pub(super) fn refuse(&self, reason: Reason, detail: &str) {
        if self.leave() {
            refused(&Refused {
                id: self.id,
                client: self.client,
                user: self.user().map(|user| &*user.name),
                request: &self.request,
                received_bytes: true,
                moved: Some(self.moved()),
                reason,
                detail,
            });
        }
    }

    /// Writes a line if the last one is [`INTERIM`] ago and the tunnel still lives.
    pub(super) fn interim(&self, now: Instant) {
        let mut logged = self.logged();
        if let Some((at, before)) = *logged
            && now.saturating_duration_since(at) >= INTERIM
        {
            let moved = self.moved();
            open(self, [moved[0] - before[0], moved[1] - before[1]], moved, now);
            *logged = Some((now, moved));
        }
    }
}

macro_rules! tunnel_line {
    ($level:ident, $live:expr, { $($fields:tt)* }, $message:literal) => {
        tracing::event!(
            target: ACCESS,
            tracing::Level::$level,
            id = $live.id,
            client = %$live.client,
            user = $live.user_text().as_deref(),
            target = $live.target_text().as_str(),
            tls = $live.tls(),
            upgrade = $live.upgrade().as_deref(),
            parent = $live.parent(),
            origin = %$live.origin,
            engine = $live.engine(),
            rate = $live.flow.rate().map(Rate::bytes),
            $($fields)*
            $message
        )
    };
}

pub(super) fn established(live: &Live) {
    tunnel_line!(DEBUG, live, {}, "tunnel established");
}

fn open(live: &Live, since: [u64; 2], moved: [u64; 2], now: Instant) {
    tunnel_line!(INFO, live, {
        to_origin = moved[Direction::ToOrigin.index()],
        to_client = moved[Direction::ToClient.index()],
        to_origin_since = since[Direction::ToOrigin.index()],
        to_client_since = since[Direction::ToClient.index()],
        age_s = seconds(now.saturating_duration_since(live.flow.started())),
        quiet_s = seconds(live.quiet(now)),
    }, "tunnel open");
}

fn closed(live: &Live, reason: Reason, now: Instant) {
    macro_rules! line {
        ($level:ident) => {
            tunnel_line!($level, live, {
                outcome = reason.label(),
                by = reason.side().label(),
                to_origin = live.flow.moved(Direction::ToOrigin),
                to_client = live.flow.moved(Direction::ToClient),
                duration_s = seconds(now.saturating_duration_since(live.flow.started())),
                quiet_s = seconds(live.quiet(now)),
            }, "tunnel closed")
        };
    }
    // Volume migrations wait for their target by `nc -z` in a loop.
    let clean_end = matches!(reason, Reason::ClientClosed | Reason::OriginClosed);
    if clean_end && live.moved() == [0, 0] {
        line!(DEBUG);
    } else {
        line!(INFO);
    }
}

/// A connection without a tunnel.
pub(super) struct Refused<'a> {
    pub(super) id: u64,
    pub(super) client: SocketAddr,
    pub(super) user: Option<&'a str>,
    pub(super) request: &'a RequestInfo,
    /// The client sent at least a byte.
    pub(super) received_bytes: bool,
    /// Bytes of its exchange, by [`Direction::index`], where there was one.
    pub(super) moved: Option<[u64; 2]>,
    pub(super) reason: Reason,
    pub(super) detail: &'a str,
}

/// Counts and logs the end of a handshake without a tunnel.
pub(super) fn refused(refused: &Refused<'_>) {
    let &Refused { request, reason, detail, moved, .. } = refused;
    let code = reason.status().map(|status| status.0);
    let label = code.map_or_else(|| "none".to_owned(), |code| code.to_string());
    metrics::CONNECT_REQUESTS.counter(&[&label, reason.label()]).increment(1);
    let target = request.target.as_ref().map(ToString::to_string);
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(
                target: ACCESS,
                tracing::Level::$level,
                id = refused.id,
                client = %refused.client,
                user = refused.user.map(sanitize).as_deref(),
                target = target.as_deref().map(sanitize).as_deref(),
                tls = request.tls,
                upgrade = request.upgrade.as_deref().map(sanitize).as_deref(),
                parent = request.parent.as_deref(),
                code,
                reason = reason.label(),
                detail = Some(detail).filter(|d| !d.is_empty()).map(sanitize).as_deref(),
                to_origin = moved.map(|moved| moved[Direction::ToOrigin.index()]),
                to_client = moved.map(|moved| moved[Direction::ToClient.index()]),
                duration_s = seconds(request.accepted.elapsed()),
                "refused"
            )
        };
    }
    let silent =
        reason == Reason::Silent || reason == Reason::ClientGone && !refused.received_bytes && target.is_none();
    match reason.side() {
        Side::Client if silent => line!(DEBUG),
        Side::Client | Side::Origin | Side::Operator => line!(INFO),
        Side::Gateway => line!(WARN),
    }
}
