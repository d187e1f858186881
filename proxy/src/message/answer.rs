//! The head of an answer, as an origin or a parent proxy sends it.

use std::borrow::Cow;

use httparse::{Error, Header, ParserConfig, Response, Status};

use super::foreign;
use super::head::{MAX_HEAD, MAX_HEADERS, known_minor_version, phrase};

/// Most 1xx answers before the final answer. RFC 9110, 15.2, sets no limit; servers send one or
/// two.
pub const MAX_INTERIM_ANSWERS: usize = 8;

/// A complete head.
#[derive(Debug)]
pub struct AnswerHead<'h> {
    /// The status code, from 0 to 999.
    pub status: u16,
    /// HTTP/1.0, without the meaning of some headers.
    pub is_http10: bool,
    /// The reason phrase, byte for byte.
    pub phrase: &'h [u8],
    /// The header lines in their order.
    pub headers: &'h [Header<'h>],
    /// All bytes of the head, the empty line included.
    pub bytes: &'h [u8],
}

/// Parses the head at the start of `bytes`, all bytes received so far, and passes it to `read`.
/// `None` means more bytes are needed, and never occurs with [`MAX_HEAD`] bytes or more.
///
/// White space between a name and its colon is removed, as RFC 9112, 5.1, requires of a proxy. In a
/// request it is an error, since a proxy in front may have read it differently, but the gateway
/// writes the answer anew for the client. A minor version above 1 is read as 1 (RFC 9110, 2.5).
///
/// # Errors
/// A description of the bytes, without any of their text.
pub fn answer<T>(bytes: &[u8], read: impl FnOnce(&AnswerHead<'_>) -> T) -> Result<Option<T>, Cow<'static, str>> {
    let window = &bytes[..bytes.len().min(MAX_HEAD)];
    let adapted = known_minor_version(window, 0);
    let window = adapted.as_deref().unwrap_or(window);
    let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = Response::new(&mut lines);
    let mut config = ParserConfig::default();
    config.allow_spaces_after_header_name_in_responses(true);
    match config.parse_response(&mut head, window) {
        Ok(Status::Complete(head_len)) => {
            let head = AnswerHead {
                status: head.code.unwrap_or_default(),
                is_http10: head.version == Some(0),
                phrase: phrase(window),
                headers: head.headers,
                bytes: &window[..head_len],
            };
            Ok(Some(read(&head)))
        }
        Ok(Status::Partial) if window.len() < MAX_HEAD => Ok(None),
        Ok(Status::Partial) => Err(format!("its head is longer than {MAX_HEAD} bytes").into()),
        Err(Error::TooManyHeaders) => Err(format!("its head has more than {MAX_HEADERS} header lines").into()),
        Err(_) => Err(match foreign::greeting(window) {
            Some(name) => format!("it is {name}, not HTTP/1.1").into(),
            None => "it is not HTTP/1.1".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_before_a_colon_is_left_out() {
        let head = b"HTTP/1.1 200 OK\r\nServer : x\r\nA\t \t:b\r\n\r\n";
        let lines = |head: &AnswerHead<'_>| {
            head.headers.iter().map(|line| (line.name.to_owned(), line.value.to_vec())).collect::<Vec<_>>()
        };
        let expected = [("Server".to_owned(), b"x".to_vec()), ("A".to_owned(), b"b".to_vec())];
        assert_eq!(answer(head, lines), Ok(Some(expected.to_vec())));
        // A name is still needed, and a folded line is still no line of its own.
        for broken in ["HTTP/1.1 200 OK\r\n : x\r\n\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n c: d\r\n\r\n"] {
            assert_eq!(answer(broken.as_bytes(), |_| ()), Err("it is not HTTP/1.1".into()), "{broken:?}");
        }
    }

    #[test]
    fn a_minor_version_above_1_is_read_as_1() {
        for version in 2..=9 {
            let head = format!("HTTP/1.{version} 200 OK\r\n\r\n");
            assert_eq!(answer(head.as_bytes(), |head| (head.status, head.is_http10)), Ok(Some((200, false))));
            for cut in 0..head.len() {
                assert_eq!(answer(&head.as_bytes()[..cut], |_| ()), Ok(None), "{head:?} to {cut}");
            }
        }
        for head in ["HTTP/1.10 200 OK\r\n\r\n", "HTTP/2.0 200 OK\r\n\r\n", "HTTP/0.9 200 OK\r\n\r\n"] {
            assert!(answer(head.as_bytes(), |_| ()).is_err(), "{head}");
        }
    }
}
