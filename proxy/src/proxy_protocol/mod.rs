//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): a header before the
//! first byte of a connection, by the proxy in front, with the address of the client.
//!
//! The address in a header replaces the peer's for limits, log and API. So a header is read only
//! from the networks of `--proxy-protocol-from`, and is mandatory there; from any other peer it is
//! a malformed request. Pure: bytes in, an address out, and the reverse.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use crate::invalid_value::InvalidValue;
use crate::policy::Rule;
use crate::target::{Host, Target};

/// Longest accepted header, in bytes. Version 1 has at most 107 bytes; version 2 also has room for
/// other fields (2.2: certificates and the like), unused here.
pub const MAX_HEADER: usize = 16 + 2_048;

/// The longest line of version 1 (2.1).
const MAX_LINE: usize = 107;

/// Signature at the start of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Start of version 1.
const LINE: &[u8; 6] = b"PROXY ";

/// A complete header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source and destination of the connection; `None` for a connection of the sender's own, or of
    /// a family without such addresses.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// The length of the header in bytes.
    pub len: usize,
}

/// A malformed header; the text holds the reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader(&'static str);

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadHeader {}

/// Parses the header at the start of `bytes`, the bytes received so far; `None` means more are
/// needed, and never occurs with [`MAX_HEADER`] bytes.
///
/// # Errors
/// The bytes are not a header, regardless of later bytes.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    if bytes.starts_with(SIGNATURE) {
        return parse_binary(bytes);
    }
    if bytes.starts_with(LINE) {
        return parse_line(bytes);
    }
    if SIGNATURE.starts_with(bytes) || LINE.starts_with(bytes) {
        return Ok(None);
    }
    Err(BadHeader("no PROXY protocol header"))
}

fn parse_line(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    const BROKEN: BadHeader = BadHeader("malformed PROXY protocol header");
    let window = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = window.windows(2).position(|two| two == b"\r\n") else {
        return if window.len() == MAX_LINE { Err(BadHeader("PROXY protocol line too long")) } else { Ok(None) };
    };
    let line = std::str::from_utf8(&window[LINE.len()..end]).map_err(|_| BROKEN)?;
    let len = end + 2;
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Some(Header { addresses: None, len }));
    }
    let words: Vec<&str> = words.collect();
    let [from, to, from_port, to_port] = words.as_slice() else { return Err(BROKEN) };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| port.to_string() == *text);
    let pair = |ip: &str, of: &str| Some(SocketAddr::new(address(ip)?, port(of)?));
    let addresses = pair(from, from_port).zip(pair(to, to_port)).ok_or(BROKEN)?;
    Ok(Some(Header { addresses: Some(addresses), len }))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    let Some(&[version, family, high, low]) = bytes.get(12..16) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let len = 16 + length;
    if version >> 4 != 2 || version & 0xf > 1 {
        return Err(BadHeader("unknown version or command in the PROXY protocol header"));
    }
    if len > MAX_HEADER {
        return Err(BadHeader("PROXY protocol header too long"));
    }
    let needed = match family {
        TCP4 => 12,
        TCP6 => 36,
        _ => 0,
    };
    let is_own = version & 0xf == 0;
    if !is_own && length < needed {
        return Err(BadHeader("PROXY protocol header too short for its addresses"));
    }
    let Some(block) = bytes.get(16..len) else { return Ok(None) };
    // LOCAL is a connection of the proxy's own, as for a health check.
    let addresses = if is_own { None } else { addresses(block, needed) };
    Ok(Some(Header { addresses, len }))
}

/// Reads the addresses of a block of version 2; they take `needed` bytes.
fn addresses(block: &[u8], needed: usize) -> Option<(SocketAddr, SocketAddr)> {
    let port = |at: usize| Some(u16::from_be_bytes(block.get(at..at + 2)?.try_into().ok()?));
    let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(block.get(at..at + 4)?).ok()?));
    let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(block.get(at..at + 16)?).ok()?));
    match needed {
        12 => Some((SocketAddr::new(v4(0)?, port(8)?), SocketAddr::new(v4(4)?, port(10)?))),
        36 => Some((SocketAddr::new(v6(0)?, port(32)?), SocketAddr::new(v6(16)?, port(34)?))),
        _ => None,
    }
}

/// One of the two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Encodes the header.
#[must_use]
pub fn header(version: Version, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    // Of one family: a connection of IPv4 is one also where IPv6 sockets carry it.
    let (from, to) = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from_ip), IpAddr::V4(to_ip)) => {
            (SocketAddr::from((from_ip, from.port())), SocketAddr::from((to_ip, to.port())))
        }
        (from_ip, to_ip) => (SocketAddr::new(v6(from_ip), from.port()), SocketAddr::new(v6(to_ip), to.port())),
    };
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    match (version, from.ip(), to.ip()) {
        (Version::V1, from_ip, to_ip) => {
            let family = if from_ip.is_ipv4() { "TCP4" } else { "TCP6" };
            format!("PROXY {family} {from_ip} {to_ip} {} {}\r\n", from.port(), to.port()).into_bytes()
        }
        (Version::V2, IpAddr::V4(from_ip), IpAddr::V4(to_ip)) => {
            [&SIGNATURE[..], &[0x21, 0x11, 0, 12], &from_ip.octets(), &to_ip.octets(), &ports].concat()
        }
        (Version::V2, from_ip, to_ip) => {
            let (from_ip, to_ip) = (v6(from_ip), v6(to_ip));
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            [&SIGNATURE[..], &[0x21, 0x21, 0, 36], &octets(from_ip), &octets(to_ip), &ports].concat()
        }
    }
}

const fn v6(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => address,
    }
}

/// One value of `--proxy-protocol-to`, `v1 for RULE` or `v2 for RULE`: targets that receive a
/// header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyProtocolRule {
    version: Version,
    rule: Rule,
}

impl FromStr for ProxyProtocolRule {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wanted = || {
            InvalidValue::new("no version and rule", "write `v1 for RULE` or `v2 for RULE`, as `v2 for 10.0.0.0/8:873`")
        };
        let (version, rule) = text.trim().split_once(" for ").ok_or_else(wanted)?;
        let version = match version {
            "v1" => Version::V1,
            "v2" => Version::V2,
            _ => return Err(wanted()),
        };
        Ok(Self { version, rule: rule.parse()? })
    }
}

/// Returns the version of the header for a target, by the first rule for its name or for its
/// dialled address.
#[must_use]
pub fn version_for(
    proxy_protocol_rules: &[ProxyProtocolRule],
    target: &Target,
    address: Option<SocketAddr>,
) -> Option<Version> {
    let is_it = |rule: &Rule| {
        let by_name = matches!(&target.host, Host::Name(name) if rule.covers_name(name));
        rule.has_port(target.port) && (by_name || address.is_some_and(|address| rule.covers_address(address.ip())))
    };
    proxy_protocol_rules.iter().find(|greeting| is_it(&greeting.rule)).map(|greeting| greeting.version)
}

#[cfg(test)]
mod tests;
