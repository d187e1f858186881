//! Addresses of the host itself, its link or its cloud's secrets: no wide rule reaches them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The kind of a special address, and the block a rule must name to permit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Special {
    /// Words to follow "is".
    pub(super) kind: &'static str,
    /// A rule permits the address if its network lies within this block.
    pub(super) block: IpNet,
}

const fn v4(kind: &'static str, [a, b, c, d]: [u8; 4], prefix: u8) -> Special {
    Special { kind, block: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)) }
}

const fn v6(kind: &'static str, [a, b, c, d, e, f, g, h]: [u16; 8], prefix: u8) -> Special {
    Special { kind, block: IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)) }
}

const METADATA: &str = "a cloud metadata service";
const UNSPECIFIED: &str = "unspecified";
const LOOPBACK: &str = "loopback";
const LINK_LOCAL: &str = "link-local";
const MULTICAST: &str = "multicast";

/// The first block that holds an address decides, so a narrow one comes before a wide one.
///
/// The blocks are those of the IANA special-purpose registries (RFC 6890) that never are a target
/// over a network. Private and unique local addresses (RFC 1918, RFC 4193) are not among them:
/// clusters live there. The metadata addresses are from the clouds' own documentation.
const BLOCKS: &[Special] = &[
    // AWS, Azure, Google, OpenStack, Oracle and others.
    v4(METADATA, [169, 254, 169, 254], 32),
    // AWS: credentials of ECS tasks, and of EKS pods.
    v4(METADATA, [169, 254, 170, 2], 32),
    v4(METADATA, [169, 254, 170, 23], 32),
    v6(METADATA, [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    v6(METADATA, [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128),
    // Alibaba.
    v4(METADATA, [100, 100, 100, 200], 32),
    // Azure's wire server.
    v4(METADATA, [168, 63, 129, 16], 32),
    // Oracle, the older and the IPv6 one.
    v4(METADATA, [192, 0, 0, 192], 32),
    v6(METADATA, [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    // Google, for instances with IPv6 alone.
    v6(METADATA, [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    // OpenStack, on the link.
    v6(METADATA, [0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
    // Scaleway.
    v4(METADATA, [169, 254, 42, 42], 32),
    v6(METADATA, [0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128),
    // All of RFC 1122's "this host on this network": Linux connects 0.0.0.0 to itself.
    v4(UNSPECIFIED, [0, 0, 0, 0], 8),
    v6(UNSPECIFIED, [0; 8], 128),
    v4(LOOPBACK, [127, 0, 0, 0], 8),
    v6(LOOPBACK, [0, 0, 0, 0, 0, 0, 0, 1], 128),
    v4(LINK_LOCAL, [169, 254, 0, 0], 16),
    v6(LINK_LOCAL, [0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    v6("site-local", [0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    v4(MULTICAST, [224, 0, 0, 0], 4),
    v6(MULTICAST, [0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
    v4("broadcast", [255, 255, 255, 255], 32),
];

/// Why the address is special, or `None` for an ordinary one.
///
/// An address with an embedded IPv4 one is as special as the embedded one: a translator or a tunnel
/// may deliver there. The block to name is then the address itself.
pub(super) fn special(address: IpAddr) -> Option<Special> {
    let listed = |address| BLOCKS.iter().copied().find(|special| special.block.contains(&address));
    listed(address).or_else(|| {
        let inner = inner_addresses(address).into_iter().find_map(|inner| listed(inner.into()))?;
        Some(Special { block: address.into(), ..inner })
    })
}

/// Returns the IPv4 addresses embedded in an IPv6 one for a translator or a tunnel. Some forms have
/// several readings; all of them count, since only the translator knows the right one.
pub(super) fn inner_addresses(address: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return Vec::new() };
    let octets = v6.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| octets[place]));
    let last = at([12, 13, 14, 15]);
    match v6.segments() {
        // `::` and `::1` are addresses in their own right; the rest is IPv4-compatible (RFC 4291,
        // 2.5.5.1).
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        [0, 0, 0, 0, 0, 0, ..] => vec![last],
        // IPv4-mapped (RFC 4291, 2.5.5.2) and IPv4-translated (RFC 2765, 2.1).
        [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => vec![last],
        // The well-known prefix of NAT64 (RFC 6052, 2.1).
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last],
        // The local-use prefix of NAT64 (RFC 8215): any layout of RFC 6052, 2.2 that fits in it.
        [0x64, 0xff9b, 1, ..] => likely(vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last]),
        // 6to4 (RFC 3056, 2).
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo (RFC 4380, 4): the server, and the client with its bits turned over.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), !last],
        _ => Vec::new(),
    }
}

/// Drops the readings in 0.0.0.0/8, produced by the zeros around another layout, unless all are.
fn likely(readings: Vec<Ipv4Addr>) -> Vec<Ipv4Addr> {
    let (real, zeros): (Vec<_>, Vec<_>) = readings.into_iter().partition(|reading| reading.octets()[0] != 0);
    if real.is_empty() { zeros } else { real }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_known_in_every_form() {
        let table = [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "unspecified"),
            ("::", "unspecified"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("::1", "loopback"),
            ("169.254.0.1", "link-local"),
            ("fe80::1", "link-local"),
            ("febf::1", "link-local"),
            ("fec0::1", "site-local"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("169.254.169.254", METADATA),
            ("169.254.170.2", METADATA),
            ("100.100.100.200", METADATA),
            ("168.63.129.16", METADATA),
            ("fd00:ec2::254", METADATA),
            ("fd20:ce::254", METADATA),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:0:127.0.0.1", "loopback"),
            ("::127.0.0.1", "loopback"),
            ("::169.254.169.254", METADATA),
            ("64:ff9b::169.254.169.254", METADATA),
            ("64:ff9b::127.0.0.1", "loopback"),
            // The same address at each place of RFC 6052, 2.2.
            ("64:ff9b:1::127.0.0.1", "loopback"),
            ("64:ff9b:1:7f00:0:100::", "loopback"),
            ("64:ff9b:1:7f:0:1::", "loopback"),
            ("64:ff9b:1:0:7f:0:100:0", "loopback"),
            ("64:ff9b:1::", "unspecified"),
            ("2002:7f00:1::1", "loopback"),
            ("2002:a9fe:a9fe::", METADATA),
            ("2001:0:7f00:1::808:808", "loopback"),
            ("2001:0:808:808::80ff:fffe", "loopback"),
        ];
        for (address, kind) in table {
            let special = special(address.parse().unwrap());
            assert_eq!(special.map(|s| s.kind), Some(kind), "{address}");
        }
    }

    #[test]
    fn targets_of_real_life_are_ordinary() {
        let table = [
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "1.1.1.1",
            "128.0.0.1",
            "fd00::1",
            "2001:db8::1",
            "2606:4700::1111",
            "::ffff:10.0.0.1",
            "64:ff9b::1.1.1.1",
            "64:ff9b:1::10.1.2.3",
            "2002:101:101::1",
            "2001:0:808:808::f7f7:f7f7",
        ];
        for address in table {
            assert_eq!(special(address.parse().unwrap()), None, "{address}");
        }
    }
}
