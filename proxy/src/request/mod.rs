//! The request head: a pure parser, bytes in, request or refusal out.
//!
//! It keeps no state: the caller passes all bytes received so far, again and again, until there is
//! an answer. The answer does not depend on the division of the bytes into reads. Choices left open
//! by RFC 9112:
//!
//! - *Lone LF* (2.2: may be taken as the end of a line): taken in a CONNECT, since corkscrew ends
//!   its request line so. A line ends at LF, with or without a CR before; the first empty line ends
//!   the head, and a CR anywhere else is an error. Bytes after the head belong to the tunnel and
//!   are never read as another request, so a proxy in front with another view of the end can
//!   smuggle nothing; only a proxy that leaves a bare LF within a value, forbidden by RFC 9110,
//!   5.5, has another view. Refused with `Upgrade`, because its head and content are written anew
//!   for the origin: there two readings of one head would be request smuggling.
//! - *Minor versions* above 1 (RFC 9110, 2.5): read as HTTP/1.1. Other major versions are refused.
//! - *Empty lines before the request* (2.2: at least one should be ignored): ignored; they count
//!   towards [`MAX_HEAD`] and are part of `head_len`.
//! - *Host* (3.2: 400 if absent from HTTP/1.1, repeated or invalid): repeated or invalid is
//!   refused. Absent is not, because rsync sends none and the target stands in the request line
//!   anyway; a different Host has no effect (3.2.2: the target wins).
//! - *Content* (RFC 9110, 9.3.6: a CONNECT has none): Transfer-Encoding, and any Content-Length but
//!   the `0` sent by old clients, are refused. All bytes after the head belong to the tunnel; a
//!   sender announcing content reads some of them differently, and two readings would be request
//!   smuggling (RFC 9112, 11.2).
//! - *Anything but CONNECT* is served in one form alone, absolute-form with `Upgrade`
//!   ([`upgrade`]).
//! - *Line folding* (5.2) and white space before a colon (5.1): refused, as for any server.

mod head;
mod upgrade;

use httparse::{Error, Header, Status};

use crate::message::{self, Foreign, Opening, all, elements, known_minor_version, one_line_ending};
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;
use crate::target::Target;

pub use crate::message::{MAX_HEAD, MAX_HEADERS};
pub use head::Version;
pub use upgrade::Upgrade;

use head::{bad_target, only, refuse, same};

/// Longest stored `User-Agent`, in bytes.
pub const MAX_USER_AGENT: usize = 128;

/// The parts of a request used by the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The requested operation.
    pub operation: Operation,
    /// Where to, from the request line alone.
    pub target: Target,
    /// The version of the request line.
    pub version: Version,
    /// The value of `Proxy-Authorization` as received, including the scheme.
    pub proxy_authorization: Option<Secret>,
    /// The proxies the request has passed, separated by commas (RFC 9110, 7.6.3), with `?` for all
    /// but printable ASCII.
    pub via: String,
    /// The first `User-Agent`, cut to [`MAX_USER_AGENT`] bytes, with `?` for all but printable
    /// ASCII.
    pub user_agent: Option<String>,
}

/// Operation requested by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A tunnel.
    Connect,
    /// Asks the origin to switch protocols; a tunnel if the origin does. Boxed: it is rare and
    /// large.
    Upgrade(Box<Upgrade>),
}

/// A complete head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The request.
    pub request: Request,
    /// Length of the head in bytes, at most [`MAX_HEAD`]; the bytes behind it are the prefix of the
    /// tunnel.
    pub head_len: usize,
}

/// Parses the head at the start of `bytes`, all bytes received so far.
///
/// `Ok(None)` means that more bytes are needed; never returned for [`MAX_HEAD`] bytes or more.
///
/// # Errors
///
/// The refusal to answer the client with. Its words are the gateway's own and contain nothing from
/// the client.
pub fn parse(bytes: &[u8]) -> Result<Option<Parsed>, Refusal> {
    match message::opening(bytes) {
        Opening::Known(foreign) => return Err(other_protocol(foreign)),
        Opening::Undecided => return Ok(None),
        Opening::Unknown => {}
    }
    // The limit is a window, not a check afterwards: so it does not matter how much of the tunnel
    // came in the same read.
    let window = &bytes[..bytes.len().min(MAX_HEAD)];
    let known = known_minor_version(window, 2);
    let window = known.as_deref().unwrap_or(window);
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut lines);
    match head.parse(window) {
        Ok(Status::Complete(head_len)) => {
            if head.method != Some("CONNECT") && !one_line_ending(&window[..head_len]) {
                return refuse(Reason::Malformed, "a line of the head ends in LF without CR");
            }
            Ok(Some(Parsed { request: read(&head)?, head_len }))
        }
        Ok(Status::Partial) if window.len() < MAX_HEAD => Ok(None),
        Ok(Status::Partial) => {
            refuse(Reason::HeadTooLarge, format!("the request head is longer than {MAX_HEAD} bytes"))
        }
        Err(error) => Err(syntax(error, &head)),
    }
}

/// Builds the refusal of a protocol other than HTTP/1.x, with its name.
pub fn other_protocol(foreign: Foreign) -> Refusal {
    const PROXY: &str = "unexpected PROXY protocol header; --proxy-protocol-from lists who may send one";
    match foreign {
        Foreign::Tls => Refusal::new(Reason::Tls, "TLS on a plain port; use http:// not https:// in the proxy URL"),
        Foreign::Http2 => Refusal::new(Reason::Http2, "HTTP/2 is not spoken here; use CONNECT over HTTP/1.1"),
        Foreign::ProxyHeader => Refusal::new(Reason::ProxyHeader, PROXY),
        Foreign::Socks => Refusal::new(Reason::Socks, "SOCKS is not spoken here; use http:// in the proxy URL"),
        Foreign::Other(name) => Refusal::new(Reason::Malformed, format!("{name} instead of an HTTP request")),
    }
}

/// A grammatical head, read for its meaning.
fn read(head: &httparse::Request<'_, '_>) -> Result<Request, Refusal> {
    let version = if head.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let (target, operation) = if head.method == Some("CONNECT") {
        no_content(head.headers)?;
        (Target::parse(head.path.unwrap_or_default()).map_err(bad_target)?, Operation::Connect)
    } else {
        let (target, upgrade) = upgrade::read(head, version)?;
        (target, Operation::Upgrade(Box::new(upgrade)))
    };
    if let Some(host) = only(head.headers, "Host", "more than one Host header")? {
        check_host(host)?;
    }
    let credentials = same(head.headers, "Proxy-Authorization", "several different Proxy-Authorization headers")?;
    Ok(Request {
        operation,
        target,
        version,
        proxy_authorization: credentials.map(Secret::new),
        via: elements(head.headers, "Via").map(|hop| shown(hop).collect::<String>()).collect::<Vec<_>>().join(", "),
        user_agent: all(head.headers, "User-Agent").next().and_then(printable),
    })
}

fn no_content(headers: &[Header<'_>]) -> Result<(), Refusal> {
    if all(headers, "Transfer-Encoding").next().is_some() {
        return refuse(Reason::Malformed, "a CONNECT has no content; drop Transfer-Encoding");
    }
    if all(headers, "Content-Length").any(|length| length != b"0") {
        return refuse(Reason::Malformed, "a CONNECT has no content; drop Content-Length");
    }
    Ok(())
}

/// Accepts the characters of `uri-host [ ":" port ]` (RFC 9110, 7.2), and UTF-8, allowed in targets
/// too. Nothing more is checked, since the value has no effect.
fn check_host(value: &[u8]) -> Result<(), Refusal> {
    let allowed = |b: &u8| b.is_ascii_alphanumeric() || !b.is_ascii() || b"-._~%!$&'()*+,;=:[]".contains(b);
    if value.iter().all(allowed) { Ok(()) } else { refuse(Reason::Malformed, "invalid Host header") }
}

fn shown(value: &[u8]) -> impl Iterator<Item = char> {
    value.iter().map(|&b| if b == b' ' || b.is_ascii_graphic() { char::from(b) } else { '?' })
}

fn printable(value: &[u8]) -> Option<String> {
    let text: String = shown(value).take(MAX_USER_AGENT).collect();
    (!text.is_empty()).then_some(text)
}

/// Builds the refusal of a syntax error; `head` holds the parts before the error.
fn syntax(error: Error, head: &httparse::Request<'_, '_>) -> Refusal {
    let detail = match error {
        Error::TooManyHeaders => {
            return Refusal::new(Reason::HeadTooLarge, format!("the head has more than {MAX_HEADERS} header lines"));
        }
        Error::Token if head.method.is_none() => "not an HTTP request",
        Error::Token => "the request line is not METHOD, target and version",
        Error::Version | Error::Status => "the version in the request line is not HTTP/1.x; use HTTP/1.1",
        Error::HeaderName => "invalid header name",
        Error::HeaderValue => "invalid character in a header value",
        Error::NewLine => "a line of the head does not end in CR LF",
    };
    Refusal::new(Reason::Malformed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, Engine as _};
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Longest `detail` for a readable status line.
    const MAX_DETAIL: usize = 80;

    fn complete(bytes: &[u8]) -> Parsed {
        match parse(bytes) {
            Ok(Some(parsed)) => parsed,
            other => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
        }
    }

    fn refused(bytes: &[u8]) -> Refusal {
        match parse(bytes) {
            Err(refusal) => refusal,
            other => panic!("{other:?} for {:?}", String::from_utf8_lossy(bytes)),
        }
    }

    fn with_headers(headers: &str) -> Vec<u8> {
        format!("CONNECT h.example:443 HTTP/1.1\r\n{headers}\r\n").into_bytes()
    }

    /// Every prefix of `bytes` is either undecided or gets the result of the whole.
    fn same_however_cut(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> Result<(), TestCaseError> {
        let whole = parse(bytes);
        for cut in cuts {
            let part = parse(&bytes[..cut]);
            if let Ok(Some(parsed)) = &part {
                prop_assert!(parsed.head_len <= cut);
            }
            prop_assert!(part == Ok(None) || part == whole, "cut at {}: {:?}, whole: {:?}", cut, part, whole);
        }
        Ok(())
    }

    #[test]
    fn what_the_clients_send() {
        // In order: stunnel with and without credentials, rsync's RSYNC_PROXY, client-go, and an
        // old client with a length, an empty Host and an empty line in front.
        let table = [
            (
                "CONNECT api.target.example:443 HTTP/1.1\r\nHost: api.target.example:443\r\n\
                 Proxy-Authorization: basic dXNlcjpzM2NyZXQ=\r\n\r\n",
                "api.target.example:443",
                Version::Http11,
                Some("basic dXNlcjpzM2NyZXQ="),
                None,
            ),
            (
                "CONNECT 192.0.2.7:443 HTTP/1.1\r\nHost: 192.0.2.7:443\r\n\r\n",
                "192.0.2.7:443",
                Version::Http11,
                None,
                None,
            ),
            ("CONNECT rsyncd.example:873 HTTP/1.0\r\n\r\n", "rsyncd.example:873", Version::Http10, None, None),
            (
                "CONNECT rsyncd.example:873 HTTP/1.0\r\nProxy-Authorization: Basic dTpw\r\n\r\n",
                "rsyncd.example:873",
                Version::Http10,
                Some("Basic dTpw"),
                None,
            ),
            (
                "CONNECT [2001:db8::1]:6443 HTTP/1.1\r\nHost: [2001:db8::1]:6443\r\nUser-Agent: Go-http-client/1.1\r\n\
                 Proxy-Authorization: Basic dTpw\r\n\r\n",
                "[2001:db8::1]:6443",
                Version::Http11,
                Some("Basic dTpw"),
                Some("Go-http-client/1.1"),
            ),
            (
                "\r\nCONNECT OLD.example:443 HTTP/1.0\r\nuser-agent: \tA/1 (\u{fc};\tx) \r\nHOST:\r\n\
                 Content-Length: 0\r\nPragma: no-cache\r\n\r\n",
                "old.example:443",
                Version::Http10,
                None,
                Some("A/1 (??;?x)"),
            ),
        ];
        for (head, target, version, authorization, agent) in table {
            let parsed = complete(head.as_bytes());
            assert_eq!(parsed.head_len, head.len());
            assert_eq!(parsed.request.target.to_string(), target);
            assert_eq!(parsed.request.version, version);
            assert_eq!(parsed.request.proxy_authorization, authorization.map(Secret::new));
            assert_eq!(parsed.request.user_agent.as_deref(), agent);
        }
    }

    #[test]
    fn the_password_is_not_touched() {
        let value = format!("bAsIc {}", BASE64_STANDARD.encode("user:s3cret:with:@/%\u{fc}"));
        let parsed = complete(&with_headers(&format!("proxy-authorization:{value} \r\n")));
        assert_eq!(parsed.request.proxy_authorization.map(|s| s.expose().to_vec()), Some(value.clone().into_bytes()));
        // tinyproxy adds the line of its own request to the client's (au-2).
        let line = format!("Proxy-Authorization: {value}\r\n");
        let twice = complete(&with_headers(&format!(
            "{line}A: b\r\n{}",
            line.to_lowercase().replace(&value.to_lowercase(), &value)
        )));
        assert_eq!(twice.request.proxy_authorization, Some(Secret::new(value)));
        let raw = complete(b"CONNECT h:1 HTTP/1.1\r\nProxy-Authorization: Basic \xff\xfe\r\n\r\n");
        assert_eq!(raw.request.proxy_authorization, Some(Secret::new(*b"Basic \xff\xfe")));
    }

    #[test]
    fn refused_heads() {
        use Reason::{BadTarget, HeadTooLarge, Http2, Malformed, NotConnect, ProxyHeader, Socks, Tls};
        let table: &[(&[u8], Reason, &str)] = &[
            (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", NotConnect, "only CONNECT and Upgrade"),
            (b"GET http://h/ HTTP/1.0\r\n\r\n", NotConnect, "only CONNECT and Upgrade"),
            (b"connect h:443 HTTP/1.1\r\n\r\n", NotConnect, "only CONNECT and Upgrade"),
            (b"CONNECTED h:443 HTTP/1.1\r\n\r\n", NotConnect, "only CONNECT and Upgrade"),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2, "HTTP/2"),
            (b"PRI * HTTP/1.1\r\n\r\n", NotConnect, "only CONNECT and Upgrade"),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Tls, "TLS"),
            (b"\x16\x03", Tls, "http:// not https://"),
            (b"\x16\x04", Malformed, "not an HTTP"),
            (b"\x15\x03\x01\x00\x02\x02\x28", Tls, "TLS"),
            (b"\x05\x01\x00", Socks, "SOCKS"),
            (b"\x04\x01\x01\xbb\x7f\0\0\x01u\0", Socks, "SOCKS"),
            (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nCONNECT h:443 HTTP/1.1\r\n\r\n", ProxyHeader, "--proxy-protocol-from"),
            (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", ProxyHeader, "--proxy-protocol-from"),
            (b"\r\n\r\n\0\r\nQUIT ", Malformed, "not an HTTP"),
            (b"\0", Malformed, "not an HTTP"),
            (b"SSH-2.0-OpenSSH_9.2p1\r\n", Malformed, "SSH instead of an HTTP request"),
            (b" CONNECT h:443 HTTP/1.1\r\n\r\n", Malformed, "not an HTTP"),
            (b"\rCONNECT h:443 HTTP/1.1\r\n\r\n", Malformed, "CR LF"),
            (b"GET /\r\n", Malformed, "request line"),
            (b"CONNECT h:443\r\n\r\n", Malformed, "request line"),
            (b"CONNECT  h:443 HTTP/1.1\r\n\r\n", Malformed, "request line"),
            (b"CONNECT h\xff:443 HTTP/1.1\r\n\r\n", Malformed, "request line"),
            (b"CONNECT h:443  HTTP/1.1\r\n\r\n", Malformed, "version"),
            (b"CONNECT h:443 HTTP/1.25\r\n\r\n", Malformed, "CR LF"),
            (b"CONNECT h:443 HTTP/1.a\r\n\r\n", Malformed, "version"),
            (b"CONNECT h:443 HTTP/2.0\r\n\r\n", Malformed, "version"),
            (b"CONNECT h:443 HTTP/0.9\r\n\r\n", Malformed, "version"),
            (b"CONNECT h:443 http/1.1\r\n\r\n", Malformed, "version"),
            (b"CONNECT h:443 HTTP/1.1 \r\n\r\n", Malformed, "CR LF"),
            (b"CONNECT h:443 HTTP/1.15\r\n\r\n", Malformed, "CR LF"),
            (b"GET http://h/ HTTP/1.1\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", Malformed, "LF without CR"),
            (b"GET http://h/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\n\r\n", Malformed, "LF without CR"),
            (b"GET http://h/ HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: x\r\n\n", Malformed, "LF without CR"),
            (b"CONNECT h:443 HTTP/1.1\nA: b\rc\n\n", Malformed, "header value"),
            (b"CONNECT user:s3cret@h:443 HTTP/1.1\r\n\r\n", BadTarget, "Proxy-Authorization"),
            (b"CONNECT 127.1:443 HTTP/1.1\r\n\r\n", BadTarget, "looks like an address"),
            (&[b'\r', b'\n'].repeat(MAX_HEAD / 2), HeadTooLarge, "longer than"),
        ];
        for &(bytes, reason, word) in table {
            let refusal = refused(bytes);
            assert_eq!(refusal.reason, reason, "{:?}", String::from_utf8_lossy(bytes));
            assert!(refusal.detail.contains(word), "{refusal}");
        }
    }

    #[test]
    fn refused_headers() {
        let table = [
            (
                "Proxy-Authorization: basic YQ==\r\nproxy-authorization: basic Yg==\r\n",
                "several different Proxy-Authorization",
            ),
            ("Host: h.example:443\r\nhost: h.example:443\r\n", "more than one Host"),
            ("Host: a b\r\n", "invalid Host"),
            ("Host: user@h\r\n", "invalid Host"),
            ("Host: http://h/\r\n", "invalid Host"),
            ("Content-Length: 5\r\n", "drop Content-Length"),
            ("Content-Length: 00\r\n", "drop Content-Length"),
            ("Content-Length: 0\r\nContent-Length: 7\r\n", "drop Content-Length"),
            ("Transfer-Encoding: chunked\r\n", "drop Transfer-Encoding"),
            ("Transfer-Encoding:\r\n", "drop Transfer-Encoding"),
            ("A: b\r\n folded\r\n", "header name"),
            ("A : b\r\n", "header name"),
            ("no colon\r\n", "header name"),
            (": b\r\n", "header name"),
            ("\u{fc}: b\r\n", "header name"),
            ("A: b\rc\r\n", "header value"),
            ("A: b\0c\r\n", "header value"),
            ("A: \x1b[31m\r\n", "header value"),
        ];
        for (headers, word) in table {
            let refusal = refused(&with_headers(headers));
            assert_eq!(refusal.reason, Reason::Malformed, "{headers:?}");
            assert!(refusal.detail.contains(word), "{headers:?}: {refusal}");
        }
    }

    #[test]
    fn headers_that_matter_to_nobody_are_let_through() {
        for headers in
            ["", "Host: other.example\r\n", "Host:\r\n", "Host: b\u{fc}cher.example:443\r\n", "X:\r\nX: \u{1F980}\r\n"]
        {
            assert_eq!(complete(&with_headers(headers)).request.target.to_string(), "h.example:443", "{headers:?}");
        }
    }

    /// As corkscrew ends its request line, and as scripts end all of them.
    #[test]
    fn a_line_of_a_connect_ends_at_lf() {
        for head in [
            "CONNECT h:443 HTTP/1.0\nProxy-Authorization: Basic dTpw\r\n\r\n",
            "CONNECT h:443 HTTP/1.0\nProxy-Authorization: Basic dTpw\n\n",
            "\n\r\nCONNECT h:443 HTTP/1.0\r\nProxy-Authorization: Basic dTpw\r\n\n",
            "CONNECT h:443 HTTP/1.0\r\nProxy-Authorization: Basic dTpw\n\r\n",
        ] {
            for behind in ["", "\n", "\r\n\r\n", "CONNECT other:1 HTTP/1.1\r\n\r\n", "A: b\r\n\r\n"] {
                let parsed = complete(format!("{head}{behind}").as_bytes());
                assert_eq!((parsed.head_len, &*parsed.request.target.to_string()), (head.len(), "h:443"), "{head:?}");
                assert_eq!(parsed.request.proxy_authorization, Some(Secret::new(*b"Basic dTpw")));
            }
            for cut in 0..head.len() {
                assert_eq!(parse(&head.as_bytes()[..cut]), Ok(None), "{head:?} to {cut}");
            }
        }
    }

    #[test]
    fn a_minor_version_above_1_is_read_as_1() {
        for version in 2..=9 {
            let head = format!("\r\nCONNECT h:443 HTTP/1.{version}\r\nA: HTTP/1.7\r\n\r\n");
            let parsed = complete(head.as_bytes());
            assert_eq!((parsed.request.version, parsed.head_len), (Version::Http11, head.len()), "{head:?}");
            same_however_cut(head.as_bytes(), 0..head.len()).expect("a request");
            let head = format!("GET http://h/ HTTP/1.{version}\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
            let parsed = complete(head.as_bytes());
            assert!(matches!(parsed.request.operation, Operation::Upgrade(_)), "{head:?}");
        }
    }

    #[test]
    fn other_protocols_are_known_by_their_first_bytes() {
        same_however_cut(b"\x16\x03\x01\x02", 0..4).expect("TLS");
        same_however_cut(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n", 0..32).expect("version 1 of PROXY");
        same_however_cut(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", 0..16).expect("version 2 of PROXY");
        same_however_cut(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0..24).expect("HTTP/2");
        assert_eq!(refused(b"\x16\x03").reason, Reason::Tls);
        assert_eq!(refused(b"PRI * HTTP/2").reason, Reason::Http2);
        assert_eq!(parse(b"\x16"), Ok(None));
        assert_eq!(parse(b"PRI * HTTP/"), Ok(None));
        assert_eq!(parse(b""), Ok(None));
    }

    #[test]
    fn the_head_may_fill_its_limit_and_no_more() {
        let empty = with_headers("A: \r\n").len();
        let filled = |len: usize| with_headers(&format!("A: {}\r\n", "x".repeat(len - empty)));
        let mut full = filled(MAX_HEAD);
        assert_eq!(complete(&full).head_len, MAX_HEAD);
        assert_eq!(parse(&full[..MAX_HEAD - 1]), Ok(None));
        // A tunnel beginning in the same read is not counted.
        full.extend_from_slice(&[b'\n'; 3 * MAX_HEAD]);
        assert_eq!(complete(&full).head_len, MAX_HEAD);
        assert_eq!(complete(&[with_headers(""), vec![0; 2 * MAX_HEAD]].concat()).head_len, with_headers("").len());

        let over = filled(MAX_HEAD + 1);
        assert_eq!(refused(&over).reason, Reason::HeadTooLarge);
        assert_eq!(refused(&over), refused(&over[..MAX_HEAD]));
        assert_eq!(parse(&over[..MAX_HEAD - 1]), Ok(None));
        assert_eq!(refused(&[b'A'; MAX_HEAD]).reason, Reason::HeadTooLarge);
    }

    #[test]
    fn as_many_header_lines_as_the_limit_says() {
        assert_eq!(complete(&with_headers(&"A: b\r\n".repeat(MAX_HEADERS))).request.version, Version::Http11);
        let refusal = refused(&with_headers(&"A: b\r\n".repeat(MAX_HEADERS + 1)));
        assert_eq!(refusal.reason, Reason::HeadTooLarge);
        assert!(refusal.detail.contains(&format!("more than {MAX_HEADERS} header lines")), "{refusal}");
    }

    #[test]
    fn a_long_user_agent_is_cut() {
        let parsed = complete(&with_headers(&format!("User-Agent: {}\r\nUser-Agent: second\r\n", "x".repeat(5000))));
        assert_eq!(parsed.request.user_agent, Some("x".repeat(MAX_USER_AGENT)));
    }

    prop_compose! {
        fn valid_head()(
            empty in 0..3_usize,
            target in prop_oneof!["[a-z]{1,9}(\\.[a-z]{1,9}){0,3}:[1-9][0-9]{0,3}", "\\[::[1-9a-f]{1,4}\\]:443", "b\u{fc}cher\\.de:1"],
            minor in 0..2_u8,
            password in proptest::option::of("\\PC{0,40}"),
            agent in proptest::option::of("[ -~]{0,200}"),
            others in vec(("X-[A-Za-z0-9-]{1,12}", "[ -~\u{e9}\t]{0,40}"), 0..20),
        ) -> Vec<u8> {
            let mut head = format!("{}CONNECT {target} HTTP/1.{minor}\r\nHost: {target}\r\n", "\r\n".repeat(empty));
            for (name, value) in others {
                head += &format!("{name}: {value}\r\n");
            }
            if let Some(password) = password {
                head += &format!("Proxy-Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("u:{password}")));
            }
            if let Some(agent) = agent {
                head += &format!("User-Agent: {agent}\r\n");
            }
            (head + "\r\n").into_bytes()
        }
    }

    /// Almost a head: parts of heads and noise in any order.
    fn almost_head() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            8 => proptest::sample::select(vec![
                "CONNECT", "GET", "PRI * HTTP/2.0", "PROXY ", " ", "h:443", "[::1]:443", "127.1:443", " HTTP/1.1", " HTTP/1.0",
                " HTTP/1.2", "\r\n", "\n", "\r\n\r\n\0\r\nQUIT\n",
                "\r", ":", "Host: h", "Content-Length: 0", "Proxy-Authorization: Basic dTpw", "A: b", "\x16", "\x03", "\0",
            ]).prop_map(|text| text.as_bytes().to_vec()),
            1 => vec(any::<u8>(), 0..9),
        ];
        let line =
            proptest::sample::select(vec!["", "CONNECT h:443 HTTP/1.1\r\n", "CONNECT h:443 HTTP/1.0\r\nA: b\r\n"]);
        (line, vec(part, 0..12)).prop_map(|(line, parts)| [line.as_bytes(), &parts.concat()].concat())
    }

    proptest! {
        #[test]
        fn a_valid_head_ends_where_it_ends(head in valid_head(), prefix in vec(any::<u8>(), 0..100)) {
            let parsed = complete(&head);
            prop_assert_eq!(parsed.head_len, head.len());
            for len in 0..head.len() {
                prop_assert_eq!(parse(&head[..len]), Ok(None));
            }
            let all = [head, prefix].concat();
            for len in parsed.head_len..=all.len() {
                prop_assert_eq!(parse(&all[..len]), Ok(Some(parsed.clone())));
            }
        }

        #[test]
        fn any_bytes_get_the_same_answer_however_they_are_cut(bytes in prop_oneof![vec(any::<u8>(), 0..200), almost_head()]) {
            same_however_cut(&bytes, 0..bytes.len())?;
        }

        #[test]
        fn long_input_gets_the_same_answer_and_in_time(
            start in almost_head(), filler in any::<u8>(), cuts in vec(0..2 * MAX_HEAD, 8),
        ) {
            let mut bytes = start;
            bytes.resize(2 * MAX_HEAD, filler);
            prop_assert_ne!(parse(&bytes[..MAX_HEAD]), Ok(None));
            same_however_cut(&bytes, cuts.into_iter())?;
        }

        #[test]
        fn a_refusal_is_a_clean_reason_phrase(bytes in prop_oneof![vec(any::<u8>(), 0..200), almost_head()]) {
            if let Err(refusal) = parse(&bytes) {
                prop_assert!(refusal.detail.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{}", refusal);
                prop_assert!((8..=MAX_DETAIL).contains(&refusal.detail.len()), "{}", refusal);
                prop_assert!(refusal.reason.status().is_some());
            }
        }

        #[test]
        fn a_password_is_never_shown(
            password in "[a-z0-9]{16}", start in 0..3_usize, noise in any::<u8>(), at in any::<proptest::sample::Index>(),
        ) {
            let token = BASE64_STANDARD.encode(format!("u:{password}"));
            let line = ["h:443", &format!("u:{password}@h:443"), &format!("http://u:{password}@h:443")][start].to_owned();
            let mut bytes = format!("CONNECT {line} HTTP/1.1\r\nProxy-Authorization: Basic {token}\r\n\r\n").into_bytes();
            let check = |bytes: &[u8]| {
                let (shown, debug) = match parse(bytes) {
                    Ok(parsed) => (String::new(), format!("{parsed:?}")),
                    Err(refusal) => (refusal.to_string(), format!("{refusal:?}")),
                };
                [shown, debug].iter().all(|text| !text.contains(&password) && !text.contains(&token))
            };
            prop_assert!(check(&bytes));
            *at.get_mut(&mut bytes) = noise;
            prop_assert!(check(&bytes));
        }
    }
}
