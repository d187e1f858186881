//! Each reason for a refusal once: request bytes in, then the complete status line, one more in the
//! metric, and a log line with equal reason and message.

use std::collections::HashSet;

use sluicegate::metrics::{AUTH_FAILURES, CONNECT_REQUESTS};
use sluicegate::reason::Reason;

use super::refused::{Refused, check_with};
use super::{scenes, upgrade};
use crate::support::{Setup, client};

const USER: &str = "alice:s3cret";

/// Refusals determined by the bytes alone, at a gateway with one user and `--allow 127.0.0.0/8:*`.
const BY_BYTES: &[(Reason, &str, &str)] = &[
    (Reason::Malformed, "EHLO\0", "400 Bad Request: not an HTTP request"),
    (Reason::Malformed, "SSH-2.0-OpenSSH_9.2p1\r\n", "400 Bad Request: SSH instead of an HTTP request"),
    (
        Reason::Malformed,
        "GET http://h/ HTTP/1.1\nConnection: Upgrade\nUpgrade: x\n\n",
        "400 Bad Request: a line of the head ends in LF without CR",
    ),
    (
        Reason::Malformed,
        "CONNECT h:443 HTTP/2.0\r\n\r\n",
        "400 Bad Request: the version in the request line is not HTTP/1.x; use HTTP/1.1",
    ),
    (
        Reason::ProxyHeader,
        "PROXY TCP4 203.0.113.9 198.51.100.1 40000 3128\r\nCONNECT h:443 HTTP/1.1\r\n\r\n",
        "400 Bad Request: unexpected PROXY protocol header; --proxy-protocol-from lists who may send one",
    ),
    (
        Reason::ProxyHeader,
        "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
        "400 Bad Request: unexpected PROXY protocol header; --proxy-protocol-from lists who may send one",
    ),
    (Reason::Socks, "\x05\x01\0", "400 Bad Request: SOCKS is not spoken here; use http:// in the proxy URL"),
    (
        Reason::Socks,
        "\x04\x01\x01\x3b\x7f\0\0\x01user\0",
        "400 Bad Request: SOCKS is not spoken here; use http:// in the proxy URL",
    ),
    (
        Reason::NotConnect,
        "GET wss://127.0.0.1/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "405 Method Not Allowed: no TLS is spoken to an origin here; use CONNECT for wss://",
    ),
    (
        Reason::NotConnect,
        "GET http://127.0.0.1/ HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: \
         AAMAAABk\r\n\r\n",
        "405 Method Not Allowed: h2c is not carried by Upgrade; use CONNECT for HTTP/2",
    ),
    (
        Reason::ContentTooLarge,
        "POST http://127.0.0.1/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: \
         18446744073709551615\r\n\r\n",
        "413 Content Too Large: the content of an Upgrade is longer than 1048576 bytes; use CONNECT",
    ),
    (
        Reason::BadTarget,
        "CONNECT h HTTP/1.1\r\n\r\n",
        "400 Bad Request: the target has no port; CONNECT takes host:port",
    ),
    (
        Reason::Http2,
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "400 Bad Request: HTTP/2 is not spoken here; use CONNECT over HTTP/1.1",
    ),
    (
        Reason::Tls,
        "\x16\x03\x01\x02\0\x01\0\x01\u{7f}\x03\x03",
        "400 Bad Request: TLS on a plain port; use http:// not https:// in the proxy URL",
    ),
    (
        Reason::NotConnect,
        "GET http://127.0.0.1/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "405 Method Not Allowed: only CONNECT and Upgrade are served here; metrics are on the admin address",
    ),
    (
        Reason::NotConnect,
        "GET https://127.0.0.1/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "405 Method Not Allowed: no TLS is spoken to an origin here; use CONNECT for https://",
    ),
    (
        Reason::Malformed,
        "POST http://127.0.0.1/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 1\r\nTransfer-Encoding: \
         chunked\r\n\r\n",
        "400 Bad Request: both Content-Length and Transfer-Encoding",
    ),
    (
        Reason::AuthRequired,
        "GET http://127.0.0.1/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "407 Proxy Authentication Required: proxy credentials are needed",
    ),
    (
        Reason::Denied,
        "GET http://192.0.2.1/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nProxy-Authorization: Basic \
         YWxpY2U6czNjcmV0\r\n\r\n",
        "403 Forbidden: no --allow rule matches 192.0.2.1:80",
    ),
    (
        Reason::AuthRequired,
        "CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n",
        "407 Proxy Authentication Required: proxy credentials are needed",
    ),
    (
        Reason::AuthFailed,
        "CONNECT 127.0.0.1:443 HTTP/1.1\r\nProxy-Authorization: Basic YWxpY2U6d3Jvbmc=\r\n\r\n",
        "407 Proxy Authentication Required: wrong user name or password",
    ),
    (
        Reason::Denied,
        "CONNECT 192.0.2.1:443 HTTP/1.1\r\nProxy-Authorization: Basic YWxpY2U6czNjcmV0\r\n\r\n",
        "403 Forbidden: no --allow rule matches 192.0.2.1:443",
    ),
    (
        Reason::Unreachable,
        "CONNECT 127.255.255.255:443 HTTP/1.1\r\nProxy-Authorization: Basic YWxpY2U6czNjcmV0\r\n\r\n",
        "502 Bad Gateway: 127.255.255.255:443 is unreachable: Network is unreachable (os error 101)",
    ),
];

/// The other reasons, each with a scene to provoke it and check it with [`super::refused::check`].
const BY_SCENE: &[(Reason, fn())] = &[
    (Reason::HeadTooLarge, scenes::head_too_large),
    (Reason::HandshakeTimeout, scenes::handshake_timeout),
    (Reason::PlainHttp, scenes::plain_http),
    (Reason::AuthBusy, scenes::auth_busy),
    (Reason::ResolveFailed, scenes::resolve_failed),
    (Reason::ResolveTimeout, scenes::resolve_timeout),
    (Reason::LookupLimit, scenes::lookup_limit),
    (Reason::ConnectRefused, scenes::connect_refused),
    (Reason::ConnectTimeout, scenes::connect_timeout),
    (Reason::BadAnswer, upgrade::bad_answer),
    (Reason::AnswerTimeout, upgrade::answer_timeout),
    (Reason::ParentRefused, scenes::parent_refused),
    (Reason::ParentTls, scenes::parent_tls),
    (Reason::ParentTimeout, scenes::parent_timeout),
    (Reason::Loop, scenes::comes_back),
    (Reason::UserExpired, scenes::user_expired),
    (Reason::UserSource, scenes::user_source),
    (Reason::TunnelLimit, scenes::tunnel_limit),
    (Reason::UserLimit, scenes::user_limit),
    (Reason::SourceLimit, scenes::source_limit),
    (Reason::DialLimit, scenes::dial_limit),
    (Reason::Exhausted, scenes::exhausted),
];

#[test]
fn every_answer_has_a_test() {
    let tested: HashSet<_> = BY_BYTES.iter().map(|row| row.0).chain(BY_SCENE.iter().map(|row| row.0)).collect();
    for reason in Reason::ALL.iter().filter(|reason| reason.status().is_some()) {
        assert!(tested.contains(reason), "no test brings about {reason}");
    }
}

#[test]
fn refusals_by_bytes() {
    let gateway = Setup::new(&[]).user(USER).start();
    for &(reason, bytes, line) in BY_BYTES {
        let before = gateway.metric(&CONNECT_REQUESTS, &["", reason.label()]);
        let (from, answer) = client::ask(gateway.address, bytes.as_bytes());
        check_with(&gateway, reason, line, &Refused { from, answer }, before + 1);
    }
    assert_eq!(gateway.metric(&AUTH_FAILURES, &[]), 1);
}

#[test]
fn refusals_by_scene() {
    // All scenes run, so one run reports every failure.
    let failed: Vec<_> = BY_SCENE.iter().filter_map(|(reason, scene)| Some((reason, failure(*scene)?))).collect();
    let list: String = failed.iter().map(|(reason, why)| format!("\n{reason}: {why}")).collect();
    assert!(failed.is_empty(), "{} of {} scenes failed:{list}", failed.len(), BY_SCENE.len());
}

/// Message of a scene's panic; `None` if it returns.
fn failure(scene: fn()) -> Option<String> {
    let panic = std::panic::catch_unwind(scene).err()?;
    let words = panic.downcast_ref::<String>().cloned();
    Some(words.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

#[test]
fn a_scene_that_fails_tells_why() {
    assert_eq!(failure(|| {}), None);
    assert_eq!(failure(|| panic!("not {}", "200")), Some("not 200".to_owned()));
}
