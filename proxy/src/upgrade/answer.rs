//! Parser of an origin's answer: bytes in, a head for the client or a refusal out; pure.
//!
//! An answer with an end that the client might see elsewhere is refused: an origin able to make a
//! client see a forged answer can speak for others (RFC 9112, 11.1). Line folding and a lone LF are
//! refused, and so are two lengths, or a length beside chunks, where content may follow. No content
//! follows a 1xx, a 204, a 304 and an answer to HEAD, whatever the fields (RFC 9112, 6.3): a length
//! there has no effect.

use httparse::Header;

use crate::message::{
    self, AnswerHead, Content, Framing, VIA, all, append, append_forwarded, elements, one_line_ending,
};
use crate::reason::{Reason, Refusal};
use crate::request::Upgrade;

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Head for the client: without hop-by-hop headers, and with the end of the connection unless
    /// it is a 1xx.
    pub(super) head: Vec<u8>,
    /// Content behind the head. None behind a 1xx: the next answer follows, or the tunnel.
    pub(super) content: Content,
    /// The length of the head as it came.
    pub(super) head_len: usize,
}

/// The origin has switched protocols.
pub(super) const SWITCHED: u16 = 101;

impl Answer {
    /// Another one follows.
    pub(super) const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != SWITCHED
    }
}

/// Parses the head at the start of `bytes`, all bytes received and not yet consumed. `None` means
/// that more bytes are needed; never returned for [`MAX_HEAD`] bytes or more.
///
/// # Errors
/// [`Reason::BadAnswer`]; no word of the origin's is in it.
pub(super) fn parse(bytes: &[u8], asked: &Upgrade) -> Result<Option<Answer>, Refusal> {
    match message::answer(bytes, |head| read(head, asked)) {
        Ok(answer) => answer.transpose(),
        Err(why) => bad(&why),
    }
}

/// Refuses a malformed answer.
pub(super) fn bad<T>(why: &str) -> Result<T, Refusal> {
    Err(Refusal::new(Reason::BadAnswer, format!("invalid answer from the origin: {why}")))
}

fn read(head: &AnswerHead<'_>, asked: &Upgrade) -> Result<Answer, Refusal> {
    let &AnswerHead { status, headers, .. } = head;
    if !one_line_ending(head.bytes) {
        return bad("a line of the head ends in LF without CR");
    }
    if !(100..600).contains(&status) {
        return bad("invalid status");
    }
    let framing = framing(headers, head.is_http10);
    let (content, framing, leftover) = match status {
        SWITCHED => {
            is_asked_for(headers, asked, head.is_http10)?;
            (Content::NONE, Framing::Unsaid, "Upgrade")
        }
        100..200 => (Content::NONE, Framing::Unsaid, ""),
        204 => (Content::NONE, Framing::Unsaid, "close"),
        // Here it is the length the content would have, if known.
        _ if status == 304 || asked.is_head => (Content::NONE, framing.unwrap_or(Framing::Unsaid), "close"),
        _ => {
            let framing = framing?;
            (framing.content(Content::UntilClose), framing, "close")
        }
    };
    let mut to_client = [format!("HTTP/1.1 {status:03} ").as_bytes(), head.phrase, b"\r\n"].concat();
    append_forwarded(&mut to_client, headers);
    // A 304 has no content to come in chunks (RFC 9112, 6.1).
    if !(status == 304 && framing == Framing::Chunked) {
        framing.append(&mut to_client);
    }
    to_client.extend_from_slice(VIA);
    // Behind a 426 as well; its Upgrade names the required protocols (RFC 9110, 15.5.22).
    let upgrades: Vec<_> = all(headers, "Upgrade").filter(|line| !line.is_empty()).collect();
    match (leftover, upgrades.is_empty()) {
        ("", _) => {}
        ("close", false) => append(&mut to_client, "Connection", b"close, Upgrade"),
        (leftover, _) => append(&mut to_client, "Connection", leftover.as_bytes()),
    }
    for line in upgrades.into_iter().filter(|_| !leftover.is_empty()) {
        append(&mut to_client, "Upgrade", line);
    }
    to_client.extend_from_slice(b"\r\n");
    Ok(Answer { status, head: to_client, content, head_len: head.bytes.len() })
}

/// Returns true if a 101 switches to a requested protocol, as it must (RFC 9110, 7.8).
fn is_asked_for(headers: &[Header<'_>], asked: &Upgrade, is_http10: bool) -> Result<(), Refusal> {
    let mut protocols = elements(headers, "Upgrade").peekable();
    if is_http10 || protocols.peek().is_none() {
        return bad("its 101 names no protocol");
    }
    // Without versions: a server may name another one than it was asked for (RFC 9110, 7.8:
    // "websocket/13").
    let name = |protocol: &[u8]| protocol.split(|&byte| byte == b'/').next().map(<[u8]>::to_ascii_lowercase);
    let wanted: Vec<_> = asked.protocols.split(", ").map(|protocol| name(protocol.as_bytes())).collect();
    if protocols.all(|protocol| wanted.contains(&name(protocol))) {
        Ok(())
    } else {
        bad("its 101 is for a protocol that was not requested")
    }
}

/// Returns the framing of an answer's content.
fn framing(headers: &[Header<'_>], is_http10: bool) -> Result<Framing, Refusal> {
    let mut lengths = all(headers, "Content-Length").map(message::length);
    let length = lengths.next();
    if lengths.any(|other| Some(other) != length) {
        return bad("two different lengths");
    }
    let mut codings = all(headers, "Transfer-Encoding");
    match (length, codings.next(), codings.next()) {
        (None, None, _) => Ok(Framing::Unsaid),
        (Some(Some(length)), None, _) => Ok(Framing::Length(length)),
        (Some(None), None, _) => bad("invalid Content-Length"),
        (Some(_), Some(_), _) => bad("both Content-Length and Transfer-Encoding"),
        (None, Some(coding), None) if !is_http10 && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(_), _) => bad("unsupported Transfer-Encoding"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{MAX_HEAD, MAX_HEADERS};
    use crate::secret::Secret;

    fn asked(is_head: bool) -> Upgrade {
        let protocols = "SPDY/3.1, websocket".to_owned();
        Upgrade { head: Secret::default(), content: Content::NONE, is_head, protocols }
    }

    fn read(bytes: &str, is_head: bool) -> Answer {
        let asked = asked(is_head);
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes.as_bytes()[..cut], &asked), Ok(None), "{bytes:?} to {cut}");
        }
        let leftover = [bytes.as_bytes(), b"\0\n\r\n"].concat();
        let answer = parse(&leftover, &asked).unwrap_or_else(|refusal| panic!("{bytes:?}: {refusal}")).unwrap();
        assert_eq!(answer.head_len, bytes.len());
        answer
    }

    #[test]
    fn what_goes_to_the_client() {
        let table = [
            (
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nUpgrade: SPDY/3.1\r\n\
                 X-Stream-Protocol-Version: v4\r\n\r\n",
                "HTTP/1.1 101 Switching Protocols\r\nX-Stream-Protocol-Version: v4\r\nVia: 1.1 sluicegate\r\n\
                 Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 101 \r\nupgrade: WebSocket/13\r\n\r\n",
                "HTTP/1.1 101 \r\nVia: 1.1 sluicegate\r\nConnection: Upgrade\r\nUpgrade: WebSocket/13\r\n\r\n",
                Content::NONE,
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\nVia: 1.1 sluicegate\r\n\r\n", Content::NONE),
            (
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: close\r\nUpgrade: x\r\n\r\n",
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nVia: 1.1 sluicegate\r\n\r\n",
                Content::NONE,
            ),
            // A 1xx ends at the empty line whatever its fields say of content.
            (
                "HTTP/1.1 101 OK\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n",
                "HTTP/1.1 101 OK\r\nVia: 1.1 sluicegate\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 101 OK\r\nUpgrade: SPDY/3.1\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 101 OK\r\nVia: 1.1 sluicegate\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
                "HTTP/1.1 100 Continue\r\nVia: 1.1 sluicegate\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 103 Hints\r\nTransfer-Encoding: chunked\r\nLink: </a>\r\n\r\n",
                "HTTP/1.1 103 Hints\r\nLink: </a>\r\nVia: 1.1 sluicegate\r\n\r\n",
                Content::NONE,
            ),
            // So do a 204 and a 304, also where the fields contradict each other.
            (
                "HTTP/1.1 204 No\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
                "HTTP/1.1 204 No\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 304 No\r\nContent-Length: x\r\n\r\n",
                "HTTP/1.1 304 No\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 403 Forbidden\r\nServer : x\r\nContent-Length\t: 5\r\n\r\n",
                "HTTP/1.1 403 Forbidden\r\nServer: x\r\nContent-Length: 5\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::Length(5),
            ),
            (
                "HTTP/1.7 204 No\r\n\r\n",
                "HTTP/1.1 204 No\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nContent-Length: 5\r\nProxy-Authenticate: Basic\r\n\r\n",
                "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::Length(5),
            ),
            (
                "HTTP/1.1 426 Upgrade Required\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n",
                "HTTP/1.1 426 Upgrade Required\r\nTransfer-Encoding: chunked\r\nVia: 1.1 sluicegate\r\n\
                 Connection: close, Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
                Content::chunked(),
            ),
            (
                "HTTP/1.0 200 OK\r\nServer: old\r\n\r\n",
                "HTTP/1.1 200 OK\r\nServer: old\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::UntilClose,
            ),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::NONE,
            ),
            (
                "HTTP/1.1 204 Nichts f\u{fc}r dich\r\nContent-Length: 5\r\n\r\n",
                "HTTP/1.1 204 Nichts f\u{fc}r dich\r\nVia: 1.1 sluicegate\r\nConnection: close\r\n\r\n",
                Content::NONE,
            ),
        ];
        for (bytes, head, content) in table {
            let answer = read(bytes, false);
            assert_eq!(String::from_utf8(answer.head).unwrap(), head, "{bytes:?}");
            assert_eq!(answer.content, content, "{bytes:?}");
        }
        let answer = read("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", true);
        assert_eq!(answer.content, Content::NONE);
        assert!(String::from_utf8(answer.head).unwrap().contains("Content-Length: 99\r\n"));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_no_answer() {
        let oversized = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        let table = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "two different lengths"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: x\r\n\r\n", "two different lengths"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", "invalid Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", "invalid Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "both Content-Length"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "unsupported Transfer-Encoding"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
                "unsupported Transfer-Encoding",
            ),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "unsupported Transfer-Encoding"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "not HTTP/1.1"),
            ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "not HTTP/1.1"),
            ("HTTP/1.1 200 OK\nA: b\n\n", "LF without CR"),
            ("HTTP/2 200\r\n\r\n", "it is HTTP/2, not HTTP/1.1"),
            ("SSH-2.0-OpenSSH\r\n", "it is SSH, not HTTP/1.1"),
            ("garbage\r\n", "it is not HTTP/1.1"),
            ("HTTP/1.1 600 Odd\r\n\r\n", "invalid status"),
            ("HTTP/1.1 099 Odd\r\n\r\n", "invalid status"),
            ("HTTP/1.1 101 OK\r\nConnection: Upgrade\r\n\r\n", "names no protocol"),
            ("HTTP/1.0 101 OK\r\nUpgrade: SPDY/3.1\r\n\r\n", "names no protocol"),
            ("HTTP/1.1 101 OK\r\nUpgrade: h2c\r\n\r\n", "was not requested"),
            ("HTTP/1.1 101 OK\r\nUpgrade: SPDY/3.1, h2c\r\n\r\n", "was not requested"),
            (&oversized, "longer than 16384"),
            (&many, "more than 64 header lines"),
        ];
        for (bytes, word) in table {
            let refusal = parse(bytes.as_bytes(), &asked(false)).unwrap_err();
            assert_eq!(refusal.reason, Reason::BadAnswer, "{bytes:?}");
            assert!(refusal.detail.contains(word), "{bytes:?}: {refusal}");
        }
        let oversized = parse(oversized.as_bytes(), &asked(true)).unwrap_err();
        assert!(oversized.detail.contains("longer than 16384"), "{oversized}");
    }
}
