//! Permitted targets: name rules before a name is resolved, address rules on every resolved
//! address.
//!
//! The answer is a [`Permit`], and nothing else can be dialled. All decisions about an address are
//! made in `Policy::decide`, for the handshake and for `explain` alike.

mod permit;
mod rule;
mod special;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::reason::{Reason, Refusal};
use crate::target::{Host, Target};

pub use permit::{Named, Permit, Scope};
pub use rule::Rule;

/// Returns true if an address is one of this host's own.
pub type IsLocal = fn(IpAddr) -> bool;

/// Ports open to every name and ordinary address without any `--allow`: TLS, and the API of a
/// Kubernetes cluster.
const DEFAULT_ALLOW: [&str; 2] = ["*:443", "*:6443"];

/// The rules, and the addresses of this host and gateway.
///
/// 1. A `--deny` rule that covers the name or the address refuses it, whatever else is said. It
///    also covers the IPv4 address that an IPv6 one carries.
/// 2. A listener of the gateway itself is refused: a tunnel to it would be a loop, or reach the
///    admin address past its own rules.
/// 3. A special address (loopback, link-local, metadata and so on) is refused unless an `--allow`
///    rule names it: the rule's network lies within the special block, so that neither `*` nor a
///    name nor `0.0.0.0/0` opens it.
/// 4. Otherwise some `--allow` rule has to cover the name or the address.
/// 5. Of a user who has a [`Scope`], some rule of that has to cover them as well.
#[derive(Debug)]
pub struct Policy {
    allow: Vec<Rule>,
    deny: Vec<Rule>,
    /// No `--allow` was given.
    by_default: bool,
    own_listeners: Vec<SocketAddr>,
    is_local: IsLocal,
}

/// The policy's decision on one address, and its reason; shown by `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be dialled.
    Permitted {
        /// The deciding rule, as `--allow 10.0.0.0/8:443` or `default allow *:443`.
        rule: String,
    },
    /// It may not.
    Refused {
        /// The deciding rule or limit, short enough for a reason phrase.
        cause: String,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Permitted { rule } => write!(f, "permitted by {rule}"),
            Self::Refused { cause } => write!(f, "refused: {cause}"),
        }
    }
}

impl Policy {
    /// A policy of these rules; without an allow rule, `*:443` and `*:6443` are allowed.
    ///
    /// Creates a policy. `own_listeners` are the bound addresses of the gateway's sockets, and
    /// `is_local` tells if an address is one of this host's.
    #[must_use]
    pub fn new(allow: Vec<Rule>, deny: Vec<Rule>, own_listeners: Vec<SocketAddr>, is_local: IsLocal) -> Self {
        let by_default = allow.is_empty();
        let default_rules = || DEFAULT_ALLOW.iter().filter_map(|text| text.parse().ok()).collect();
        let allow = if by_default { default_rules() } else { allow };
        Self { allow, deny, by_default, own_listeners, is_local }
    }

    /// Checks the name before it is resolved, so that a denied name costs no look-up. A literal
    /// address gets the full check.
    ///
    /// # Errors
    ///
    /// [`Reason::Denied`], naming the rule.
    pub fn check_name(&self, target: Target, scope: Option<&Scope>) -> Result<Named, Refusal> {
        let checked = match &target.host {
            Host::Address(address) => self.decide(&target, SocketAddr::new(*address, target.port), scope).map(drop),
            Host::Name(name) => self.name_may_do(name, &target, scope),
        };
        match checked {
            Err(cause) => Err(Refusal::new(Reason::Denied, cause)),
            Ok(()) => Ok(Named { target, scope: scope.cloned() }),
        }
    }

    /// Keeps the permitted addresses, in their order.
    ///
    /// # Errors
    ///
    /// [`Reason::Denied`] if none may be, with the cause for the first;
    /// [`Reason::ResolveFailed`] if there was none to begin with.
    pub fn check_addresses(&self, named: Named, addresses: Vec<SocketAddr>) -> Result<Permit, Refusal> {
        let Named { target, scope } = named;
        let (mut first, mut causes, mut permitted) = (None, Vec::new(), Vec::new());
        for address in addresses {
            let address = canonical(address, target.port);
            match self.decide(&target, address, scope.as_ref()) {
                Ok(rule) => {
                    first.get_or_insert(rule);
                    permitted.push(address);
                }
                Err(cause) => causes.push((cause, address.ip())),
            }
        }
        match first {
            Some(rule) => Ok(Permit { target, addresses: permitted, rule }),
            None => Err(none_permitted(&target, &causes)),
        }
    }

    /// Leaves a name to a parent proxy; rules on addresses do not apply, since the name is resolved
    /// in the parent's network.
    ///
    /// # Errors
    ///
    /// [`Reason::Denied`] if no rule permits the name itself.
    pub fn check_unresolved(&self, named: Named) -> Result<Permit, Refusal> {
        let Named { target, scope } = named;
        // The parent's own loopback (RFC 6761, 6.3), possibly the loopback of this host.
        let is_special = |name: &str| name == "localhost" || name.ends_with(".localhost");
        let covers = |rule: &Rule, name| if is_special(name) { rule.spells_name(name) } else { rule.covers_name(name) };
        let by_name = |rule: &Rule| matches!(&target.host, Host::Name(name) if covers(rule, name));
        let mut rules = self.allow.iter().filter(|rule| rule.has_port(target.port));
        let rule = rules.find(|rule| by_name(rule)).map(|rule| self.shown(rule)).ok_or_else(|| self.unmatched(&target));
        let rule = rule.and_then(|rule| match &scope {
            None => Ok(rule),
            Some(scope) => scope.covers_name(&target, by_name).map(|own| scope.beside(&rule, own)),
        });
        let rule = rule.map_err(|unmatched| {
            Refusal::new(Reason::Denied, format!("{unmatched} by its name, and a parent proxy resolves it"))
        })?;
        Ok(Permit { target, addresses: Vec::new(), rule })
    }

    /// Decides on `address` as a result of resolving `target`; the port is the target's.
    #[must_use]
    pub fn judge(&self, target: &Target, address: SocketAddr, scope: Option<&Scope>) -> Verdict {
        match self.decide(target, address, scope) {
            Ok(rule) => Verdict::Permitted { rule },
            Err(cause) => Verdict::Refused { cause },
        }
    }

    /// Returns the rule that permits `address`, in printable form, or the reason for a refusal.
    fn decide(&self, target: &Target, address: SocketAddr, scope: Option<&Scope>) -> Result<String, String> {
        let address = canonical(address, target.port);
        self.not_denied(target, address.ip())?;
        self.not_own_listener(address)?;
        let rule = self.shown(self.allowed(target, address.ip())?);
        match scope {
            None => Ok(rule),
            Some(scope) => scope.covers(target, address.ip()).map(|own| scope.beside(&rule, own)),
        }
    }

    fn shown(&self, rule: &Rule) -> String {
        match self.by_default {
            true => format!("default allow {rule}"),
            false => format!("--allow {rule}"),
        }
    }

    /// Checks that a name is worth a look-up; refuses a denied name and one without a possible
    /// rule.
    fn name_may_do(&self, name: &str, target: &Target, scope: Option<&Scope>) -> Result<(), String> {
        let port = target.port;
        if let Some(rule) = self.deny.iter().find(|rule| rule.has_port(port) && rule.covers_name(name)) {
            return Err(denied(rule));
        }
        let hope = |rule: &Rule| rule.has_port(port) && (rule.covers_name(name) || rule.network().is_some());
        if !self.allow.iter().any(hope) {
            return Err(self.unmatched(target));
        }
        scope.map_or(Ok(()), |scope| scope.has_hope(target))
    }

    fn not_denied(&self, target: &Target, address: IpAddr) -> Result<(), String> {
        let rule = self.deny.iter().filter(|rule| rule.has_port(target.port));
        match rule.into_iter().find(|rule| rule.covers(target, &readings(address))) {
            Some(rule) => Err(denied(rule)),
            None => Ok(()),
        }
    }

    fn not_own_listener(&self, address: SocketAddr) -> Result<(), String> {
        let ports_meet = self.own_listeners.iter().any(|own| own.port() == address.port());
        let is_bound = |ip: IpAddr| self.own_listeners.iter().any(|own| own.ip().to_canonical() == ip);
        let is_own = |ip: IpAddr| is_bound(ip) || (self.is_local)(ip);
        if ports_meet && readings(address.ip()).into_iter().any(is_own) {
            return Err(format!("{address} is a listener of this gateway: no rule permits a loop"));
        }
        Ok(())
    }

    /// Returns the rule that allows the address.
    fn allowed(&self, target: &Target, address: IpAddr) -> Result<&Rule, String> {
        let mut rules = self.allow.iter().filter(|rule| rule.has_port(target.port));
        let Some(special) = special::special(address) else {
            return rules.find(|rule| rule.covers(target, &[address])).ok_or_else(|| self.unmatched(target));
        };
        let names_it = |rule: &&Rule| {
            rule.network().is_some_and(|network| network.contains(&address) && special.block.contains(&network))
        };
        rules.find(names_it).ok_or_else(|| {
            let (kind, block) = (special.kind, rule::shown(special.block));
            format!("{address} is {kind}: needs a rule that names it, as --allow {block}:*")
        })
    }

    fn unmatched(&self, target: &Target) -> String {
        match self.by_default {
            true => format!("no --allow rule matches {target} (default: {})", DEFAULT_ALLOW.join(", ")),
            false => format!("no --allow rule matches {target}"),
        }
    }
}

/// Returns the address, and the IPv4 addresses embedded in it.
fn readings(address: IpAddr) -> Vec<IpAddr> {
    let inner = special::inner_addresses(address).into_iter().map(IpAddr::from);
    std::iter::once(address).chain(inner).collect()
}

/// The address as it will be dialled: an IPv4-mapped one is dialled over IPv4 anyway, and the port
/// is the one that was judged. The scope of a link-local address stays.
fn canonical(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => (v4, port).into(),
        IpAddr::V6(_) => address,
    }
}

fn denied(rule: &Rule) -> String {
    format!("denied by rule --deny {rule}")
}

/// The refusal of a target without a single permitted address.
fn none_permitted(target: &Target, causes: &[(String, IpAddr)]) -> Refusal {
    let Some((cause, address)) = causes.first() else {
        return Refusal::new(Reason::ResolveFailed, format!("{target} has no address"));
    };
    let detail = match (&target.host, causes.len() - 1) {
        (Host::Address(_), _) => cause.clone(),
        (Host::Name(_), 0) => format!("{cause} (resolved to {address})"),
        (Host::Name(_), more) => format!("{cause} (resolved to {address} and {more} more)"),
    };
    Refusal::new(Reason::Denied, detail)
}

#[cfg(test)]
mod tests;
