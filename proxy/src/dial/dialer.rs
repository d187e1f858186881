//! Dialling a permitted target, directly or through a parent.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Instant;

use metrics::Histogram;
use socket2::{Domain, Protocol, Socket, Type};

use super::options::Options;
use super::parents::{Parent, Parents, Route};
use super::plan::{DialPlan, Upstream};
use super::resolve::{self, Resolver};
use super::{cause, parent, race};
use crate::metrics::{DIAL_DURATION, PARENT_REQUESTS};
use crate::policy::{Named, Permit};
use crate::principal::Principal;
use crate::reason::{Reason, Refusal};
use crate::sys::descriptors::{self, Purpose};
use crate::sys::socket::{apply, bind_source};
use crate::sys::stream::Stream;
use crate::target::{Host, Target};

/// Time for all addresses of a target together, in multiples of the time for one.
const ATTEMPTS: u32 = 3;

/// Resolves names and dials permitted addresses.
#[derive(Debug)]
pub struct Dialer {
    pub(super) options: Options,
    /// Of [`DIAL_DURATION`], looked up at the first dial.
    pub(super) duration: OnceLock<Histogram>,
    pub(super) resolver: Resolver,
    /// Name of this gateway in `Via` to parents, for detecting loops.
    pub(super) pseudonym: String,
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
        let connected = race::race(&race::interleave(addresses), timeout, timeout * ATTEMPTS, connect).await;
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
        let limit = self.options.timeout * ATTEMPTS;
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
pub(super) fn is_self_connected(stream: &TcpStream, dialled: SocketAddr) -> io::Result<bool> {
    let own = stream.local_addr()?;
    // The peer is asked for only then, since it may have another address than was dialled: 0.0.0.0.
    Ok(own.port() == dialled.port() && own == stream.peer_addr()?)
}
