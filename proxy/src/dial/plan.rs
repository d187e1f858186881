//! A plan for dialling a target, and the connection made by it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::cause;
use super::parents::Parent;
use crate::policy::Permit;
use crate::reason::Refusal;
use crate::sys::deadline::timeout;
use crate::sys::stream::Stream;
use crate::tls::Session;

/// Plan for dialling a target: [`Dialer::choose`] alone makes one, from a [`Permit`].
#[derive(Debug)]
pub struct DialPlan {
    /// The parent to dial; `None` to dial the target itself.
    pub parent: Option<Arc<Parent>>,
    /// Permit for the addresses to dial; without addresses if the name is left to the parent.
    pub(super) permit: Permit,
}

impl DialPlan {
    /// Description of the target or parent and its address.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// An established connection to a target, or through a parent.
#[derive(Debug)]
pub struct Upstream {
    /// Non-blocking.
    pub socket: TcpStream,
    /// TLS session with the parent, if it uses TLS.
    pub tls: Option<Box<Session>>,
    /// Where it leads: to the target, or to the parent.
    pub address: SocketAddr,
    /// The target's own address, unless its name was left to the parent.
    pub target: Option<SocketAddr>,
    /// Bytes received after the parent's answer.
    pub leftover: Vec<u8>,
    /// The parent, by its place.
    pub parent: Option<Arc<str>>,
}

impl Upstream {
    /// Sends `bytes` before any bytes of the tunnel, and returns the upstream.
    ///
    /// # Errors
    /// `ConnectTimeout` or `Unreachable`.
    pub async fn send_preamble(self, bytes: &[u8], limit: Duration) -> Result<Self, Refusal> {
        let Self { socket, tls, address, .. } = self;
        let mut stream = Stream::with(socket, tls);
        let sent = timeout(limit, stream.write_all(bytes)).await;
        let sent = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(|()| stream.into_parts());
        let (socket, tls) = sent.map_err(|error| cause::of_preamble(address, &error))?;
        Ok(Self { socket, tls, ..self })
    }
}
