//! A tunnel through a parent proxy: the request and the answer.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use rustls::pki_types::ServerName;

use super::parents::Parent;
use crate::message::{self, MAX_HEAD, MAX_INTERIM_ANSWERS, append};
use crate::reason::{Reason, Refusal};
use crate::sys::deadline::timeout;
use crate::sys::stream::Stream;
use crate::tls::RootStore;

/// Longest part of a parent's reason phrase to copy into the gateway's own, in characters.
const MAX_PHRASE_CHARS: usize = 160;

/// Characters kept from the beginning of a longer phrase; the remaining length is kept from its
/// end. In a chain of gateways each puts its own words in front, so the cause stands last.
const PHRASE_START_CHARS: usize = 40;

/// Stands where characters were left out.
const LEFT_OUT: &str = " ... ";

/// Asks for a tunnel to `authority`, and returns the bytes after the answer's head, which belong to
/// the tunnel.
///
/// `via`: the proxies of the request, including this gateway.
///
/// # Errors
/// [`Reason::ParentRefused`], [`Reason::ParentTimeout`], or [`Reason::BadAnswer`].
pub(super) async fn ask(
    parent: &Parent,
    stream: &mut Stream,
    authority: &str,
    via: &str,
    limit: Duration,
) -> Result<Vec<u8>, Refusal> {
    let asked = timeout(limit, async {
        stream.write_all(&request(parent, authority, via)).await.map_err(|error| broke_off(parent, &error))?;
        let (mut buffer, mut interim) = (Vec::new(), 0);
        loop {
            while let Some(answer) = parse(&buffer).map_err(|why| no_answer(parent, &why))? {
                let behind = buffer.split_off(answer.head_len);
                match answer.status {
                    200..300 => return Ok(behind),
                    // Another answer follows (RFC 9110, 15.2).
                    100 | 102..200 if interim < MAX_INTERIM_ANSWERS => (buffer, interim) = (behind, interim + 1),
                    100 | 102..200 => return Err(no_answer(parent, "more than 8 interim answers")),
                    _ => return Err(answer.refusal(parent)),
                }
            }
            buffer.reserve_exact(MAX_HEAD.saturating_sub(buffer.len()).max(1));
            match stream.read_buf(&mut buffer).await {
                Ok(0) => return Err(no_answer(parent, "closed before it was complete")),
                Ok(_) => {}
                Err(error) => return Err(broke_off(parent, &error)),
            }
        }
    });
    asked.await.unwrap_or_else(|_| {
        let limit = humantime::format_duration(limit);
        Err(Refusal::new(
            Reason::ParentTimeout,
            format!("no answer from {parent} within {limit} (three times --dial-timeout)"),
        ))
    })
}

/// Performs the TLS handshake with a parent and verifies its certificate for `name`.
///
/// # Errors
/// [`Reason::ParentTls`].
pub(super) async fn secure(
    parent: &Parent,
    stream: &mut Stream,
    trust: Option<&RootStore>,
    name: &ServerName<'static>,
    limit: Duration,
) -> Result<(), Refusal> {
    let failed = |why: String| Refusal::new(Reason::ParentTls, format!("TLS handshake with {parent} failed: {why}"));
    let trust = trust.ok_or_else(|| failed("no trusted CA certificates".to_owned()))?;
    let session = trust.session(name.clone()).map_err(|error| failed(error.to_string()))?;
    match timeout(limit, stream.secure(session, &[])).await {
        Ok(secured) => secured.map(drop).map_err(|error| failed(error.to_string())),
        Err(_) => {
            let limit = humantime::format_duration(limit);
            Err(failed(format!("not complete within {limit} (three times --dial-timeout)")))
        }
    }
}

fn request(parent: &Parent, authority: &str, via: &str) -> Vec<u8> {
    let mut head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n").into_bytes();
    if let Some(authorization) = &parent.authorization {
        append(&mut head, "Proxy-Authorization", authorization.expose());
    }
    append(&mut head, "Via", via.as_bytes());
    head.extend_from_slice(b"\r\n");
    head
}

fn no_answer(parent: &Parent, why: &str) -> Refusal {
    Refusal::new(Reason::BadAnswer, format!("invalid answer from {parent}: {why}"))
}

fn broke_off(parent: &Parent, error: &io::Error) -> Refusal {
    no_answer(parent, &format!("it broke off: {error}"))
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    phrase: String,
    head_len: usize,
}

impl Answer {
    fn refusal(&self, parent: &Parent) -> Refusal {
        let phrase = shortened(&self.phrase);
        Refusal::new(
            Reason::ParentRefused,
            format!("{parent} answered {:03} {phrase}", self.status).trim_end().to_owned(),
        )
    }
}

/// The phrase without control characters, and without its middle where it is too long.
fn shortened(phrase: &str) -> String {
    let chars: Vec<char> = phrase.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    if chars.len() <= MAX_PHRASE_CHARS {
        return chars.into_iter().collect();
    }
    let end = chars.len() - (MAX_PHRASE_CHARS - PHRASE_START_CHARS - LEFT_OUT.len());
    let [start, end] = [&chars[..PHRASE_START_CHARS], &chars[end..]].map(|part| part.iter().collect::<String>());
    [start.trim_end(), LEFT_OUT, end.trim_start()].concat()
}

/// Reads the head at the start of the received bytes. A 2xx answer to CONNECT has no content,
/// despite any header about content (RFC 9110, 9.3.6).
fn parse(bytes: &[u8]) -> Result<Option<Answer>, Cow<'static, str>> {
    message::answer(bytes, |head| Answer {
        status: head.status,
        phrase: String::from_utf8_lossy(head.phrase).into_owned(),
        head_len: head.bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_where_it_ends() {
        let table: &[(&[u8], u16, &str)] = &[
            ("HTTP/1.1 403 f\u{fc}r  ann verweigert\r\n\r\n".as_bytes(), 403, "f\u{fc}r  ann verweigert"),
            (b"HTTP/1.1 200 Connection established\r\n\r\n", 200, "Connection established"),
            (b"HTTP/1.0 200\r\nProxy-Agent: old\r\n\r\n", 200, ""),
            (b"HTTP/1.1 200 OK\r\nServer : x\r\n\r\n", 200, "OK"),
            (b"HTTP/1.2 200 OK\r\n\r\n", 200, "OK"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 200, "OK"),
            (
                b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
                407,
                "Proxy Authentication Required",
            ),
        ];
        for &(head, status, phrase) in table {
            for cut in 0..head.len() {
                assert_eq!(parse(&head[..cut]), Ok(None), "{}", head[..cut].escape_ascii());
            }
            let answer = parse(&[head, b"\x16\x03\x01"].concat()).unwrap().unwrap();
            assert_eq!((answer.status, answer.phrase.as_str(), answer.head_len), (status, phrase, head.len()));
        }
        assert_eq!(parse(b"SSH-2.0-OpenSSH\r\n"), Err("it is SSH, not HTTP/1.1".into()));
        assert_eq!(parse(b"\x05\xff"), Err("it is SOCKS, not HTTP/1.1".into()));
        assert!(parse(&[b"HTTP/1.1 200 OK\r\nA: ", &[b'b'; MAX_HEAD][..]].concat()).is_err());
    }

    /// However many hops add their words in front.
    #[test]
    fn the_cause_stays_in_a_phrase_that_is_cut() {
        let cause = "connection refused by [2001:db8:1234:5678:9abc:def0:1234:5678]:65535";
        let mut phrase = format!("Bad Gateway: {cause}");
        for hop in 0..9 {
            phrase = format!("Bad Gateway: the parent proxy 192.0.2.{hop}:3128 answered 502 {}", shortened(&phrase));
            assert!(phrase.ends_with(cause), "{phrase}");
            assert!(phrase.starts_with("Bad Gateway: the parent proxy "), "{phrase}");
            assert!(shortened(&phrase).chars().count() <= MAX_PHRASE_CHARS, "{phrase}");
        }
        assert_eq!(shortened("short\u{7}"), "short?");
        assert_eq!(shortened(&"\u{fc}".repeat(MAX_PHRASE_CHARS)).chars().count(), MAX_PHRASE_CHARS);
    }
}
