//! First bytes on a TLS listener.

use crate::message::{self, Foreign, Opening};
use crate::reason::{Reason, Refusal};
use crate::request::{self, MAX_HEAD};
use crate::tls::Hello;

/// Parses the ClientHello at the start of a TLS client's bytes; `None`: more bytes are needed.
pub(super) fn hello(bytes: &[u8]) -> Result<Option<Hello>, Refusal> {
    const PLAIN: &str = "plain HTTP on a TLS port; use https:// not http:// in the proxy URL";
    let is_http = match message::opening(bytes) {
        Opening::Known(Foreign::Tls) => Some(false),
        Opening::Known(Foreign::Http2) => Some(true),
        Opening::Known(foreign) => return Err(request::other_protocol(foreign)),
        Opening::Undecided => None,
        Opening::Unknown => message::opens_as_request(bytes),
    };
    match is_http {
        Some(true) => Err(Refusal::new(Reason::PlainHttp, PLAIN)),
        // A session refuses other bytes with an alert, and so a ClientHello larger than the buffer.
        Some(false) if bytes.len() < MAX_HEAD => Ok(Hello::parse(bytes)),
        Some(false) => Ok(Some(Hello { offers_http: false })),
        None => Ok(None),
    }
}
