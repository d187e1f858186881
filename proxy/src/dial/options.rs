//! Options of dialling.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use super::parents::Parents;
use super::resolve::{LOOKUPS_EACH, ResolverKind};
use super::search::SearchDomain;
use crate::invalid_value::InvalidValue;
use crate::sys::socket::{LegOptions, is_local_address};
use crate::tls::RootStore;

/// Options of connections to origins, directly or through parents.
#[derive(Clone, Debug)]
pub struct Options {
    pub(super) timeout: Duration,
    pub(super) source: Vec<IpAddr>,
    pub(super) leg: LegOptions,
    pub(super) parents: Parents,
    /// CA certificates for verifying parents by TLS; `None` without such a parent.
    pub(super) trust: Option<RootStore>,
    pub(super) resolver: ResolverKind,
    pub(super) search: Vec<SearchDomain>,
    pub(super) lookups_each: usize,
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
    pub fn new(timeout: Duration, source: &[IpAddr], leg: LegOptions) -> Result<Self, Vec<InvalidValue>> {
        let source: Vec<_> = source.iter().map(IpAddr::to_canonical).collect();
        let mut errors = Vec::new();
        for (place, address) in source.iter().enumerate() {
            if let Some(other) = source[..place].iter().find(|other| other.is_ipv4() == address.is_ipv4()) {
                errors.push(InvalidValue::new(
                    format!("--source {other} and {address} are of the same family"),
                    "remove one of the two",
                ));
            }
            if !is_local_address(*address) {
                errors.push(InvalidValue::new(
                    format!("--source {address}: this host has no such address"),
                    "see `ip address`",
                ));
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
    pub fn through(self, parents: Parents, roots: Option<&Path>) -> Result<Self, InvalidValue> {
        let trust = match (parents.speak_tls(), roots) {
            (true, None) => Some(RootStore::of_host().map_err(|error| error.of("--parent https://"))?),
            (true, Some(file)) => Some(
                RootStore::of_file(file).map_err(|error| error.of(format_args!("--parent-ca {}", file.display())))?,
            ),
            (false, None) => None,
            (false, Some(_)) => {
                return Err(InvalidValue::new(
                    "--parent-ca needs an https:// parent",
                    "add one with --parent, or remove it",
                ));
            }
        };
        Ok(Self { parents, trust, ..self })
    }
}
