//! What the policy lets through: a target by its name, then leave to dial its addresses.

use std::net::SocketAddr;

use crate::target::Target;

/// A target that the name rules let through, to be resolved and then checked by address.
#[derive(Debug)]
pub struct Named {
    pub(super) target: Target,
}

/// Leave to dial: the addresses that passed, in the resolver's order; none where a parent proxy is to resolve the name.
///
/// Made by [`super::Policy::check_addresses`] and [`super::Policy::check_unresolved`] alone.
#[derive(Debug)]
pub struct Permit {
    pub(super) target: Target,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) rule: String,
}

impl Named {
    /// What the client asked for.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }
}

impl Permit {
    /// What the client asked for.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Where to dial; empty if the name was left to a parent proxy.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The same for those of its addresses that are meant.
    #[must_use]
    pub fn only(mut self, is_meant: impl Fn(&SocketAddr) -> bool) -> Self {
        self.addresses.retain(is_meant);
        self
    }

    /// The rule that permitted the first address, as `--allow 10.0.0.0/8:443`.
    #[must_use]
    pub fn rule(&self) -> &str {
        &self.rule
    }
}
