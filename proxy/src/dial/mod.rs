//! Dialling a target: name resolution, then a connection to the first permitted address that
//! answers.
//!
//! [`Dialer::dial`] takes a [`Permit`] and nothing else, so no socket is opened to an address
//! before the policy has judged it. A name is resolved once, before the policy judges its
//! addresses.
//!
//! `--parent` can route a target through another proxy. The gateway asks that proxy for a tunnel
//! before it answers the client. An entry for names leaves name resolution to the parent. An entry
//! for networks applies to the addresses judged by the policy, and the gateway asks the parent for
//! one of those addresses.

mod cause;
mod parent;
mod parents;
mod plan;
mod race;
mod resolve;
mod search;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::Histogram;
use socket2::{Domain, Protocol, Socket, Type};

use crate::metrics::{DIAL_DURATION, PARENT_REQUESTS};
use crate::policy::{Named, Permit};
use crate::principal::Principal;
use crate::reason::{Reason, Refusal};
use crate::sys::descriptors::{self, Purpose};
use crate::sys::socket::{LegOptions, apply, bind_source, is_local_address};
use crate::sys::stream::Stream;
use crate::target::{Host, Target};
use crate::tls::RootStore;

pub use parents::{Parent, Parents, Route};
pub use plan::{DialPlan, Upstream};
pub use resolve::{LOOKUPS_EACH, ResolverKind};
pub use search::{Candidates, Location, SearchDomain};

use resolve::Resolver;

/// Time for all addresses of a target together, in multiples of the time for one.
const TOTAL: u32 = 3;

/// Connects to origins, directly or through parents.
#[derive(Clone, Debug)]
pub struct Options {
    timeout: Duration,
    source: Vec<IpAddr>,
    leg: LegOptions,
    parents: Parents,
    /// CA certificates for verifying parents by TLS; `None` without such a parent.
    trust: Option<RootStore>,
    resolver: ResolverKind,
    search: Vec<SearchDomain>,
    lookups_each: usize,
}

impl Options {
    /// Options of the dialled sockets.
    #[must_use]
    pub const fn leg(&self) -> &LegOptions {
        &self.leg
    }

    /// `timeout` limits the attempt at one address; all addresses of a target together have three
    /// times that. `source` holds the local addresses to dial from, at most one per family; the
    /// kernel chooses for a family without one. `leg` holds the options of the origin's socket.
    ///
    /// # Errors
    /// Two source addresses of one family, or an address not configured on this host.
    pub fn new(timeout: Duration, source: &[IpAddr], leg: LegOptions) -> Result<Self, Vec<String>> {
        let source: Vec<_> = source.iter().map(IpAddr::to_canonical).collect();
        let mut errors = Vec::new();
        for (place, address) in source.iter().enumerate() {
            if let Some(other) = source[..place].iter().find(|other| other.is_ipv4() == address.is_ipv4()) {
                errors.push(format!("--source {other} and {address} are of the same family; remove one of the two"));
            }
            if !is_local_address(*address) {
                errors.push(format!("--source {address}: this host has no such address; see `ip address`"));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            timeout,
            source,
            leg,
            parents: Parents::default(),
            trust: None,
            resolver: ResolverKind::default(),
            search: Vec::new(),
            lookups_each: LOOKUPS_EACH,
        })
    }

    /// Sets name resolution: `resolver` looks names up, `search` completes names without a dot, and
    /// each user, or source address without a user, may have `each` look-ups in progress.
    #[must_use]
    pub fn resolving(self, resolver: ResolverKind, search: Vec<SearchDomain>, each: usize) -> Self {
        Self { resolver, search, lookups_each: each, ..self }
    }

    /// The configured parent proxies.
    #[must_use]
    pub const fn parents(&self) -> &Parents {
        &self.parents
    }

    /// Sets the parent proxies. `roots` is a file of CA certificates for parents by TLS; without
    /// it, the roots of this host verify them.
    ///
    /// # Errors
    /// A parent by TLS without any CA certificate, or an unusable file; the text includes the
    /// remedy.
    pub fn through(self, parents: Parents, roots: Option<&Path>) -> Result<Self, String> {
        let trust = match (parents.speak_tls(), roots) {
            (true, None) => Some(RootStore::of_host().map_err(|error| format!("--parent https://: {error}"))?),
            (true, Some(file)) => Some(RootStore::of_file(file).map_err(|error| format!("--parent-ca {error}"))?),
            (false, None) => None,
            (false, Some(_)) => {
                return Err("--parent-ca needs an https:// parent; add one with --parent, or remove it".into());
            }
        };
        Ok(Self { parents, trust, ..self })
    }
}

/// Resolves names and dials permitted addresses.
#[derive(Debug)]
pub struct Dialer {
    options: Options,
    /// Of [`DIAL_DURATION`], looked up at the first dial.
    duration: OnceLock<Histogram>,
    resolver: Resolver,
    /// Name of this gateway in `Via` to parents, for detecting loops.
    pseudonym: String,
}

impl Dialer {
    /// A dialer with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let resolver = Resolver::new(options.resolver, options.lookups_each);
        Self { options, duration: OnceLock::new(), resolver, pseudonym: pseudonym() }
    }

    /// Route to a target before its name is resolved.
    #[must_use]
    pub fn route(&self, named: &Named) -> Route {
        self.options.parents.route(named.target())
    }

    /// The name is left to a parent; otherwise it is resolved here, and the policy judges its
    /// addresses.
    #[must_use]
    pub fn leaves_name_to_parent(&self, named: &Named) -> bool {
        matches!((&named.target().host, self.route(named)), (Host::Name(_), Route::Parent(_)))
    }

    /// Chooses the parent or direct route for a permitted target.
    #[must_use]
    pub fn choose(&self, permit: Permit) -> DialPlan {
        let (parent, network) = self.options.parents.choose(permit.target(), permit.addresses());
        let permit = match network {
            Some(network) => permit.only(|address| network.contains(&address.ip())),
            None => permit,
        };
        DialPlan { parent, permit }
    }

    /// Refuses a request if `via`, the proxies it came through, contains this gateway.
    ///
    /// # Errors
    /// [`Reason::Loop`].
    pub fn refuse_loop(&self, via: &str) -> Result<(), Refusal> {
        if via.split([',', ' ']).any(|word| word == self.pseudonym) {
            return Err(Refusal::new(
                Reason::Loop,
                "the request came back to this gateway: its parent proxies form a loop",
            ));
        }
        Ok(())
    }

    /// Connects to the first permitted address that answers, by Happy Eyeballs (RFC 8305), or
    /// through a parent. `via`: the proxies before this gateway.
    ///
    /// # Errors
    /// The most specific failure of all attempts: `ConnectRefused`, `ConnectTimeout`, `Unreachable`
    /// or `Exhausted`. On the route to a parent: these, a failed resolution of the parent's name,
    /// and the parent's own refusal.
    pub async fn dial(&self, plan: &DialPlan, via: &str) -> Result<Upstream, Refusal> {
        let began = Instant::now();
        let (target, addresses) = (plan.permit.target(), plan.permit.addresses());
        let upstream = match &plan.parent {
            None => {
                let (socket, address) = self.connect(target, addresses).await?;
                Upstream { socket, tls: None, address, target: Some(address), leftover: Vec::new(), parent: None }
            }
            Some(parent) => {
                let upstream = Box::pin(self.through(parent, target, addresses.first(), via)).await;
                let outcome = upstream.as_ref().map_or_else(|refusal| refusal.reason.label(), |_| ESTABLISHED);
                PARENT_REQUESTS.counter(&[&parent.label, outcome]).increment(1);
                upstream?
            }
        };
        self.duration.get_or_init(|| DIAL_DURATION.histogram()).record(began.elapsed());
        Ok(upstream)
    }

    async fn connect(&self, target: &Target, addresses: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), Refusal> {
        let timeout = self.options.timeout;
        let connect = |address| connect(&self.options, address);
        let connected = race::race(&race::interleave(addresses), timeout, timeout * TOTAL, connect).await;
        connected.map_err(|failures| cause::refusal(target, &failures, timeout))
    }

    async fn through(
        &self,
        parent: &Parent,
        target: &Target,
        address_of_target: Option<&SocketAddr>,
        via: &str,
    ) -> Result<Upstream, Refusal> {
        let of_parent = |refusal: Refusal| Refusal::new(refusal.reason, format!("{parent}: {}", refusal.detail));
        let mut addresses = match &parent.target.host {
            Host::Address(address) => vec![SocketAddr::new(*address, 0)],
            Host::Name(name) => {
                let found = self.resolver.resolve(name, &Principal::Gateway).await;
                found.map_err(|error| of_parent(error.refusal(name)))?
            }
        };
        addresses.iter_mut().for_each(|address| address.set_port(parent.target.port));
        let (socket, address) = self.connect(&parent.target, &addresses).await.map_err(of_parent)?;
        let authority = address_of_target.map_or_else(|| target.to_string(), ToString::to_string);
        let own = format!("1.1 {}", self.pseudonym);
        let via = if via.is_empty() { own } else { format!("{via}, {own}") };
        let mut stream = Stream::new(socket);
        let limit = self.options.timeout * TOTAL;
        if let Some(name) = &parent.tls {
            parent::secure(parent, &mut stream, self.options.trust.as_ref(), name, limit).await?;
        }
        let leftover = parent::ask(parent, &mut stream, &authority, &via, limit).await?;
        let (socket, tls) = stream.into_parts().map_err(|error| Refusal::new(Reason::Exhausted, error.to_string()))?;
        let parent = Some(parent.label.clone());
        Ok(Upstream { socket, tls, address, target: address_of_target.copied(), leftover, parent })
    }
}

/// Value of the `outcome` label for a tunnel opened by a parent.
const ESTABLISHED: &str = "established";

/// Puts the series of look-ups and of each parent at zero.
pub fn register_series(parents: &Parents) {
    resolve::register_series();
    for parent in parents.all() {
        PARENT_REQUESTS.counter(&[&parent.label, ESTABLISHED]).increment(0);
    }
}

/// Unique, since several gateways may be chained.
fn pseudonym() -> String {
    let mut bytes = [0; 8];
    // Without random bytes the process id identifies the gateway, which is enough on one host.
    let number = getrandom::fill(&mut bytes).map_or(u64::from(std::process::id()), |()| u64::from_ne_bytes(bytes));
    format!("sluicegate-{number:016x}")
}

async fn connect(options: &Options, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    descriptors::admit(&socket, Purpose::Socket)?;
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

/// Tells if the kernel chose the target's own port as the source port and so connected the socket
/// to itself, by TCP's simultaneous open (RFC 9293, 3.5): the target has no listener.
fn is_self_connected(stream: &TcpStream, dialled: SocketAddr) -> io::Result<bool> {
    let own = stream.local_addr()?;
    // The peer is asked for only then, since it may have another address than was dialled: 0.0.0.0.
    Ok(own.port() == dialled.port() && own == stream.peer_addr()?)
}

#[cfg(test)]
mod tests;
