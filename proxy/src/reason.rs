//! Why a connection ended: one enum from which the HTTP status, the metric label and the side to
//! blame all follow.
//!
//! Every function here is an exhaustive `match`: a new reason does not compile until somebody has
//! decided what its client is told, how it is counted and whom the log blames.

use std::borrow::Cow;
use std::fmt;

/// Whose doing the end of a connection was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The peer that sent, or should have sent, the CONNECT.
    Client,
    /// The target, or the way to it.
    Origin,
    /// The gateway's own limits, rules or faults.
    Gateway,
    /// Somebody who runs the gateway asked for it.
    Operator,
}

impl Side {
    /// The word that the log uses.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Origin => "origin",
            Self::Gateway => "gateway",
            Self::Operator => "operator",
        }
    }
}

/// The status of an answer, with what the status line needs beside the reason phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $label:literal, $side:ident, $status:expr;)*) => {
        /// Why a connection ended, whether as a refused handshake or as a tunnel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason there is, for tests and for tables.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The value of the `reason` and `outcome` labels, and the word in the log.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Whose doing it was.
            #[must_use]
            pub const fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }

            /// The answer that a client gets, or `None` where there is nobody to answer or the
            /// tunnel already stands: from then on a reason can only be logged.
            #[must_use]
            pub const fn status(self) -> Option<Status> {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

const fn answer(code: u16) -> Option<Status> {
    Some(Status(code))
}

const NO_ANSWER: Option<Status> = None;

reasons! {
    // --- before the 200 ---
    /// The head is not HTTP/1.x, or a line of it breaks the grammar (RFC 9112).
    Malformed => "malformed", Client, answer(400);
    /// The request target of a CONNECT is not `host:port` (RFC 9112, 3.2.3).
    BadTarget => "bad_target", Client, answer(400);
    /// The HTTP/2 preface instead of a request (RFC 9113, 3.4).
    Http2 => "http2", Client, answer(400);
    /// A TLS record instead of a request: the client took this for an https proxy.
    Tls => "tls", Client, answer(400);
    /// A PROXY protocol header from a source that `--proxy-protocol-from` does not list, or a second one.
    ProxyHeader => "proxy_header", Client, answer(400);
    /// A SOCKS request instead of HTTP.
    Socks => "socks", Client, answer(400);
    /// HTTP in the clear at an address of `--listen-tls`.
    PlainHttp => "plain_http", Client, answer(400);
    /// The head is longer, or has more lines, than the gateway reads.
    HeadTooLarge => "head_too_large", Client, answer(431);
    /// The head did not arrive within `--handshake-timeout`.
    HandshakeTimeout => "handshake_timeout", Client, answer(408);
    /// Content behind a request to switch protocols beyond what is carried there (RFC 9110, 15.5.14).
    ContentTooLarge => "content_too_large", Client, answer(413);
    /// Not a byte of a request arrived within `--handshake-timeout`, as from a pool that connects ahead of need.
    Silent => "silent", Client, NO_ANSWER;
    /// The client left before its request was complete or answered.
    ClientGone => "client_gone", Client, NO_ANSWER;
    /// No PROXY protocol header, from a network of `--proxy-protocol-from`.
    NotProxied => "not_proxied", Client, NO_ANSWER;
    /// No TLS could be agreed on, at an address of `--listen-tls`.
    TlsFailed => "tls_failed", Client, NO_ANSWER;
    /// A method other than CONNECT.
    NotConnect => "not_connect", Client, answer(405);
    /// No credentials where they are needed.
    AuthRequired => "auth_required", Client, answer(407);
    /// Credentials that are wrong or cannot be read.
    AuthFailed => "auth_failed", Client, answer(407);
    /// Too many unverified credentials wait to be hashed, or these have waited for too long.
    AuthBusy => "auth_busy", Client, answer(503);
    /// The user's time is over.
    UserExpired => "user_expired", Client, answer(403);
    /// The user may not come from that address.
    UserSource => "user_source", Client, answer(403);
    /// A rule, or the absence of one, forbids the target.
    Denied => "denied", Client, answer(403);
    /// The name has no address.
    ResolveFailed => "resolve_failed", Origin, answer(502);
    /// The resolver did not answer in time.
    ResolveTimeout => "resolve_timeout", Origin, answer(504);
    /// The user, or the source without a user, has its share of name look-ups in progress.
    LookupLimit => "lookup_limit", Gateway, answer(503);
    /// The target refused the connection.
    ConnectRefused => "connect_refused", Origin, answer(502);
    /// No route to the target, or it was cut off while being dialled.
    Unreachable => "unreachable", Origin, answer(502);
    /// No address of the target answered within `--dial-timeout`.
    ConnectTimeout => "connect_timeout", Origin, answer(504);
    /// What the origin answered to an Upgrade, or a parent proxy to a CONNECT, is no answer, could be read in two ways, or
    /// never came to its end.
    BadAnswer => "bad_answer", Origin, answer(502);
    /// The origin did not take the request to upgrade, or not answer it, within `--handshake-timeout`.
    AnswerTimeout => "answer_timeout", Origin, answer(504);
    /// The origin answered an Upgrade with something other than a 101, which the client was given.
    NotUpgraded => "not_upgraded", Origin, NO_ANSWER;
    /// Such an answer broke off, and the client was reset.
    AnswerCut => "answer_cut", Origin, NO_ANSWER;
    /// Such an answer had more content than is passed on, and the client was reset.
    AnswerTooLong => "answer_too_long", Origin, NO_ANSWER;
    /// The parent proxy answered with something other than a 2xx.
    ParentRefused => "parent_refused", Origin, answer(502);
    /// No TLS could be agreed on with the parent proxy, or it is not who it has to be.
    ParentTls => "parent_tls", Origin, answer(502);
    /// The parent proxy did not answer within three times `--dial-timeout`.
    ParentTimeout => "parent_timeout", Origin, answer(504);
    /// The request has come through this gateway before (RFC 9110, 7.6.3).
    Loop => "loop", Client, answer(508);
    /// `--max-tunnels` are open.
    TunnelLimit => "tunnel_limit", Gateway, answer(503);
    /// As many of the user are open as `--max-tunnels-per-user` or his own terms allow.
    UserLimit => "user_limit", Gateway, answer(503);
    /// `--max-tunnels-per-source` are open.
    SourceLimit => "source_limit", Gateway, answer(503);
    /// It had to make room for another connection: more had no tunnel yet than there are descriptors
    /// for, and of its source the most.
    HandshakeLimit => "handshake_limit", Client, NO_ANSWER;
    /// As many connections of the user are being opened as `--max-dials-per-user` allows.
    DialLimit => "dial_limit", Gateway, answer(503);
    /// The gateway lacks descriptors, ports or memory for another connection.
    Exhausted => "exhausted", Gateway, answer(503);

    // --- after the 200 ---
    /// Both directions ended by FIN, the client's first.
    ClientClosed => "client_closed", Client, NO_ANSWER;
    /// Both directions ended by FIN, the origin's first.
    OriginClosed => "origin_closed", Origin, NO_ANSWER;
    /// The client reset its connection.
    ClientReset => "client_reset", Client, NO_ANSWER;
    /// The origin reset its connection.
    OriginReset => "origin_reset", Origin, NO_ANSWER;
    /// The client vanished: keepalive or `TCP_USER_TIMEOUT` gave it up.
    ClientLost => "client_lost", Client, NO_ANSWER;
    /// The origin vanished: keepalive or `TCP_USER_TIMEOUT` gave it up.
    OriginLost => "origin_lost", Origin, NO_ANSWER;
    /// No byte either way for `--idle-timeout`.
    Idle => "idle", Gateway, NO_ANSWER;
    /// `sluicegate kill`, or a DELETE over the control socket.
    Killed => "killed", Operator, NO_ANSWER;
    /// The time of its user was over, and the configuration says that his tunnels end then.
    Expired => "expired", Operator, NO_ANSWER;
    /// The gateway stopped while the tunnel was open.
    Shutdown => "shutdown", Operator, NO_ANSWER;
    /// The kernel refused a system call that the engine cannot do without, or did not pass the streams on whole.
    EngineFailed => "engine_failed", Gateway, NO_ANSWER;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A handshake that comes to nothing: the reason, and the words that name the rule, flag or limit
/// behind it.
///
/// The words go into the reason phrase of the answer and into the log, because stunnel prints the
/// status line and nothing else of an answer; so they must hold nothing secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is counted and answered as.
    pub reason: Reason,
    /// What it is explained as, in a few words without a full stop.
    pub detail: Cow<'static, str>,
}

impl Refusal {
    /// A refusal with its explanation.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.detail, self.reason)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn labels_are_distinct_and_fit_prometheus() {
        let labels: HashSet<_> = Reason::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        assert!(labels.iter().all(|l| l.bytes().all(|b| b == b'_' || b.is_ascii_lowercase() || b.is_ascii_digit())));
    }

    #[test]
    fn every_answer_is_a_refusal() {
        for status in Reason::ALL.iter().filter_map(|r| r.status()) {
            assert!((400..600).contains(&status.0), "{status:?}");
        }
    }
}
