//! A request to the origin to switch protocols (RFC 9110, 7.8), in absolute-form as sent to a proxy
//! (RFC 9112, 3.2.2), and the head forwarded to the origin.
//!
//! Kubernetes clients use it to run commands in pods (`Upgrade: SPDY/3.1`, or `websocket`). Most of
//! them ask a proxy for a tunnel to the API server and upgrade within. The others are told `Upgrade
//! request required` by the server if any proxy on the path drops the header.
//!
//! - *Host* is copied from the request line; the client's own Host has no effect (RFC 9112, 3.2.2).
//! - *Headers* for one hop alone, or for a proxy, are removed
//!   ([`crate::message::append_forwarded`]); `Connection` and `Upgrade` are written anew. All
//!   others keep their order, and lines of one name stay lines.
//! - *h2c* is removed from `Upgrade`, as is `HTTP2-Settings` from the headers, needed for h2c (RFC
//!   7540, 3.2.1; RFC 9113, 3.1, has abolished both): a server that accepted it would speak HTTP/2
//!   to a client that announced its settings to the gateway alone.
//! - *Content* is announced in one form or not at all. With both a length and chunks, two lengths,
//!   or another coding, two readers find two ends (RFC 9112, 6.3 and 11.2).

use super::head::{Version, bad_target, only, refuse};
use crate::message::{Content, Framing, MAX_CONTENT_BYTES, VIA, all, append, append_forwarded, elements, elements_of};
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;
use crate::target::Target;

/// Default port of a URL.
const HTTP: u16 = 80;

/// A request to switch protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Head for the origin, in origin-form. It may hold the client's credentials for the origin.
    pub head: Secret,
    /// Content after the head.
    pub content: Content,
    /// The answer has no content, regardless of its headers (RFC 9110, 9.3.2).
    pub is_head: bool,
    /// Requested protocols, the client's first choice first, separated by commas.
    pub protocols: String,
}

/// Reads a grammatical head of another method than CONNECT.
pub(super) fn read(head: &httparse::Request<'_, '_>, version: Version) -> Result<(Target, Upgrade), Refusal> {
    const OTHER: &str = "only CONNECT and Upgrade are served here; metrics are on the admin address";
    let (method, url) = (head.method.unwrap_or_default(), head.path.unwrap_or_default());
    let asks = elements(head.headers, "Connection").any(|option| option.eq_ignore_ascii_case(b"upgrade"));
    let upgrades = elements(head.headers, "Upgrade").next().is_some();
    // In HTTP/1.0 it is to be ignored (RFC 9110, 7.8).
    let asks = asks && upgrades && version == Version::Http11;
    let Some((scheme, rest)) = url.split_once("://").filter(|_| asks) else {
        return refuse(Reason::NotConnect, OTHER);
    };
    match scheme.to_ascii_lowercase().as_str() {
        // curl before 8.21 asks a proxy for a WebSocket by its own scheme; it is HTTP on the same
        // port (RFC 6455, 3).
        "http" | "ws" => {}
        "https" => return refuse(Reason::NotConnect, "no TLS is spoken to an origin here; use CONNECT for https://"),
        "wss" => return refuse(Reason::NotConnect, "no TLS is spoken to an origin here; use CONNECT for wss://"),
        _ => return refuse(Reason::NotConnect, OTHER),
    }
    let protocols: Vec<_> = elements(head.headers, "Upgrade").filter(|protocol| !is_h2c(protocol)).collect();
    if protocols.is_empty() {
        return refuse(Reason::NotConnect, "h2c is not carried by Upgrade; use CONNECT for HTTP/2");
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return refuse(Reason::BadTarget, "the path has a fragment, or a character that no URL has");
    }
    let target = Target::parse_authority(authority, HTTP).map_err(bad_target)?;
    let framing = framing(head)?;
    let path = match path {
        "" if method == "OPTIONS" => "*".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        query => format!("/{query}"),
    };
    let mut to_origin = format!("{method} {path} HTTP/1.1\r\n").into_bytes();
    let host = if target.port == HTTP { target.host.to_string() } else { target.to_string() };
    append(&mut to_origin, "Host", host.as_bytes());
    append_forwarded(&mut to_origin, head.headers);
    framing.append(&mut to_origin);
    to_origin.extend_from_slice(VIA);
    append(&mut to_origin, "Connection", b"Upgrade");
    for line in all(head.headers, "Upgrade") {
        let carried: Vec<_> = elements_of(line).filter(|protocol| !is_h2c(protocol)).collect();
        match carried.len() {
            0 => {}
            // As received, if nothing is removed.
            count if count == elements_of(line).count() => append(&mut to_origin, "Upgrade", line),
            _ => append(&mut to_origin, "Upgrade", &carried.join(&b", "[..])),
        }
    }
    to_origin.extend_from_slice(b"\r\n");
    let upgrade = Upgrade {
        head: Secret::new(to_origin),
        content: framing.content(Content::NONE),
        is_head: method == "HEAD",
        protocols: String::from_utf8_lossy(&protocols.join(&b", "[..])).into_owned(),
    };
    Ok((target, upgrade))
}

/// HTTP/2 in the clear, the drafts of it (`h2c-14`) included.
fn is_h2c(protocol: &[u8]) -> bool {
    protocol.get(..3).is_some_and(|name| name.eq_ignore_ascii_case(b"h2c"))
        && matches!(protocol.get(3), None | Some(b'-'))
}

/// Returns the framing of a request's content.
fn framing(head: &httparse::Request<'_, '_>) -> Result<Framing, Refusal> {
    let length = only(head.headers, "Content-Length", "more than one Content-Length header")?;
    let coding = only(head.headers, "Transfer-Encoding", "more than one Transfer-Encoding header")?;
    match (length, coding) {
        (None, None) => Ok(Framing::Unsaid),
        (Some(_), Some(_)) => refuse(Reason::Malformed, "both Content-Length and Transfer-Encoding"),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_)) => refuse(Reason::Malformed, "a Transfer-Encoding other than chunked"),
        (Some(length), None) => match crate::message::length(length) {
            Some(length) if length > MAX_CONTENT_BYTES => refuse(
                Reason::ContentTooLarge,
                format!("the content of an Upgrade is longer than {MAX_CONTENT_BYTES} bytes; use CONNECT"),
            ),
            Some(length) => Ok(Framing::Length(length)),
            None => refuse(Reason::Malformed, "invalid Content-Length header"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Operation, parse};

    fn upgrade(head: &str) -> (String, Upgrade) {
        let parsed = parse(head.as_bytes()).unwrap_or_else(|refusal| panic!("{head}: {refusal}")).unwrap();
        assert_eq!(parsed.head_len, head.len());
        let Operation::Upgrade(upgrade) = parsed.request.operation else { panic!("{head}") };
        (parsed.request.target.to_string(), *upgrade)
    }

    fn to_origin(upgrade: &Upgrade) -> &str {
        std::str::from_utf8(upgrade.head.expose()).unwrap()
    }

    /// A request of client-go's older relatives, with every header the gateway must remove.
    #[test]
    fn what_goes_to_the_origin() {
        let head = "POST http://API.example:8080/api/v1/exec?command=ls&stdin=1 HTTP/1.1\r\nHost: other.example\r\n\
                    User-Agent: Go-http-client/1.1\r\nContent-Length: 0\r\nAuthorization: Bearer t0ken\r\n\
                    X-Stream-Protocol-Version: v4.channel.k8s.io\r\nProxy-Authorization: Basic dTpw\r\n\
                    Connection: Upgrade, X-Hop\r\nX-Hop: 1\r\nUpgrade: SPDY/3.1\r\n\
                    X-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\n";
        let (target, upgrade) = upgrade(head);
        assert_eq!(target, "api.example:8080");
        assert_eq!((upgrade.protocols.as_str(), upgrade.is_head), ("SPDY/3.1", false));
        assert_eq!(upgrade.content, Content::NONE);
        assert_eq!(
            to_origin(&upgrade),
            "POST /api/v1/exec?command=ls&stdin=1 HTTP/1.1\r\nHost: api.example:8080\r\nUser-Agent: Go-http-client/1.1\r\n\
             Authorization: Bearer t0ken\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
             X-Stream-Protocol-Version: v3.channel.k8s.io\r\nContent-Length: 0\r\nVia: 1.1 sluicegate\r\n\
             Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
        );
        assert!(!format!("{upgrade:?}").contains("t0ken"), "{upgrade:?}");
    }

    #[test]
    fn a_url_becomes_a_path_and_a_host() {
        let table = [
            ("GET http://h", "h:80", "GET / HTTP/1.1\r\nHost: h\r\n"),
            ("GET HTTP://H.:80/a", "h:80", "GET /a HTTP/1.1\r\nHost: h\r\n"),
            ("GET ws://h/chat", "h:80", "GET /chat HTTP/1.1\r\nHost: h\r\n"),
            ("GET WS://h:8080", "h:8080", "GET / HTTP/1.1\r\nHost: h:8080\r\n"),
            ("GET http://h?a://b", "h:80", "GET /?a://b HTTP/1.1\r\nHost: h\r\n"),
            ("OPTIONS http://h:81", "h:81", "OPTIONS * HTTP/1.1\r\nHost: h:81\r\n"),
            ("OPTIONS http://h/", "h:80", "OPTIONS / HTTP/1.1\r\nHost: h\r\n"),
            (
                "HEAD http://[2001:DB8::1]/%2e/..",
                "[2001:db8::1]:80",
                "HEAD /%2e/.. HTTP/1.1\r\nHost: [2001:db8::1]\r\n",
            ),
        ];
        for (line, target, start) in table {
            let head =
                format!("{line} HTTP/1.1\r\nConnection: close, UPGRADE\r\nUpgrade: a, b/1\r\nUpgrade: c\r\n\r\n");
            let (found, upgrade) = upgrade(&head);
            assert_eq!(found, target, "{line}");
            assert!(to_origin(&upgrade).starts_with(start), "{line}: {}", to_origin(&upgrade));
            assert!(to_origin(&upgrade).ends_with("Connection: Upgrade\r\nUpgrade: a, b/1\r\nUpgrade: c\r\n\r\n"));
            assert_eq!(upgrade.protocols, "a, b/1, c");
        }
    }

    #[test]
    fn content_is_announced_in_one_way() {
        let framed = |lines: &str| {
            let head = format!("POST http://h/ HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n{lines}\r\n");
            parse(head.as_bytes()).map(|parsed| match parsed.unwrap().request.operation {
                Operation::Upgrade(upgrade) => (upgrade.content.clone(), to_origin(&upgrade).to_owned()),
                Operation::Connect => panic!("{head}"),
            })
        };
        for (lines, content, line) in [
            ("Content-Length: 7\r\n", Content::Length(7), "\r\nContent-Length: 7\r\n"),
            ("content-length: 007\r\n", Content::Length(7), "\r\nContent-Length: 7\r\n"),
            ("Transfer-Encoding: Chunked\r\n", Content::chunked(), "\r\nTransfer-Encoding: chunked\r\n"),
        ] {
            let (found, head) = framed(lines).unwrap();
            assert_eq!(found, content, "{lines}");
            assert_eq!(head.matches(line).count(), 1, "{head}");
        }
        for (lines, word) in [
            ("Content-Length: 7\r\nContent-Length: 7\r\n", "more than one Content-Length"),
            ("Content-Length: 7\r\nTransfer-Encoding: chunked\r\n", "both Content-Length"),
            ("Content-Length: 7, 7\r\n", "invalid Content-Length"),
            ("Content-Length: +7\r\n", "invalid Content-Length"),
            ("Content-Length:\r\n", "invalid Content-Length"),
            ("Content-Length: 18446744073709551616\r\n", "invalid Content-Length"),
            ("Transfer-Encoding: gzip, chunked\r\n", "other than chunked"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "more than one Transfer-Encoding"),
            ("Host: a\r\nHost: a\r\n", "more than one Host"),
        ] {
            let refusal = framed(lines).unwrap_err();
            assert_eq!(refusal.reason, Reason::Malformed, "{lines}");
            assert!(refusal.detail.contains(word), "{lines}: {refusal}");
        }
    }

    #[test]
    fn content_beyond_its_bound_is_refused() {
        let head = |length: u64| {
            format!("POST http://h/ HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: {length}\r\n\r\n")
        };
        assert_eq!(upgrade(&head(MAX_CONTENT_BYTES)).1.content, Content::Length(MAX_CONTENT_BYTES));
        for length in [MAX_CONTENT_BYTES + 1, u64::MAX] {
            let refusal = parse(head(length).as_bytes()).unwrap_err();
            assert_eq!(refusal.reason, Reason::ContentTooLarge, "{length}");
            assert!(refusal.detail.contains("longer than 1048576 bytes"), "{refusal}");
        }
    }

    /// Neither `Upgrade: h2c` nor `HTTP2-Settings` is forwarded.
    #[test]
    fn h2c_goes_no_further() {
        for (lines, carried, protocols) in [
            ("Upgrade: h2c, websocket\r\n", "Upgrade: websocket\r\n", "websocket"),
            ("Upgrade: a/1 ,H2C,  b\r\nUpgrade: h2c\r\n", "Upgrade: a/1, b\r\n", "a/1, b"),
            ("Upgrade: h2c-14\r\nUpgrade: h2cx, h2/c\r\n", "Upgrade: h2cx, h2/c\r\n", "h2cx, h2/c"),
        ] {
            let head = format!(
                "GET http://h/ HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\n{lines}\r\n"
            );
            let (_, upgrade) = upgrade(&head);
            let expected =
                format!("GET / HTTP/1.1\r\nHost: h\r\nVia: 1.1 sluicegate\r\nConnection: Upgrade\r\n{carried}\r\n");
            assert_eq!((to_origin(&upgrade), upgrade.protocols.as_str()), (expected.as_str(), protocols), "{lines}");
        }
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        let table = [
            ("GET / HTTP/1.1", UPGRADE, Reason::NotConnect, "only CONNECT and Upgrade"),
            ("GET * HTTP/1.1", UPGRADE, Reason::NotConnect, "only CONNECT and Upgrade"),
            ("GET http://h/ HTTP/1.0", UPGRADE, Reason::NotConnect, "only CONNECT and Upgrade"),
            ("GET http://h/ HTTP/1.1", "Upgrade: websocket\r\n", Reason::NotConnect, "only CONNECT and Upgrade"),
            ("GET http://h/ HTTP/1.1", "Connection: Upgrade\r\n", Reason::NotConnect, "only CONNECT and Upgrade"),
            (
                "GET http://h/ HTTP/1.1",
                "Connection: Upgrade\r\nUpgrade: ,\r\n",
                Reason::NotConnect,
                "only CONNECT and Upgrade",
            ),
            ("GET wss://h/ HTTP/1.1", UPGRADE, Reason::NotConnect, "use CONNECT for wss://"),
            ("GET ftp://h/ HTTP/1.1", UPGRADE, Reason::NotConnect, "only CONNECT and Upgrade"),
            (
                "GET http://h/ HTTP/1.1",
                "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
                Reason::NotConnect,
                "h2c is not carried by Upgrade",
            ),
            ("GET https://h/ HTTP/1.1", UPGRADE, Reason::NotConnect, "use CONNECT for https://"),
            ("GET http://u:p@h/ HTTP/1.1", UPGRADE, Reason::BadTarget, "Proxy-Authorization"),
            ("GET http:///a HTTP/1.1", UPGRADE, Reason::BadTarget, "no host"),
            ("GET http://h/a#b HTTP/1.1", UPGRADE, Reason::BadTarget, "fragment"),
            ("GET http://h/\u{fc} HTTP/1.1", UPGRADE, Reason::BadTarget, "fragment"),
            ("GET http://127.1/ HTTP/1.1", UPGRADE, Reason::BadTarget, "looks like an address"),
        ];
        for (line, headers, reason, word) in table {
            let refusal = parse(format!("{line}\r\n{headers}\r\n").as_bytes()).unwrap_err();
            assert_eq!(refusal.reason, reason, "{line}");
            assert!(refusal.detail.contains(word), "{line}: {refusal}");
        }
    }
}
