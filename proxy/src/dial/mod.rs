//! The way to a target: resolve its name, then connect to the first permitted address that answers.
//!
//! [`Dialer::dial`] takes a [`Permit`] and nothing else, so no socket is opened to an address that the
//! policy has not seen. A name is resolved once, before the policy judges its addresses.

mod cause;
mod race;
mod resolve;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::Histogram;
use socket2::{Domain, Protocol, Socket, Type};

use crate::metrics::DIAL_DURATION;
use crate::policy::{Named, Permit};
use crate::reason::Refusal;
use crate::sys::socket::{LegOptions, apply, bind_source, is_local_address};
use crate::sys::stream::Stream;
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
    /// The options of the sockets that are dialled.
    #[must_use]
    pub const fn leg(&self) -> &LegOptions {
        &self.leg
    }

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
    options: Options,
    /// Of [`DIAL_DURATION`], looked up at the first dial.
    duration: OnceLock<Histogram>,
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
        Self { options, duration: OnceLock::new(), resolver: Resolver::new(lookup, resolve::Limits::default()) }
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
            Host::Name(name) => Box::pin(self.resolver.resolve(name)).await?,
        };
        addresses.iter_mut().for_each(|address| address.set_port(target.port));
        Ok(addresses)
    }

    /// Connects to the first permitted address that answers, by Happy Eyeballs (RFC 8305). The socket is
    /// non-blocking.
    ///
    /// # Errors
    /// The most telling failure of all: `ConnectRefused`, `ConnectTimeout`, `Unreachable` or
    /// `Exhausted`.
    pub async fn dial(&self, permit: Permit) -> Result<(TcpStream, SocketAddr), Refusal> {
        let began = Instant::now();
        let timeout = self.options.timeout;
        let addresses = race::interleave(permit.addresses());
        let connect = |address| connect(&self.options, address);
        let connected = race::race(&addresses, timeout, timeout * TOTAL, connect).await;
        let connected = connected.map_err(|failures| cause::refusal(permit.target(), &failures, timeout))?;
        self.duration.get_or_init(|| DIAL_DURATION.histogram()).record(began.elapsed());
        Ok(connected)
    }
}

async fn connect(options: &Options, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    apply(&socket, &options.leg)?;
    if let Some(source) = options.source.iter().find(|source| source.is_ipv4() == address.is_ipv4()) {
        bind_source(&socket, *source)?;
    }
    let mut stream = Stream::new(socket.into());
    stream.connect(address).await?;
    let stream = stream.into_std()?;
    match is_self_connected(&stream, address)? {
        true => Err(io::ErrorKind::ConnectionRefused.into()),
        false => Ok(stream),
    }
}

/// Whether the kernel has chosen the target's own port as the source and so joined the socket to
/// itself, which TCP's simultaneous open allows (RFC 9293, 3.5): nobody listens there.
fn is_self_connected(stream: &TcpStream, dialled: SocketAddr) -> io::Result<bool> {
    let own = stream.local_addr()?;
    // The peer is asked for only then, since it may have another address than was dialled: 0.0.0.0.
    Ok(own.port() == dialled.port() && own == stream.peer_addr()?)
}

#[cfg(test)]
mod tests;
