//! Where a client wants to go: a host and a port in one normal form.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// A host, either a name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name: ASCII (IDNA A-labels), lower-case, without a trailing dot.
    Name(String),
    /// A literal address; an IPv4-mapped IPv6 one is held as the IPv4 one that it means.
    Address(IpAddr),
}

/// `host:port`, as named in a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip().to_canonical()), port: address.port() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
        }
    }
}
