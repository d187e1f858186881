//! Common parts of requests and answers (RFC 9112): the lines of a head, its hop-by-hop headers,
//! and the end of the content.

mod answer;
mod content;
mod foreign;

use httparse::Header;

pub use answer::{AnswerHead, MAX_INTERIM_ANSWERS, answer};
pub use content::{BadContent, Content};
pub use foreign::{Foreign, Opening, opening, opens_as_request};

/// The longest head in bytes, from the first byte to the end of the empty line.
pub const MAX_HEAD: usize = 16 * 1024;

/// The most header lines in a head.
pub const MAX_HEADERS: usize = 64;

/// The most bytes of content behind a request to switch protocols, chunk framing included. Clients
/// send none, or a few
/// kilobytes; whatever is larger belongs into a tunnel.
pub const MAX_CONTENT_BYTES: u64 = 1 << 20;

/// The gateway's Via line in forwarded messages (RFC 9110, 7.6.3).
pub const VIA: &[u8] = b"Via: 1.1 sluicegate\r\n";

/// Hop-by-hop headers, named by `Connection` or not (RFC 9110, 7.6.1), and headers rewritten for
/// the next hop: the framing and, in a request, the host. All headers beginning with `Proxy-` are
/// removed too.
const OF_ONE_HOP: [&str; 8] =
    ["Connection", "Keep-Alive", "TE", "Transfer-Encoding", "Content-Length", "Upgrade", "Host", "HTTP2-Settings"];

/// The values of all headers of a name, in their order.
pub fn all<'h>(headers: &'h [Header<'h>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Returns the elements of a list header, over all its lines (RFC 9110, 5.6.1).
pub fn elements<'h>(headers: &'h [Header<'h>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    all(headers, name).flat_map(elements_of)
}

/// The elements of one line of such a list.
pub fn elements_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Returns true if every line of a head ends in CR LF. A parser that accepts a lone LF sees the end
/// of a head where another parser sees none.
#[must_use]
pub fn one_line_ending(head: &[u8]) -> bool {
    !head.iter().enumerate().any(|(at, &byte)| byte == b'\n' && (at == 0 || head[at - 1] != b'\r'))
}

/// Returns the reason phrase of a parsed answer, byte for byte: `httparse` returns none for a
/// phrase with bytes beyond ASCII, although RFC 9112, 4 allows them.
#[must_use]
pub fn phrase(head: &[u8]) -> &[u8] {
    let line = head.split(|&byte| byte == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    line.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default().trim_ascii()
}

/// The head with its minor version written as 1 where it is 2 to 9, or `None` where nothing is to
/// be changed: a message
/// of a higher minor version is read as one of the highest that is known (RFC 9110, 2.5), and
/// `httparse` knows 0 and 1
/// alone. `word`: the place of the version in the first line, counted from 0.
#[must_use]
pub fn known_minor_version(head: &[u8], word: usize) -> Option<Vec<u8>> {
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let line = head[start..].split(|&byte| byte == b'\n').next()?;
    let before = line.split(|&byte| byte == b' ').take(word).map(|word| word.len() + 1).sum::<usize>();
    let version = line.get(before..)?.strip_prefix(b"HTTP/1.")?;
    if !matches!(version.first(), Some(b'2'..=b'9')) {
        return None;
    }
    let mut known = head.to_vec();
    known[start + before + b"HTTP/1.".len()] = b'1';
    Some(known)
}

/// The value of a `Content-Length`: digits alone (RFC 9110, 8.6), and no more than fit 64 bits.
#[must_use]
pub fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
}

/// Framing of a message's content (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Not at all.
    Unsaid,
    /// By its length in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
}

impl Framing {
    /// Appends the header of this framing.
    pub fn append(self, to: &mut Vec<u8>) {
        match self {
            Self::Unsaid => {}
            Self::Length(length) => append(to, "Content-Length", length.to_string().as_bytes()),
            Self::Chunked => append(to, "Transfer-Encoding", b"chunked"),
        }
    }

    /// Returns the content; `unsaid` is the content without a framing header.
    #[must_use]
    pub const fn content(self, unsaid: Content) -> Content {
        match self {
            Self::Unsaid => unsaid,
            Self::Length(length) => Content::Length(length),
            Self::Chunked => Content::chunked(),
        }
    }
}

/// Appends the end-to-end headers, each on a line of its own.
pub fn append_forwarded(to: &mut Vec<u8>, headers: &[Header<'_>]) {
    for header in headers.iter().filter(|header| goes_on(headers, header.name)) {
        append(to, header.name, header.value);
    }
}

/// Appends a header line.
pub fn append(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        to.extend_from_slice(part);
    }
}

fn goes_on(headers: &[Header<'_>], name: &str) -> bool {
    let of_proxies = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("Proxy-"));
    let named = || elements(headers, "Connection").any(|option| option.eq_ignore_ascii_case(name.as_bytes()));
    !of_proxies && !OF_ONE_HOP.iter().any(|other| name.eq_ignore_ascii_case(other)) && !named()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarded(head: &str) -> String {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut lines);
        assert!(request.parse(format!("GET / HTTP/1.1\r\n{head}\r\n").leak().as_bytes()).unwrap().is_complete());
        let mut to = Vec::new();
        append_forwarded(&mut to, request.headers);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn what_concerns_one_hop_alone_goes_no_further() {
        let table = [
            ("A: 1\r\nB: 2\r\nA: 3\r\n", "A: 1\r\nB: 2\r\nA: 3\r\n"),
            ("Connection: Upgrade, X-One ,, x-two\r\nX-One: 1\r\nX-TWO: 2\r\nX-Three: 3\r\n", "X-Three: 3\r\n"),
            ("connection: a\r\nConnection: b\r\nA: 1\r\nB: 2\r\nAB: 3\r\n", "AB: 3\r\n"),
            ("Keep-Alive: 5\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\nHost: h\r\n", ""),
            ("Upgrade: x\r\nHTTP2-Settings: AAMAAABk\r\n", ""),
            (
                "Proxy-Authorization: Basic dTpw\r\nproxy-connection: keep-alive\r\nPROXY-X: 1\r\nProxyX: 2\r\n",
                "ProxyX: 2\r\n",
            ),
            (
                "Authorization: Bearer t\r\nCookie: a=b\r\nProx: 1\r\n",
                "Authorization: Bearer t\r\nCookie: a=b\r\nProx: 1\r\n",
            ),
        ];
        for (head, expected) in table {
            assert_eq!(forwarded(head), expected, "{head}");
        }
    }

    #[test]
    fn a_line_ends_in_one_way() {
        assert!(one_line_ending(b"a\r\nb\r\n\r\n"));
        assert!(!one_line_ending(b"a\r\nb\n\r\n"));
        assert!(!one_line_ending(b"\n"));
    }
}
