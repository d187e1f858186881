//! A way to a target: the one that is meant, and the one that stands.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::{Parent, cause};
use crate::policy::Permit;
use crate::reason::Refusal;
use crate::sys::deadline::timeout;
use crate::sys::stream::Stream;
use crate::tls::Session;

/// How a target is dialled: made of a [`Permit`] by [`Dialer::choose`] alone.
#[derive(Debug)]
pub struct DialPlan {
    /// The parent that is asked, if not the target itself.
    pub parent: Option<Arc<Parent>>,
    /// For those addresses that are meant; none if the name is left to the parent.
    pub(super) permit: Permit,
}

impl DialPlan {
    /// What is dialled, and where.
    #[must_use]
    pub const fn permit(&self) -> &Permit {
        &self.permit
    }
}

/// A way to a target that stands.
#[derive(Debug)]
pub struct Upstream {
    /// Non-blocking.
    pub socket: TcpStream,
    /// What the parent speaks TLS by, if it does.
    pub tls: Option<Box<Session>>,
    /// Where it leads: to the target, or to the parent.
    pub address: SocketAddr,
    /// The target's own address, unless its name was left to the parent.
    pub target: Option<SocketAddr>,
    /// What came behind the parent's answer.
    pub leftover: Vec<u8>,
    /// The parent, by its place.
    pub parent: Option<Arc<str>>,
}

impl Upstream {
    /// The same, when it has been sent these bytes, before any of the tunnel's.
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
