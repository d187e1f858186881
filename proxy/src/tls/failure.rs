//! Errors of a session: broken TLS, and the unannounced end of a connection.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

/// The peer ended the connection without close_notify. Many do so when they are done; it looks like
/// a stream cut by a third party (RFC 8446, 6.1).
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

/// Returns true if an error is the unannounced end of a connection.
#[must_use]
pub fn is_truncation(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Truncated>())
}

/// Copies an error, for the next call.
pub(super) fn once_more(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None if is_truncation(error) => truncated(),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

/// Creates the error of a broken TLS session.
pub(super) fn broken(how: &str) -> io::Error {
    io::Error::new(ErrorKind::ConnectionReset, format!("TLS: {how}"))
}
