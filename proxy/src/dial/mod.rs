//! The way to a target: resolve its name, then connect to the first permitted address that answers.
//!
//! [`Dialer::dial`] takes a [`Permit`] and nothing else, so no socket is opened to an address that the
//! policy has not seen. A name is resolved once, before the policy judges its addresses.

mod cause;
mod race;
mod resolve;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::metrics::DIAL_DURATION;
use crate::policy::{Named, Permit};
use crate::reason::Refusal;
use crate::sys::socket::{LegOptions, apply, bind_source, is_local_address};
use crate::target::Host;

use resolve::Resolver;

/// All addresses of a target together have so many times the time of one.
const TOTAL: u32 = 3;

/// How origins are dialled.
#[derive(Clone, Debug)]
pub struct Options {
    timeout: Duration,
    source: Vec<IpAddr>,
    leg: LegOptions,
}

impl Options {
    /// `timeout` is for one address; all of a target's together have three times that. `source` are
    /// the local addresses to dial from, one a family at most; a family without one is left to the
    /// kernel. `leg` are the options of the origin's socket.
    ///
    /// # Errors
    /// Two sources of a family, or one that this host does not have.
    pub fn new(timeout: Duration, source: &[IpAddr], leg: LegOptions) -> Result<Self, String> {
        let source: Vec<_> = source.iter().map(IpAddr::to_canonical).collect();
        for (place, address) in source.iter().enumerate() {
            if let Some(other) = source[..place].iter().find(|other| other.is_ipv4() == address.is_ipv4()) {
                return Err(format!("--source {other} and {address} are of one family: leave one of the two out"));
            }
            if !is_local_address(*address) {
                return Err(format!("--source {address}: this host has no such address: see `ip address`"));
            }
        }
        Ok(Self { timeout, source, leg })
    }
}

/// Resolves names and dials permitted addresses.
#[derive(Debug)]
pub struct Dialer {
    options: Arc<Options>,
    resolver: Resolver,
}

impl Dialer {
    /// A dialer that resolves by getaddrinfo(3): the hosts file and the search list of the host count.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self::with_lookup(options, resolve::system)
    }

    /// A dialer that resolves by `lookup`, which may block and is called on threads of its own. The
    /// ports of what it returns mean nothing.
    pub fn with_lookup(
        options: Options,
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
    ) -> Self {
        Self { options: Arc::new(options), resolver: Resolver::new(lookup, resolve::Limits::default()) }
    }

    /// The addresses of a target with its port, at most 16, families alternating; a literal address
    /// is its own.
    ///
    /// # Errors
    /// `ResolveFailed`, `ResolveTimeout`, or `Exhausted` if too many names wait already.
    pub async fn resolve(&self, named: &Named) -> Result<Vec<SocketAddr>, Refusal> {
        let target = named.target();
        let mut addresses = match &target.host {
            Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
            Host::Name(name) => self.resolver.resolve(name).await?,
        };
        addresses.iter_mut().for_each(|address| address.set_port(target.port));
        Ok(addresses)
    }

    /// Connects to the first permitted address that answers, by Happy Eyeballs (RFC 8305).
    ///
    /// # Errors
    /// The most telling failure of all: `ConnectRefused`, `ConnectTimeout`, `Unreachable` or
    /// `Exhausted`.
    pub async fn dial(&self, permit: Permit) -> Result<(TcpStream, SocketAddr), Refusal> {
        let began = Instant::now();
        let timeout = self.options.timeout;
        let addresses = race::interleave(permit.addresses());
        let connect = |address| connect(self.options.clone(), address);
        let connected = race::race(&addresses, timeout, timeout * TOTAL, connect).await;
        let connected = connected.map_err(|failures| cause::refusal(permit.target(), &failures, timeout))?;
        DIAL_DURATION.histogram().record(began.elapsed().as_secs_f64());
        Ok(connected)
    }
}

async fn connect(options: Arc<Options>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    apply(&socket, &options.leg)?;
    if let Some(source) = options.source.iter().find(|source| source.is_ipv4() == address.is_ipv4()) {
        bind_source(&socket, *source)?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
    match is_self_connected(&stream)? {
        true => Err(io::ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
    }
}

/// Whether the kernel has chosen the target's own port as the source and so joined the socket to
/// itself, which TCP's simultaneous open allows (RFC 9293, 3.5): nobody listens there.
fn is_self_connected(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.local_addr()? == stream.peer_addr()?)
}

#[cfg(test)]
mod tests;
