//! The ClientHello, read ahead of its session to choose the configuration.

use rustls::server::Acceptor;

/// Protocol that a client of an https proxy may offer to speak in TLS (RFC 7301).
pub(super) const HTTP: &[u8] = b"http/1.1";

/// Bytes of a record before its content (RFC 8446, 5.1).
const RECORD_HEADER: usize = 5;

/// The parts of a ClientHello used by the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// `http/1.1` is among the protocols that the client offers.
    pub offers_http: bool,
}

impl Hello {
    /// Parses `bytes`, all bytes of the client so far; `None`: more are needed. Bytes other than a
    /// ClientHello are left to the session, to be answered with an alert.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        const UNREADABLE: Hello = Hello { offers_http: false };
        let &[_, _, _, high, low, ..] = bytes else { return None };
        // Most have come whole, and a part of a record says nothing.
        if bytes.len() < RECORD_HEADER + usize::from(u16::from_be_bytes([high, low])) && bytes[0] == 0x16 {
            return None;
        }
        let (mut acceptor, mut rest) = (Acceptor::default(), bytes);
        while !rest.is_empty() && matches!(acceptor.read_tls(&mut rest), Ok(1..)) {
            match acceptor.accept() {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let offers_http = hello.alpn().is_some_and(|mut offered| offered.any(|name| name == HTTP));
                    return Some(Self { offers_http });
                }
                Err(_) => return Some(UNREADABLE),
            }
        }
        // The acceptor takes no more of it.
        if rest.is_empty() { None } else { Some(UNREADABLE) }
    }
}
