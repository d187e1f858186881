//! A refused request, and the check of its answer, its metric and its log line.

use std::net::SocketAddr;

use sluicegate::metrics::CONNECT_REQUESTS;
use sluicegate::reason::Reason;

use crate::support::Gateway;

/// Outcome of one refused request.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) from: SocketAddr,
    pub(super) answer: String,
}

/// Checks the only refusal with this reason at this gateway.
pub(super) fn check(gateway: &Gateway, reason: Reason, line: &str, refused: &Refused) {
    check_with(gateway, reason, line, refused, 1);
}

pub(super) fn check_with(gateway: &Gateway, reason: Reason, line: &str, refused: &Refused, count: u64) {
    let (head, body) = refused.answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reason}: {refused:?}"));
    let mut lines = head.split("\r\n");
    assert_eq!(lines.next(), Some(format!("HTTP/1.1 {line}").as_str()), "{reason}");
    let code = reason.status().expect("a reason with an answer").0.to_string();
    let (title, words) = line.split_once(": ").expect("words behind the title");
    assert!(title.starts_with(&code), "{reason}");
    assert_eq!(lines.collect::<Vec<_>>().join("\n"), headers(reason, body.len()), "{reason}");
    assert_eq!(body, format!("{words}\n"), "{reason}");
    assert_eq!(gateway.metric(&CONNECT_REQUESTS, &[&code, reason.label()]), count, "{reason}");

    let log = gateway.refusal_line(refused.from);
    assert_eq!((log.text("reason"), log.text("detail")), (reason.label(), words));
    assert!(log.code() == code && log.number("id") > 0, "{}", log.raw);
    let level = if reason.side() == sluicegate::reason::Side::Gateway { "WARN" } else { "INFO" };
    assert_eq!(log.level(), level, "{}", log.raw);
}

/// The exact header lines of an answer.
fn headers(reason: Reason, length: usize) -> String {
    let own = match reason.status().map(|status| status.0) {
        Some(407) => "Proxy-Authenticate: Basic realm=\"sluicegate\", charset=\"UTF-8\"\n",
        Some(405) => "Allow: CONNECT\n",
        Some(503) => "Retry-After: 5\n",
        _ => "",
    };
    format!("{own}Content-Type: text/plain\nContent-Length: {length}\nConnection: close")
}
