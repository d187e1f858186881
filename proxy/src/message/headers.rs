//! Header lines: reading values and lists, and forwarding the end-to-end ones.

use httparse::Header;

/// The gateway's Via line in forwarded messages (RFC 9110, 7.6.3).
pub const VIA: &[u8] = b"Via: 1.1 sluicegate\r\n";

/// Hop-by-hop headers, named by `Connection` or not (RFC 9110, 7.6.1), and headers rewritten for
/// the next hop: the framing and, in a request, the host. All headers beginning with `Proxy-` are
/// removed too.
const OF_ONE_HOP: [&str; 8] =
    ["Connection", "Keep-Alive", "TE", "Transfer-Encoding", "Content-Length", "Upgrade", "Host", "HTTP2-Settings"];

/// Returns the values of all headers of a name, in their order.
pub fn all<'h>(headers: &'h [Header<'h>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Returns the elements of a list header, over all its lines (RFC 9110, 5.6.1).
pub fn elements<'h>(headers: &'h [Header<'h>], name: &'static str) -> impl Iterator<Item = &'h [u8]> {
    all(headers, name).flat_map(elements_of)
}

/// Returns the elements of one line of a list header.
pub fn elements_of(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Parses a `Content-Length`: digits alone (RFC 9110, 8.6), and no more than fit 64 bits.
#[must_use]
pub fn length(value: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok()
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
    use super::super::head::MAX_HEADERS;
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
}
