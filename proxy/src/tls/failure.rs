//! Errors of a session: TLS that broke, and the end of a connection that its TLS did not announce.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

/// The peer ended the connection without close_notify. Many do so when they are done; it cannot be told from a stream that
/// somebody else has cut (RFC 8446, 6.1).
#[derive(Debug)]
struct Truncated;

impl fmt::Display for Truncated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TLS: ended without close_notify")
    }
}

impl Error for Truncated {}

/// The error of reading such an end.
pub(super) fn truncated() -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, Truncated)
}

/// Tells whether an error is the end of a connection that its TLS did not announce.
#[must_use]
pub fn is_truncation(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Truncated>())
}

/// The same error once more, for the next call.
pub(super) fn once_more(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None if is_truncation(error) => truncated(),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// The error of TLS that cannot go on.
pub(super) fn broken(how: &str) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, format!("TLS: {how}"))
}
