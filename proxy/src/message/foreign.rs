//! Protocols other than HTTP/1.x, detected by the first bytes of a stream, for naming them in a
//! refusal.

/// A protocol mistaken for HTTP/1.x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// A TLS record (RFC 8446, 5.1).
    Tls,
    /// The connection preface of HTTP/2 (RFC 9113, 3.4).
    Http2,
    /// A PROXY protocol header, version 1 or 2.
    ProxyHeader,
    /// A SOCKS request, version 4 or 5 (RFC 1928, 3).
    Socks,
    /// Another protocol, by its name.
    Other(&'static str),
}

/// Result of comparing the first bytes of a stream with the openings of known protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The stream opens with this protocol, regardless of later bytes.
    Known(Foreign),
    /// The bytes so far are the beginning of an opening; later bytes decide.
    Undecided,
    /// No known opening.
    Unknown,
}

/// First bytes sent by a client, by protocol. No opening is the beginning of an HTTP/1.x request.
const OPENINGS: &[(&[u8], Foreign)] = &[
    // Content types 22 (handshake) and 21 (alert), major version 3.
    (b"\x16\x03", Foreign::Tls),
    (b"\x15\x03", Foreign::Tls),
    (b"PRI * HTTP/2", Foreign::Http2),
    (b"PROXY ", Foreign::ProxyHeader),
    (b"\r\n\r\n\0\r\nQUIT\n", Foreign::ProxyHeader),
    (b"\x04", Foreign::Socks),
    (b"\x05", Foreign::Socks),
    (b"SSH-", Foreign::Other("SSH")),
    (b"@RSYNCD:", Foreign::Other("rsync")),
    // TPKT, version 3 (RFC 1006, 6).
    (b"\x03\0\0", Foreign::Other("RDP")),
    (b"RFB 003.", Foreign::Other("VNC")),
];

/// First bytes sent by a server, by protocol, in addition to [`OPENINGS`].
const GREETINGS: &[(&[u8], &str)] = &[
    (b"HTTP/2", "HTTP/2"),
    (b"HTTP/3", "HTTP/3"),
    (b"220 ", "an FTP or SMTP greeting"),
    (b"220-", "an FTP or SMTP greeting"),
    (b"-ERR ", "a Redis or POP3 error"),
    (b"+OK ", "a POP3 greeting"),
    (b"* OK ", "an IMAP greeting"),
    (b"ICY ", "a SHOUTcast answer"),
];

/// Compares the first bytes of a client's stream with the openings of known protocols. A longer
/// part of the same stream never turns one [`Opening::Known`] into another.
#[must_use]
pub fn opening(bytes: &[u8]) -> Opening {
    let known = OPENINGS.iter().find(|(opening, _)| bytes.starts_with(opening));
    match known {
        Some((_, foreign)) => Opening::Known(*foreign),
        None if OPENINGS.iter().any(|(opening, _)| opening.starts_with(bytes)) => Opening::Undecided,
        None => Opening::Unknown,
    }
}

/// Longest known method, in bytes: `VERSION-CONTROL` and `UPDATEREDIRECTREF` (RFC 3253, RFC 4437).
const MAX_METHOD_BYTES: usize = 17;

/// Tells if a stream opens as an HTTP/1.x request, by a method of capital letters and a space;
/// `None`: later bytes decide.
#[must_use]
pub fn opens_as_request(bytes: &[u8]) -> Option<bool> {
    let method = bytes.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-').count();
    match bytes.get(method) {
        Some(byte) => Some(method > 0 && *byte == b' '),
        None if method > MAX_METHOD_BYTES => Some(false),
        None => None,
    }
}

/// Returns the name of the protocol of a server's bytes in place of an HTTP/1.x answer, if known.
#[must_use]
pub(super) fn greeting(bytes: &[u8]) -> Option<&'static str> {
    // A SETTINGS frame comes first (RFC 9113, 3.4 and 4.1): 24 bits of length, type 4, no flags,
    // stream 0.
    if matches!(bytes, [0, 0, _, 4, 0, 0, 0, 0, 0, ..]) {
        return Some("HTTP/2");
    }
    match opening(bytes) {
        Opening::Known(Foreign::Tls) => Some("TLS"),
        Opening::Known(Foreign::Http2) => Some("HTTP/2"),
        Opening::Known(Foreign::ProxyHeader) => Some("a PROXY protocol header"),
        Opening::Known(Foreign::Socks) => Some("SOCKS"),
        Opening::Known(Foreign::Other(name)) => Some(name),
        Opening::Undecided | Opening::Unknown => {
            GREETINGS.iter().find(|(greeting, _)| bytes.starts_with(greeting)).map(|(_, name)| *name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opening_is_undecided_until_it_is_complete() {
        for (bytes, foreign) in OPENINGS {
            for cut in 0..bytes.len() {
                assert_eq!(opening(&bytes[..cut]), Opening::Undecided, "{} to {cut}", bytes.escape_ascii());
            }
            assert_eq!(opening(&[bytes, &b"\xff\0x"[..]].concat()), Opening::Known(*foreign));
        }
        for request in ["CONNECT h:443 HTTP/1.1", "GET / HTTP/1.1", "\r\nCONNECT", "POST ", "PROPFIND /", "PROXYX /"] {
            assert_eq!(opening(request.as_bytes()), Opening::Unknown, "{request}");
        }
    }

    #[test]
    fn a_request_is_told_by_its_method() {
        for request in ["GET / HTTP/1.1", "VERSION-CONTROL /", "CONNECT "] {
            let method = request.find(' ').unwrap();
            for cut in 0..=method {
                assert_eq!(opens_as_request(&request.as_bytes()[..cut]), None, "{request} to {cut}");
            }
            assert_eq!(opens_as_request(request.as_bytes()), Some(true), "{request}");
        }
        for other in ["get / HTTP/1.1", " GET", "GE\0T /", "AAAAAAAAAAAAAAAAAA", "\x16\x03"] {
            assert_eq!(opens_as_request(other.as_bytes()), Some(false), "{other:?}");
        }
    }

    #[test]
    fn a_server_of_another_protocol_is_named() {
        for (bytes, name) in [
            (&b"SSH-2.0-OpenSSH_9.2\r\n"[..], Some("SSH")),
            (b"\x15\x03\x01\0\x02\x02\x16", Some("TLS")),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03", Some("HTTP/2")),
            (b"HTTP/2 200\r\n", Some("HTTP/2")),
            (b"\x05\xff", Some("SOCKS")),
            (b"@RSYNCD: 31.0\n", Some("rsync")),
            (b"220 mail.example ESMTP\r\n", Some("an FTP or SMTP greeting")),
            (b"garbage\r\n", None),
            (b"", None),
        ] {
            assert_eq!(greeting(bytes), name, "{}", bytes.escape_ascii());
        }
    }
}
