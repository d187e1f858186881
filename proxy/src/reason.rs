//! The reason for the end of a connection: one enum for the HTTP status, the metric label, the
//! responsible side and the row in docs/troubleshooting.md.
//!
//! Every function here is an exhaustive `match`: a new reason does not compile without its answer,
//! its label, its side, its meaning and its remedy.

use std::borrow::Cow;
use std::fmt;

/// The side responsible for the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The sender, or expected sender, of the CONNECT.
    Client,
    /// The target, or the way to it.
    Origin,
    /// The gateway's own limits, rules or faults.
    Gateway,
    /// An operator of the gateway requested it.
    Operator,
}

impl Side {
    /// Returns the word for the log.
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

/// The status code of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

impl Status {
    /// Returns the registered reason phrase (RFC 9110, 15; RFC 6585; RFC 5842, 7.2); `Refused` for
    /// codes without a reason here.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self.0 {
            400 => "Bad Request",
            403 => "Forbidden",
            405 => "Method Not Allowed",
            407 => "Proxy Authentication Required",
            408 => "Request Timeout",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            502 => "Bad Gateway",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            508 => "Loop Detected",
            _ => "Refused",
        }
    }
}

/// The end of a connection as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientSees {
    /// An answer with this status, and the cause in its reason phrase.
    Answer(Status),
    /// An event without an answer of the gateway, in a few words.
    Event(&'static str),
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident => $label:literal, $side:ident, $sees:expr, $remedy:literal;)*) => {
        /// Why a connection ended, whether as a refused handshake or as a tunnel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        impl Reason {
            /// Every reason there is, for tests and for tables.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The value of the `reason` and `outcome` labels, and the word in the log.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// Returns the responsible side.
            #[must_use]
            pub const fn side(self) -> Side {
                match self { $(Self::$name => Side::$side,)* }
            }

            /// The end as the client sees it.
            #[must_use]
            pub const fn client_sees(self) -> ClientSees {
                match self { $(Self::$name => $sees,)* }
            }

            /// The meaning, as a sentence or two of Markdown: the documentation of the variant.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),*).trim_start(),)* }
            }

            /// The remedy, as a sentence or two of Markdown.
            #[must_use]
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$name => $remedy,)* }
            }
        }
    };
}

impl Reason {
    /// Returns the answer of the gateway; `None` without a client to answer, or after the tunnel is
    /// established: from then on a reason can only be logged.
    #[must_use]
    pub const fn status(self) -> Option<Status> {
        match self.client_sees() {
            ClientSees::Answer(status) => Some(status),
            ClientSees::Event(_) => None,
        }
    }
}

const fn answer(code: u16) -> ClientSees {
    ClientSees::Answer(Status(code))
}

const fn event(words: &'static str) -> ClientSees {
    ClientSees::Event(words)
}

const CLOSED: ClientSees = event("the connection closes without an answer");
const LEFT: ClientSees = event("nothing: the client left first");
const CLEAN_END: ClientSees = event("a clean end (FIN)");
const RESET: ClientSees = event("a reset");

reasons! {
    // --- before the 200 ---
    /// The request head is not HTTP/1.x, or a line of it breaks the grammar (RFC 9112).
    Malformed => "malformed", Client, answer(400),
        "Read the reason phrase: it names the fault, or the protocol that was spoken (SSH and others). Point HTTP \
         proxy clients at this port, and nothing else.";
    /// The target of a CONNECT is not `host:port` (RFC 9112, 3.2.3).
    BadTarget => "bad_target", Client, answer(400),
        "Write the target as `host:port`, an IPv6 address in brackets.";
    /// The client speaks HTTP/2 (RFC 9113, 3.4).
    Http2 => "http2", Client, answer(400),
        "Have the client use HTTP/1.1 with the proxy.";
    /// The client speaks TLS on a plain port: its proxy URL begins with `https://`.
    Tls => "tls", Client, answer(400),
        "Write `http://` in the proxy URL, or accept TLS with `--listen-tls`.";
    /// A PROXY protocol header from an address that `--proxy-protocol-from` does not list, or a
    /// second header.
    ProxyHeader => "proxy_header", Client, answer(400),
        "List the load balancer in `--proxy-protocol-from`, or turn the header off there.";
    /// The client speaks SOCKS.
    Socks => "socks", Client, answer(400),
        "Write `http://` in the proxy URL.";
    /// Plain HTTP on a port of `--listen-tls`.
    PlainHttp => "plain_http", Client, answer(400),
        "Write `https://` in the proxy URL, or use a port of `--listen`.";
    /// The request head has more than 16 KiB or 64 header lines.
    HeadTooLarge => "head_too_large", Client, answer(431),
        "Have the client send fewer header lines; these limits are fixed.";
    /// The request head was not complete within `--handshake-timeout`.
    HandshakeTimeout => "handshake_timeout", Client, answer(408),
        "Look for loss on the way to the client; on slow paths raise `--handshake-timeout`.";
    /// An Upgrade request with more than 1 MiB of content (RFC 9110, 15.5.14).
    ContentTooLarge => "content_too_large", Client, answer(413),
        "Have the client use CONNECT, which has no such limit.";
    /// No byte of a request arrived within `--handshake-timeout`, as from a client that opens
    /// connections in advance. Logged at debug.
    Silent => "silent", Client, CLOSED,
        "Nothing, unless a client complains.";
    /// The client left before its request was complete or answered.
    ClientGone => "client_gone", Client, LEFT,
        "Nothing, if it is rare. Otherwise compare `duration_s` with the client's time-out: names or targets may be \
         slow to answer.";
    /// No PROXY protocol header, or a malformed one, from a network of `--proxy-protocol-from`.
    NotProxied => "not_proxied", Client, CLOSED,
        "Turn the header on in the load balancer, or take its network out of the option.";
    /// The TLS handshake failed on a port of `--listen-tls`.
    TlsFailed => "tls_failed", Client, event("a TLS alert, or the connection closes"),
        "Read `detail`. As a rule the client does not trust the certificate, or its proxy URL has a name that the \
         certificate lacks.";
    /// A method other than CONNECT, and no Upgrade request that can be served.
    NotConnect => "not_connect", Client, answer(405),
        "Have the client tunnel: `curl --proxytunnel`, a proxy for https. Metrics are on `--admin`.";
    /// No credentials, and the gateway has users.
    AuthRequired => "auth_required", Client, answer(407),
        "Put `user:password@` into the proxy URL, special characters percent-encoded, or list the client's network in \
         `--no-auth-from`.";
    /// The user name or password is wrong, or the header is unreadable.
    AuthFailed => "auth_failed", Client, answer(407),
        "The log line has `user` only if that name is configured: otherwise correct the name. `sluicegate check` names bad \
         lines of the users file. In a URL write `@`, `:`, `/` and `%` of a password percent-encoded.";
    /// Too many passwords wait to be verified, or this one has waited for 20 s.
    AuthBusy => "auth_busy", Client, answer(503),
        "Look in the log for a source of many `auth_failed`; otherwise give the gateway more cores, or lower the cost \
         of the hashes.";
    /// The user's `expires` has passed.
    UserExpired => "user_expired", Client, answer(403),
        "Set a later `expires` in the user's section, or remove the user.";
    /// The user's `from` does not list the client's address.
    UserSource => "user_source", Client, answer(403),
        "Add the network to `from` in the user's section. Behind a load balancer use `--proxy-protocol-from`.";
    /// A rule forbids the target, or no rule permits it.
    Denied => "denied", Client, answer(403),
        "The reason phrase names the rule; `sluicegate explain HOST:PORT` shows every address and rule. Add an \
         `--allow` rule.";
    /// The name has no address.
    ResolveFailed => "resolve_failed", Origin, answer(502),
        "Look the name up on the gateway's host. Names are absolute: see `--search-domain` and `--resolver`.";
    /// The name servers did not answer in time.
    ResolveTimeout => "resolve_timeout", Origin, answer(504),
        "Query each name server of `/etc/resolv.conf` from the gateway's host.";
    /// `--max-lookups-per-user` name look-ups of the user, or of the client address, are in
    /// progress.
    LookupLimit => "lookup_limit", Gateway, answer(503),
        "Find out why these names are slow, or raise `--max-lookups-per-user`.";
    /// The target refused the connection.
    ConnectRefused => "connect_refused", Origin, answer(502),
        "Check that something listens on that port of the target.";
    /// No route to the target, or the connection broke while it was opened.
    Unreachable => "unreachable", Origin, answer(502),
        "Check routes and firewalls from the gateway's host, and `--source`.";
    /// No address of the target answered within `--dial-timeout`.
    ConnectTimeout => "connect_timeout", Origin, answer(504),
        "As a rule a firewall drops the packets: permit the gateway's address there.";
    /// The answer of an origin to an Upgrade, or of a parent proxy to a CONNECT, is not HTTP, is
    /// ambiguous, or is incomplete.
    BadAnswer => "bad_answer", Origin, answer(502),
        "Check that the port is the right one; the reason phrase says what is wrong with the answer.";
    /// The origin did not answer an Upgrade within `--handshake-timeout`.
    AnswerTimeout => "answer_timeout", Origin, answer(504),
        "Look at the origin; raise `--handshake-timeout` if it is only slow.";
    /// The origin answered an Upgrade with something other than 101.
    NotUpgraded => "not_upgraded", Origin, event("the origin's own answer"),
        "Read the answer: the origin, not the gateway, declined.";
    /// The origin's ordinary answer to an Upgrade broke off.
    AnswerCut => "answer_cut", Origin, RESET,
        "Look at the origin.";
    /// The origin's ordinary answer to an Upgrade has more than 1 MiB of content.
    AnswerTooLong => "answer_too_long", Origin, event("the answer's beginning, then a reset"),
        "Use CONNECT, which has no such limit.";
    /// The parent proxy answered with something other than 2xx.
    ParentRefused => "parent_refused", Origin, answer(502),
        "The reason phrase holds the parent's status. A 407: check the credentials in `--parent`. A 403: have the \
         parent permit the target.";
    /// The TLS handshake with the parent proxy failed, or its certificate is not trusted.
    ParentTls => "parent_tls", Origin, answer(502),
        "Set `--parent-ca` to the CA of the parent, and use the name of its certificate in `--parent`.";
    /// The parent proxy did not answer within three times `--dial-timeout`.
    ParentTimeout => "parent_timeout", Origin, answer(504),
        "Look at the parent: it may be waiting for the target itself.";
    /// The request has passed through this gateway before (RFC 9110, 7.6.3).
    Loop => "loop", Client, answer(508),
        "A parent, or the target, leads back here: make its rule narrower, or add `--parent 'direct for ...'`.";
    /// `--max-tunnels` are open.
    TunnelLimit => "tunnel_limit", Gateway, answer(503),
        "Raise `--max-tunnels`, and the descriptor limit with it.";
    /// `--max-tunnels-per-user`, or the `max-tunnels` of the user's section, are open.
    UserLimit => "user_limit", Gateway, answer(503),
        "Raise that limit; `sluicegate tunnels` lists what is open.";
    /// `--max-tunnels-per-source` are open.
    SourceLimit => "source_limit", Gateway, answer(503),
        "Raise that limit. Behind a load balancer use `--proxy-protocol-from`: otherwise all clients share its address.";
    /// Descriptors for connections without a tunnel are used up, and this one, the longest silent
    /// of the source with the most, made room.
    HandshakeLimit => "handshake_limit", Client, CLOSED,
        "Find the source that opens connections and sends nothing; raise the descriptor limit.";
    /// `--max-dials-per-user` connections of the user are being opened, and none became free in
    /// time.
    DialLimit => "dial_limit", Gateway, answer(503),
        "Find out why targets are slow to answer, or raise `--max-dials-per-user`.";
    /// Descriptors, ports or memory are used up.
    Exhausted => "exhausted", Gateway, answer(503),
        "Run `sluicegate doctor`; the reason phrase names what is missing.";

    // --- after the 200 ---
    /// Both directions ended by FIN, the client's first.
    ClientClosed => "client_closed", Client, CLEAN_END,
        "Nothing: this is how a tunnel ends.";
    /// Both directions ended by FIN, the origin's first.
    OriginClosed => "origin_closed", Origin, CLEAN_END,
        "Nothing: this is how a tunnel ends.";
    /// The client reset its connection.
    ClientReset => "client_reset", Client, LEFT,
        "Read the client's log. Programs that exit with unread data reset: harmless after a complete transfer.";
    /// The origin reset its connection.
    OriginReset => "origin_reset", Origin, RESET,
        "Read the target's log, and look for a time-out on the way, of which `quiet_s` is the length.";
    /// The client no longer answers: keepalive or `--user-timeout` gave it up.
    ClientLost => "client_lost", Client, event("a reset, if it is still there"),
        "Look for a crashed client, or a firewall that forgot the connection.";
    /// The origin no longer answers: keepalive or `--user-timeout` gave it up.
    OriginLost => "origin_lost", Origin, RESET,
        "Look for a crashed target, or a firewall that forgot the connection.";
    /// No peer sent or acknowledged a byte for `--idle-timeout`.
    Idle => "idle", Gateway, RESET,
        "Raise `--idle-timeout`, or leave it out: rsync is silent for many minutes while it computes checksums.";
    /// An operator ended the tunnel: `sluicegate kill`, or a DELETE over the control socket.
    Killed => "killed", Operator, RESET,
        "Ask the operator.";
    /// The user's `expires` has passed, and `on-expiry` is `end`.
    Expired => "expired", Operator, RESET,
        "Set a later `expires`, or `on-expiry = \"stay\"`.";
    /// The gateway stopped while the tunnel was open: a second SIGTERM, or `--drain-timeout`.
    Shutdown => "shutdown", Operator, RESET,
        "Wait for the tunnels: `sluicegate drain --wait`, and a `--drain-timeout` that is long enough.";
    /// A system call that the engine needs failed, or the kernel lost data of the stream.
    EngineFailed => "engine_failed", Gateway, RESET,
        "Look for a warning in the log just before, run `sluicegate doctor`, and try `--engine splice` or `copy`.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A failed handshake: the reason, and a text naming the rule, flag or limit behind it.
///
/// The text goes into the reason phrase of the answer and into the log, because stunnel prints the
/// status line and nothing else of an answer; so it must contain no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason for metrics and the answer.
    pub reason: Reason,
    /// The explanation, in a few words without a full stop.
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
    fn every_reason_has_a_meaning_and_a_remedy_in_a_sentence() {
        for &reason in Reason::ALL {
            for text in [reason.meaning(), reason.remedy()] {
                assert!(text.ends_with('.') && text.len() < 240 && !text.contains(['\n', '|']), "{reason}: {text:?}");
                assert!(!text.contains("  ") && text.trim() == text, "{reason}: {text:?}");
            }
        }
        let long = Reason::BadAnswer.meaning();
        assert!(long.starts_with("The answer of an origin") && long.ends_with("or is incomplete."), "{long}");
    }

    #[test]
    fn every_answer_has_a_title() {
        assert!(Reason::ALL.iter().filter_map(|r| r.status()).all(|status| status.title() != "Refused"));
        assert_eq!(Reason::Denied.status().unwrap().title(), "Forbidden");
    }

    #[test]
    fn every_answer_is_a_refusal() {
        for status in Reason::ALL.iter().filter_map(|r| r.status()) {
            assert!((400..600).contains(&status.0), "{status:?}");
        }
    }
}
