//! Look-ups by the DNS: A and AAAA side by side, asked of the name servers of `/etc/resolv.conf`.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hickory_resolver::Resolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::answer::{Answer, LookupError};
use super::families::{Found, side_by_side};
use super::files::ResolvConf;
use super::sockets::Provider;
use super::turns::{self, IN_FLIGHT, Miss};
use crate::sys::deadline::timeout;

/// Sockets of one look-up at most: a query is sent three times over UDP, from another port each
/// time (`UdpClientStream`), for A and for AAAA, and two queries are in flight if a server is
/// silent.
pub(super) const SOCKETS: u64 = 6 * IN_FLIGHT as u64;

/// Asks name servers.
#[derive(Debug, Default)]
pub(super) struct Dns {
    servers: Mutex<Option<Arc<Servers>>>,
}

/// The name servers of a configuration.
#[derive(Debug)]
struct Servers {
    conf: ResolvConf,
    /// Two resolvers for each server: a resolver with a query in flight joins an equal query to it
    /// instead of sending it again (`active_requests`, name_server_pool.rs).
    servers: Vec<(IpAddr, [Resolver<Provider>; IN_FLIGHT])>,
    /// Time before the next server is queried.
    turn: Duration,
    /// Index of the first server to query, for `options rotate`.
    first: AtomicUsize,
}

impl Dns {
    /// Addresses of a name in normal form. Dropping the future closes its sockets.
    pub(super) async fn look_up(&self, conf: &ResolvConf, name: &str, deadline: Duration) -> Answer {
        let servers = match self.servers(conf, deadline) {
            Ok(servers) => servers,
            Err(error) => return Answer::failed(format!("the resolver cannot be set up: {error}")),
        };
        // Built from labels: the name is absolute, regardless of resolv.conf, and a label may start
        // with a hyphen, an error for `Name::from_ascii`.
        let Ok(name) = Name::from_labels(name.split('.').map(str::as_bytes)) else {
            return Answer::failed("not a valid DNS name".to_owned());
        };
        let (a, aaaa) = (servers.ask(&name, RecordType::A), servers.ask(&name, RecordType::AAAA));
        let asking = pin!(side_by_side(a, aaaa));
        timeout(deadline, asking).await.unwrap_or_else(|_| Answer::failure(LookupError::Timeout(deadline)))
    }

    /// The servers of this configuration, set up anew if it is another one than before.
    fn servers(&self, conf: &ResolvConf, deadline: Duration) -> Result<Arc<Servers>, NetError> {
        let mut current = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        match current.as_ref().filter(|servers| servers.conf == *conf) {
            Some(servers) => Ok(servers.clone()),
            None => {
                let servers = Arc::new(Servers::new(conf, deadline)?);
                *current = Some(servers.clone());
                Ok(servers)
            }
        }
    }
}

impl Servers {
    /// Makes one resolver for each server, to query them in their order, as in resolv.conf(5):
    /// hickory's pool queries several at once, and the first answer would win.
    fn new(conf: &ResolvConf, deadline: Duration) -> Result<Self, NetError> {
        let one = |address| resolver(address, conf, deadline);
        let resolver = |address: &IpAddr| Ok((*address, [one(*address)?, one(*address)?]));
        let servers = conf.servers.iter().map(resolver).collect::<Result<_, NetError>>()?;
        let turn = turns::length(conf.timeout, conf.servers.len(), deadline);
        Ok(Self { conf: conf.clone(), servers, turn, first: AtomicUsize::new(0) })
    }

    /// Queries the servers in turn until one gives an answer.
    async fn ask(&self, name: &Name, kind: RecordType) -> Result<Found, LookupError> {
        let first = if self.conf.rotate { self.first.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let count = self.servers.len();
        let query = |number: usize| {
            let (address, resolvers) = &self.servers[(first % count + number) % count];
            one(*address, &resolvers[number / count % IN_FLIGHT], name, kind)
        };
        turns::take(count, self.turn, query).await.map_err(LookupError::Failed)
    }
}

/// Queries one server.
async fn one(address: IpAddr, server: &Resolver<Provider>, name: &Name, kind: RecordType) -> Result<Found, Miss> {
    match server.lookup(name.clone(), kind).await {
        Ok(lookup) => {
            let addresses = lookup.answers().iter().filter_map(|record| record.data.ip_addr());
            let addresses: Vec<_> = addresses.map(|address| SocketAddr::new(address, 0)).collect();
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            Ok(Found { addresses, ttl, exists: true })
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
            let ttl = Duration::from_secs(none.negative_ttl.unwrap_or_default().into());
            let exists = none.response_code != ResponseCode::NXDomain;
            Ok(Found { addresses: Vec::new(), ttl, exists })
        }
        Err(NetError::Timeout) => Err(Miss::Silent),
        Err(error) => Err(Miss::Failed(said(address, &error))),
    }
}

/// Makes a resolver; its queries stay in flight until `deadline`.
fn resolver(address: IpAddr, conf: &ResolvConf, deadline: Duration) -> Result<Resolver<Provider>, NetError> {
    let udp = (!conf.use_vc).then(ConnectionConfig::udp);
    let connections = udp.into_iter().chain([ConnectionConfig::tcp()]).collect();
    let config = ResolverConfig::from_name_servers(vec![NameServerConfig::new(address, true, connections)]);
    let mut options = ResolverOpts::default();
    options.timeout = deadline;
    options.attempts = 0;
    options.edns0 = conf.edns0;
    // Answers are kept by name, both families together; and `/etc/hosts` has been read.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    Resolver::builder_with_config(config, Provider::default()).with_options(options).build()
}

/// A name server's failure in words.
fn said(server: IpAddr, error: &NetError) -> String {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => {
            let code = match code {
                ResponseCode::ServFail => "SERVFAIL".to_owned(),
                ResponseCode::Refused => "REFUSED".to_owned(),
                ResponseCode::FormErr => "FORMERR".to_owned(),
                ResponseCode::NotImp => "NOTIMP".to_owned(),
                other => other.to_string(),
            };
            format!("the name server {server} answered {code}")
        }
        // The pool turns a socket error into this one (`most_specific` in name_server_pool.rs).
        NetError::NoConnections => format!("the name server {server} cannot be reached"),
        NetError::Io(error) => format!("the name server {server} cannot be reached: {error}"),
        other => format!("invalid answer from the name server {server}: {other}"),
    }
}
