//! The life of a connection.
//!
//! It splits at the 200, or at an origin's 101: before it, every failure is one [`Refusal`] and one
//! HTTP answer; after it there is a [`Tunnel`], and its end can only be logged.

use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use crate::account::{Account, Stage};
use crate::auth::{Authenticator, User};
use crate::client::Client;
use crate::dial::{Candidates, Dialer, Location, Upstream};
use crate::policy::Policy;
use crate::principal::Principal;
use crate::proxy_protocol::{ProxyProtocolRule, header, version_for};
use crate::reason::Refusal;
use crate::relay::{Relay, RelayedTunnel};
use crate::request::{Operation, Request};
use crate::secret::Secret;
use crate::target::Target;
use crate::tls::ServerCertificate;
use crate::tunnel::{Flow, Tunnel};
use crate::upgrade;

/// Transport of a client's connection to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP over TCP: `--listen`.
    Plain,
    /// HTTP over TLS: `--listen-tls`.
    Tls,
}

/// Everything needed to serve a connection.
#[derive(Debug)]
pub struct Gateway {
    /// Authenticates clients.
    pub authenticator: Authenticator,
    /// Where they may go.
    pub policy: Policy,
    /// Connects to targets.
    pub dialer: Dialer,
    /// Carries the bytes of established tunnels.
    pub relay: Relay,
    /// Certificate presented to clients of `--listen-tls`.
    pub certificate: Option<ServerCertificate>,
    /// Proxies trusted to send the PROXY protocol header with the client's address.
    pub proxy_protocol_from: Vec<IpNet>,
    /// Targets that receive a PROXY protocol header.
    pub proxy_protocol_rules: Vec<ProxyProtocolRule>,
    /// Time limit for a request head.
    pub handshake_timeout: Duration,
}

/// Serves one accepted, non-blocking connection until it is refused or handed to an engine.
/// `transport` says whether the client speaks TLS to the gateway.
///
/// Boxed, as are later the futures needed late or seldom: a client that sends nothing holds no
/// memory for the steps after its request.
pub fn serve(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    transport: Transport,
    mut account: Account,
) -> Pin<Box<impl Future<Output = ()> + Send + 'static>> {
    let mut client = Client::new(stream);
    Box::pin(async move {
        let handed_off = match handshake(&gateway, &mut client, transport, &mut account).await {
            Ok(connected) => hand_off(&gateway, client, connected, &mut account).await,
            Err(refusal) => {
                if client.pending() > 0 {
                    account.received_bytes();
                }
                account.refused(&refusal);
                return Box::pin(client.refuse(&refusal)).await;
            }
        };
        match handed_off {
            // Not awaited: an established tunnel needs no task.
            Ok(relayed) => account.closed_by(relayed.end()),
            Err(refusal) => account.refused(&refusal),
        }
    })
}

/// Everything before the 200, still answered with a status: authentication, request, policy, and
/// the connection to the target.
async fn handshake(
    gateway: &Gateway,
    client: &mut Client,
    transport: Transport,
    account: &mut Account,
) -> Result<Connected, Refusal> {
    let limit = gateway.handshake_timeout;
    let proxy_header = match gateway.proxy_protocol_from.iter().any(|network| network.contains(&account.source())) {
        true => client.read_proxy_header(limit).await?,
        false => None,
    };
    if let Some((from, _)) = proxy_header {
        account.set_client(from);
    }
    if let Some(certificate) = gateway.certificate.as_ref().filter(|_| transport == Transport::Tls) {
        account.set_tls(Box::pin(client.secure(certificate, limit)).await?);
    }
    let request = client.request(limit).await?;
    account.set_target(&request.target);
    if let Operation::Upgrade(asked) = &request.operation {
        account.set_upgrade(&asked.protocols);
    }
    gateway.dialer.refuse_loop(&request.via)?;
    let to = match proxy_header {
        Some((_, to)) => Some(to),
        None if gateway.proxy_protocol_rules.is_empty() => None,
        None => Some(client.local_addr()?),
    };
    let Request { target, via, proxy_authorization, operation, .. } = request;
    let connecting = authorize_and_dial(gateway, target, &via, proxy_authorization.as_ref(), to, account);
    let content = match &operation {
        Operation::Connect => None,
        Operation::Upgrade(asked) => Some(&asked.content),
    };
    let upstream = Box::pin(client.cancel_if_client_leaves(content, connecting)).await?;
    match operation {
        Operation::Connect => Ok(Connected { upstream, switched: false }),
        Operation::Upgrade(asked) => {
            account.enter(Stage::Upgrade);
            let flow = account.exchange(upstream.address);
            let (client, from_client) = client.split()?;
            let upstream = Box::pin(upgrade::exchange(client, from_client, upstream, *asked, limit, &flow)).await?;
            Ok(Connected { upstream, switched: true })
        }
    }
}

/// Authenticates, checks the target and dials; reads nothing more from the client. `to` is the
/// address the client connected to, for targets that receive a PROXY header.
async fn authorize_and_dial(
    gateway: &Gateway,
    target: Target,
    via: &str,
    credentials: Option<&Secret>,
    to: Option<SocketAddr>,
    account: &mut Account,
) -> Result<Upstream, Refusal> {
    let limit = gateway.handshake_timeout;
    account.enter(Stage::Password);
    let user = gateway.authenticator.check(credentials, account.source()).await;
    let user = user.map_err(|failure| {
        account.set_user(failure.user);
        failure.refusal
    })?;
    account.set_user(user.as_ref().map(|user| Arc::clone(&user.name)));
    if let Some(User { name, user_policy }) = &user {
        user_policy.admit(name, account.source(), SystemTime::now())?;
    }
    let (name, user_policy) = user.map(|user| (user.name, user.user_policy)).unzip();
    let requester = Principal::of(name, account.source());
    let Candidates { first, others } = gateway.dialer.candidates(target);
    account.set_target(&first);
    let named =
        gateway.policy.check_name(first, user_policy.as_ref().and_then(|user_policy| user_policy.scope.as_ref()))?;
    account.wait_to_dial(limit).await?;
    account.reserve(user_policy.and_then(|user_policy| user_policy.max_tunnels))?;
    account.enter(Stage::LookUp);
    let record_target = |target: &_| account.set_target(target);
    let locating = gateway.dialer.locate(&gateway.policy, named, others, &requester, record_target);
    let permit = match Box::pin(locating).await? {
        (named, Location::AtParent) => gateway.policy.check_unresolved(named)?,
        (named, Location::Addresses(addresses)) => gateway.policy.check_addresses(named, addresses)?,
    };
    let plan = gateway.dialer.choose(permit);
    account.set_parent(plan.parent.as_ref().map(|parent| parent.label.clone()));
    account.enter(Stage::Dial);
    let upstream = gateway.dialer.dial(&plan, via).await?;
    let version = version_for(&gateway.proxy_protocol_rules, plan.permit().target(), upstream.target);
    match version.zip(to) {
        Some((version, to)) => upstream.send_preamble(&header(version, account.address(), to), limit).await,
        None => Ok(upstream),
    }
}

/// A connection to the target, as long as there is no tunnel.
struct Connected {
    upstream: Upstream,
    /// The origin has sent 101, already forwarded to the client.
    switched: bool,
}

/// Sends the 200, unless the origin sent a 101, and hands both sockets to an engine.
async fn hand_off(
    gateway: &Gateway,
    client: Client,
    connected: Connected,
    account: &mut Account,
) -> Result<RelayedTunnel, Refusal> {
    let Connected { upstream, switched } = connected;
    let client =
        if switched { client.into_parts()? } else { client.into_established(gateway.handshake_timeout).await? };
    let flow = Arc::new(Flow::default());
    account.limit_rate(&flow);
    let (tls, prefix) = ([client.tls, upstream.tls], [client.early, upstream.leftover]);
    let tunnel = Tunnel { client: client.socket, origin: upstream.socket, tls, prefix, flow: flow.clone() };
    let relayed = gateway.relay.adopt(tunnel).map_err(|reason| Refusal::new(reason, "no engine took the tunnel"))?;
    account.established(upstream.address, relayed.engine.label(), flow);
    Ok(relayed)
}
