//! Parts of a request head that CONNECT and Upgrade read alike, and their refusals.

use std::borrow::Cow;

use httparse::Header;

use crate::message::all;
use crate::reason::{Reason, Refusal};
use crate::target::TargetError;

/// The protocol version in the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0, as rsync sends it.
    Http10,
    /// HTTP/1.1, or a higher minor version.
    Http11,
}

pub(super) fn refuse<T>(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Result<T, Refusal> {
    Err(Refusal::new(reason, detail))
}

pub(super) fn bad_target(error: TargetError) -> Refusal {
    Refusal::new(Reason::BadTarget, error.to_string())
}

/// Returns the value of a header that may come once. A repeated header is refused even with an
/// equal value: parsers differ on which one counts.
pub(super) fn only<'h>(
    headers: &'h [Header<'h>],
    name: &'static str,
    twice: &'static str,
) -> Result<Option<&'h [u8]>, Refusal> {
    let mut values = all(headers, name);
    let first = values.next();
    if values.next().is_some() { refuse(Reason::Malformed, twice) } else { Ok(first) }
}

/// Returns the value of a header that may be repeated with equal values, as tinyproxy forwards
/// credentials: there is one reading. Different values are refused.
pub(super) fn same<'h>(
    headers: &'h [Header<'h>],
    name: &'static str,
    differ: &'static str,
) -> Result<Option<&'h [u8]>, Refusal> {
    let mut values = all(headers, name);
    let first = values.next();
    if values.any(|value| Some(value) != first) { refuse(Reason::Malformed, differ) } else { Ok(first) }
}
