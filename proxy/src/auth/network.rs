//! Networks with clients that may omit credentials (`--no-auth-from`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::error::UsersError;

/// Network with clients admitted without credentials, as a user named like the network.
#[derive(Clone, PartialEq, Eq)]
pub struct TrustedNetwork {
    network: IpNet,
    name: Arc<str>,
}

impl TrustedNetwork {
    /// Creates a network and the name of its user, in the operator's spelling.
    #[must_use]
    pub fn new(network: IpNet, name: &str) -> Self {
        Self { network, name: name.trim().into() }
    }

    /// Returns the narrowest of these networks with this address.
    #[must_use]
    pub fn narrowest(networks: &[Self], source: IpAddr) -> Option<&Self> {
        let source = source.to_canonical();
        let containing = networks.iter().filter(|own| own.network.contains(&source));
        containing.max_by_key(|own| own.network.prefix_len())
    }

    /// Returns true if it holds all addresses of IPv4 or of IPv6.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.network.prefix_len() == 0
    }

    /// Returns the name of its clients' user.
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
    /// A network listed twice.
    pub(super) fn new(mut networks: Vec<TrustedNetwork>) -> Result<Self, UsersError> {
        networks.sort_by_key(|own| own.network);
        if let Some(two) = networks.windows(2).find(|two| two[0].network == two[1].network) {
            let cause = format!("'{}' is listed twice", two[1].name);
            return Err(UsersError::new("--no-auth-from", cause, "list each network once"));
        }
        Ok(Self(networks))
    }

    /// Returns the user of a client without credentials, by the narrowest network of its address.
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
