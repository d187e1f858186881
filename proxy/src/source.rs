//! Source of a connection: the unit for sharing scarce resources between peers without credentials.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// IPv4 address or IPv6 /64 of the peer of a connection.
///
/// A host picks the lower 64 bits of its IPv6 addresses itself, and can use any number of them (RFC
/// 8981), so a limit for each address would be no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl From<IpAddr> for Source {
    /// Maps an address to its source; an IPv4-mapped one counts as IPv4 (RFC 4291, 2.5.5.2).
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

impl Source {
    /// Returns the IPv6 /48 around the source, usually the largest assignment to one customer
    /// (RFC 6177); `None` for IPv4.
    #[must_use]
    pub fn site(self) -> Option<Self> {
        match self.0 {
            IpAddr::V4(_) => None,
            IpAddr::V6(network) => Some(Self(Ipv6Addr::from_bits(network.to_bits() >> 80 << 80).into())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(network) => write!(f, "{network}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_and_an_ipv6_64_are_one_source_each() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:1:2::1"), source("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        let shown = ["192.0.2.1", "2001:db8:1:2::1"].map(|text| source(text).to_string());
        assert_eq!(shown, ["192.0.2.1", "2001:db8:1:2::/64"]);
    }
}
