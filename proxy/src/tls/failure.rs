//! Errors of a session: broken TLS, and the unannounced end of a connection.

use std::error::Error;
use std::fmt;
use std::io::{self, ErrorKind};

use rustls::CertificateError;

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

/// Returns rustls's message for a failure, with the remedy where the message has none
/// (`rustls-webpki`, `error.rs`).
pub(super) fn words(error: &rustls::Error) -> String {
    let rustls::Error::InvalidCertificate(wrong) = error else { return error.to_string() };
    let known = match wrong {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the certificate is not signed by a trusted CA; name its CA with --parent-ca"
        }
        // The error's type belongs to a crate not used here otherwise.
        CertificateError::Other(wrong) => match wrong.to_string().as_str() {
            wrong if wrong.contains("CaUsedAsEndEntity") => {
                "a CA certificate does not identify a server: use one with basicConstraints=CA:FALSE"
            }
            wrong if wrong.contains("UnsupportedCertVersion") => {
                "not a certificate of X.509 version 3, so it has no names: make another one"
            }
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    known.to_owned()
}
