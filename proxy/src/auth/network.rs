//! Networks whose clients may leave their credentials out (`--no-auth-from`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::users::UsersError;

/// Network whose clients are let in without credentials, as a user that is named like it.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedNetwork {
    network: IpNet,
    name: Arc<str>,
}

impl TrustedNetwork {
    /// A network and the name of its user, which is the text that the operator wrote.
    #[must_use]
    pub fn new(network: IpNet, name: &str) -> Self {
        Self { network, name: name.trim().into() }
    }

    /// The narrowest of these networks that an address is in.
    #[must_use]
    pub fn narrowest(networks: &[Self], source: IpAddr) -> Option<&Self> {
        let source = source.to_canonical();
        let containing = networks.iter().filter(|own| own.network.contains(&source));
        containing.max_by_key(|own| own.network.prefix_len())
    }

    /// Whether it holds all addresses of IPv4 or of IPv6.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.network.prefix_len() == 0
    }

    /// Name of the user that its clients are.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl fmt::Debug for TrustedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct TrustedNetworks(Vec<TrustedNetwork>);

impl TrustedNetworks {
    /// # Errors
    /// A network that is listed twice.
    pub(super) fn new(mut networks: Vec<TrustedNetwork>) -> Result<Self, UsersError> {
        networks.sort_by_key(|own| own.network);
        if let Some(two) = networks.windows(2).find(|two| two[0].network == two[1].network) {
            let cause = format!("'{}' is listed twice", two[1].name);
            return Err(UsersError::new("--no-auth-from", cause, "list each network once"));
        }
        Ok(Self(networks))
    }

    /// User that a client without credentials is, by the narrowest network that it comes from.
    pub(super) fn user_at(&self, source: IpAddr) -> Option<Arc<str>> {
        TrustedNetwork::narrowest(&self.0, source).map(|own| Arc::clone(&own.name))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.0.iter().map(|own| Arc::clone(&own.name))
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|own| *own.name == *name)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Result<TrustedNetworks, UsersError> {
        let network = |text: &&str| TrustedNetwork::new(text.parse().unwrap(), text);
        TrustedNetworks::new(texts.iter().map(network).collect())
    }

    #[test]
    fn the_narrowest_network_names_the_user() {
        let networks = networks(&["10.0.0.0/8", "10.1.2.3/32", "10.1.0.0/16", "fd00::/8"]).unwrap();
        for (from, name) in [
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("::ffff:10.1.2.3", Some("10.1.2.3/32")),
            ("10.1.2.4", Some("10.1.0.0/16")),
            ("10.2.0.1", Some("10.0.0.0/8")),
            ("fd12::1", Some("fd00::/8")),
            ("11.0.0.1", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(networks.user_at(from.parse().unwrap()).as_deref(), name, "{from}");
        }
    }

    #[test]
    fn a_network_is_given_once() {
        let error = networks(&["10.0.0.0/8", "fd00::/8", "10.0.0.0/8"]).unwrap_err().to_string();
        assert_eq!(error, "--no-auth-from: '10.0.0.0/8' is listed twice; list each network once");
    }
}
