//! Targets that the policy permits: first by name, then as a permit to dial the addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::rule::Rule;
use crate::target::{Host, Target};

/// The targets of one user, within the targets that the gateway permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    user: Arc<str>,
    rules: Arc<[Rule]>,
}

impl Scope {
    /// Creates a scope from these rules.
    pub fn new(user: Arc<str>, rules: impl Into<Arc<[Rule]>>) -> Self {
        Self { user, rules: rules.into() }
    }

    /// Returns the rule that covers an address of the target.
    pub(super) fn covers(&self, target: &Target, address: IpAddr) -> Result<&Rule, String> {
        let covers = |rule: &&Rule| rule.covers(target, &[address]);
        self.of_port(target.port).find(covers).ok_or_else(|| self.unmatched(target))
    }

    /// Checks that some rule covers the name, or could cover an address of it.
    pub(super) fn has_hope(&self, target: &Target) -> Result<(), String> {
        let hope = |rule: &Rule| {
            rule.network().is_some() || matches!(&target.host, Host::Name(name) if rule.covers_name(name))
        };
        if self.of_port(target.port).any(hope) { Ok(()) } else { Err(self.unmatched(target)) }
    }

    /// Returns the rule that covers the name itself, by `covers`.
    pub(super) fn covers_name(&self, target: &Target, covers: impl Fn(&Rule) -> bool) -> Result<&Rule, String> {
        self.of_port(target.port).find(|rule| covers(rule)).ok_or_else(|| self.unmatched(target))
    }

    /// Joins a rule of the gateway and the one of the user for display.
    pub(super) fn beside(&self, rule: &str, own: &Rule) -> String {
        format!("{rule} and {own} of user {}", self.user)
    }

    fn of_port(&self, port: u16) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(move |rule| rule.has_port(port))
    }

    fn unmatched(&self, target: &Target) -> String {
        format!("no rule of user {} matches {target}", self.user)
    }
}

/// A target permitted by the name rules, to be resolved and then checked by address.
#[derive(Debug)]
pub struct Named {
    pub(super) target: Target,
    pub(super) scope: Option<Scope>,
}

/// A permit to dial: the permitted addresses in the resolver's order; none where a parent proxy
/// resolves the name.
///
/// Made by [`super::Policy::check_addresses`] and [`super::Policy::check_unresolved`] alone.
#[derive(Debug)]
pub struct Permit {
    pub(super) target: Target,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) rule: String,
}

impl Named {
    /// Rules of the user, if any.
    #[must_use]
    pub const fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Returns the requested target.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }
}

impl Permit {
    /// Returns the requested target.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the addresses to dial; empty if the name was left to a parent proxy.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Narrows the permit to some of its addresses.
    #[must_use]
    pub fn only(mut self, is_meant: impl Fn(&SocketAddr) -> bool) -> Self {
        self.addresses.retain(is_meant);
        self
    }

    /// Returns the rule that permitted the first address, as `--allow 10.0.0.0/8:443`.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}
