//! A rule, `HOST:PORTS`, as `--allow` and `--deny` take it.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};

use crate::invalid_value::InvalidValue;
use crate::target::{Host, Target, normal_name};

/// Longest text of a rule, in bytes: rules are quoted in answers and in the log.
const MAX_RULE: usize = 300;

/// One rule, such as `api.example:443`, `*.apps.example:443,30000-32767` or `10.0.0.0/8:*`.
///
/// [`fmt::Display`] gives back the text as it was written, except that a name in another script is
/// shown as the ASCII one that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    host: Pattern,
    ports: Vec<RangeInclusive<u16>>,
    text: String,
}

/// The part before the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    /// `*`: every name and every address that is not special.
    Any,
    /// One name.
    Name(String),
    /// `*.example.com`, stored as `.example.com`: names of any depth below the suffix, and not the
    /// suffix itself, as with a TLS wildcard (RFC 9525, 6.3).
    Below(String),
    /// A network; an address is a network of one.
    Network(IpNet),
}

impl Rule {
    /// Returns true if `port` is among the rule's ports.
    pub(crate) fn has_port(&self, port: u16) -> bool {
        self.ports.iter().any(|range| range.contains(&port))
    }

    /// Returns true if the rule covers the target's name, or one of these addresses.
    pub(super) fn covers(&self, target: &Target, addresses: &[IpAddr]) -> bool {
        let by_name = matches!(&target.host, Host::Name(name) if self.covers_name(name));
        by_name || addresses.iter().any(|address| self.covers_address(*address))
    }

    /// Returns true if the rule covers this name, in the form of [`normal_name`].
    pub(crate) fn covers_name(&self, name: &str) -> bool {
        match &self.host {
            Pattern::Any => true,
            Pattern::Name(own) => own == name,
            Pattern::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_str()),
            Pattern::Network(_) => false,
        }
    }

    /// Returns true if the rule gives the name, or a suffix of it, and not just `*`.
    pub(super) fn spells_name(&self, name: &str) -> bool {
        self.host != Pattern::Any && self.covers_name(name)
    }

    /// Returns true if the rule covers this address.
    pub(crate) fn covers_address(&self, address: IpAddr) -> bool {
        match &self.host {
            Pattern::Any => true,
            Pattern::Name(_) | Pattern::Below(_) => false,
            Pattern::Network(network) => network.contains(&address),
        }
    }

    /// Returns the rule's network, if it has one.
    pub(crate) fn network(&self) -> Option<IpNet> {
        match self.host {
            Pattern::Network(network) => Some(network),
            Pattern::Any | Pattern::Name(_) | Pattern::Below(_) => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Rule {
    type Err = InvalidValue;

    /// Parses a rule; the error gives the fault and the remedy.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let text = text.trim();
        if text.len() > MAX_RULE {
            let cause = format!("a rule of {} bytes is too long", text.len());
            return Err(InvalidValue::new(cause, format!("write several of at most {MAX_RULE}")));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidValue::new(
                format!("{text:?} contains control characters"),
                "write HOST:PORTS, as api.example:443",
            ));
        }
        if let Some((_, rest)) = text.split_once("://") {
            return Err(InvalidValue::new(
                format!("`{text}` is a URL"),
                format!("write HOST:PORTS alone, as `{rest}`"),
            ));
        }
        let (host, ports) = split(text)?;
        let pattern = Pattern::parse(host)?;
        let text = if text.is_ascii() { text.to_owned() } else { format!("{pattern}:{ports}") };
        Ok(Self { host: pattern, ports: parse_ports(ports)?, text })
    }
}

/// Parts the host from the ports, at the last colon; a bracketed host keeps its colons.
fn split(text: &str) -> Result<(&str, &str), InvalidValue> {
    let no_ports = || {
        InvalidValue::new(
            format!("`{text}` names no ports"),
            format!("write HOST:PORTS, as `{text}:443` or `{text}:*`"),
        )
    };
    if text.starts_with('[') {
        let close = text
            .find(']')
            .ok_or_else(|| InvalidValue::new(format!("`{text}` lacks the closing bracket"), "write [ADDRESS]:PORTS"))?;
        let colon = text[close..].find(':').ok_or_else(no_ports)?;
        return Ok((&text[..close + colon], &text[close + colon + 1..]));
    }
    if text.parse::<IpNet>().is_ok() {
        return Err(no_ports());
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(InvalidValue::new(
            format!("`{text}` may be an IPv6 address with or without a port"),
            "write [ADDRESS]:PORTS",
        ));
    }
    text.rsplit_once(':').ok_or_else(no_ports)
}

impl Pattern {
    fn parse(host: &str) -> Result<Self, InvalidValue> {
        if host == "*" {
            return Ok(Self::Any);
        }
        if host.contains('/') || host.starts_with('[') {
            return parse_network(host).map(Self::Network);
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return match address {
                IpAddr::V4(_) => Ok(Self::Network(address.into())),
                IpAddr::V6(_) => {
                    Err(InvalidValue::new("an IPv6 address needs brackets", format!("write [{host}]:PORTS")))
                }
            };
        }
        match host.strip_prefix("*.") {
            Some(suffix) => parse_name(suffix).map(|name| Self::Below(format!(".{name}"))),
            None => parse_name(host).map(Self::Name),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Name(name) => f.write_str(name),
            Self::Below(suffix) => write!(f, "*{suffix}"),
            Self::Network(network) => f.write_str(&shown(*network)),
        }
    }
}

fn parse_name(name: &str) -> Result<String, InvalidValue> {
    if name.contains('*') {
        return Err(InvalidValue::new(
            format!("`{name}`: `*` must stand alone or be the first label"),
            "write * or *.example.com",
        ));
    }
    if let Some(suffix) = name.strip_prefix('.') {
        return Err(InvalidValue::new(
            format!("`{name}` begins with a dot"),
            format!("write *.{suffix} for the names below it"),
        ));
    }
    normal_name(name).map_err(|error| error.invalid().of(format_args!("`{name}` is not a host name")))
}

/// Reads `10.0.0.0/8`, `fd00::/8`, `[fd00::/8]`, `[fd00::]/8` or `[fd00::1]`.
fn parse_network(host: &str) -> Result<IpNet, InvalidValue> {
    let wanted = || {
        InvalidValue::new(format!("`{host}` is not a network"), "write 10.0.0.0/8, [fd00::]/8, 10.1.2.3 or [fd00::1]")
    };
    let bare = without_brackets(host).ok_or_else(wanted)?;
    let network: IpNet = match bare.parse::<IpAddr>() {
        Ok(address) => address.into(),
        Err(_) => bare.parse().map_err(|_| wanted())?,
    };
    if network.addr().is_ipv4() && host.starts_with('[') {
        return Err(wanted());
    }
    if network.trunc() != network {
        let cause = format!("`{host}` has host bits set beyond its prefix");
        return Err(InvalidValue::new(cause, format!("write {}", shown(network.trunc()))));
    }
    Ok(as_ipv4(network))
}

fn without_brackets(host: &str) -> Option<Cow<'_, str>> {
    let Some(rest) = host.strip_prefix('[') else { return Some(host.into()) };
    let (inside, behind) = rest.split_once(']')?;
    (behind.is_empty() || behind.starts_with('/')).then(|| format!("{inside}{behind}").into())
}

/// Converts a network of IPv4-mapped addresses (RFC 4291, 2.5.5.2) to IPv4: Linux connects to them
/// over IPv4, and the policy sees every address in IPv4 form.
fn as_ipv4(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => match v6.addr().to_ipv4_mapped() {
            Some(v4) => Ipv4Net::new(v4, v6.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        IpNet::V4(_) | IpNet::V6(_) => network,
    }
}

/// Formats a network in the syntax of a rule; a network of one address is shown as the address.
pub(super) fn shown(network: IpNet) -> String {
    let single = network.prefix_len() == network.max_prefix_len();
    match network {
        IpNet::V4(v4) if single => v4.addr().to_string(),
        IpNet::V4(v4) => v4.to_string(),
        IpNet::V6(v6) if single => format!("[{}]", v6.addr()),
        IpNet::V6(v6) => format!("[{}]/{}", v6.addr(), v6.prefix_len()),
    }
}

fn parse_ports(ports: &str) -> Result<Vec<RangeInclusive<u16>>, InvalidValue> {
    if ports == "*" {
        return Ok(vec![1..=u16::MAX]);
    }
    ports.split(',').map(|item| parse_range(item.trim_ascii())).collect()
}

fn parse_range(item: &str) -> Result<RangeInclusive<u16>, InvalidValue> {
    let (low, high) = item.split_once('-').unwrap_or((item, item));
    match (parse_port(low), parse_port(high)) {
        (Some(low), Some(high)) if low <= high => Ok(low..=high),
        (Some(low), Some(high)) => {
            Err(InvalidValue::new(format!("the ports {low}-{high} are reversed"), format!("write {high}-{low}")))
        }
        _ => Err(InvalidValue::new(
            format!("`{item}` is not a port from 1 to 65535"),
            "write 443, 30000-32767, a list of those, or *",
        )),
    }
}

/// Digits alone: `u16::from_str` would take `+443` as well.
fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    fn covers(text: &str, host: &str) -> bool {
        match host.parse() {
            Ok(address) => rule(text).covers_address(address),
            Err(_) => rule(text).covers_name(host),
        }
    }

    #[test]
    fn hosts_cover_what_they_say() {
        let table = [
            ("*:443", &["api.example", "10.0.0.1", "::1"][..], &[][..]),
            ("api.example:443", &["api.example"], &["x.api.example", "example", "1.2.3.4", "::1"]),
            ("API.Example.:443", &["api.example"], &["api.example2"]),
            ("b\u{fc}cher.example:443", &["xn--bcher-kva.example"], &["bcher.example"]),
            ("*.example:443", &["a.example", "b.a.example"], &["example", "anexample", ".example", "10.0.0.1"]),
            ("10.1.2.3:443", &["10.1.2.3"], &["10.1.2.4", "api.example"]),
            ("10.0.0.0/8:443", &["10.0.0.0", "10.255.255.255"], &["11.0.0.0", "::ffff:a00:1", "x.example"]),
            ("0.0.0.0/0:443", &["1.2.3.4"], &["::1", "x.example"]),
            ("[fd00::1]:443", &["fd00::1"], &["fd00::2"]),
            ("[fd00::]/8:443", &["fd00::1", "fdff::1"], &["fe00::1", "10.0.0.1"]),
            ("[fd00::/8]:443", &["fd00::1"], &["fe00::1"]),
            ("fd00::/8:443", &["fd00::1"], &["fe00::1"]),
            ("[::ffff:10.0.0.0]/104:443", &["10.1.2.3"], &["11.0.0.1"]),
            ("[::ffff:10.0.0.1]:443", &["10.0.0.1"], &["10.0.0.2"]),
        ];
        for (text, inside, outside) in table {
            assert!(inside.iter().all(|host| covers(text, host)), "{text}");
            assert!(!outside.iter().any(|host| covers(text, host)), "{text}");
        }
    }

    #[test]
    fn ports_are_numbers_ranges_lists_or_all() {
        let table = [
            ("*:443", &[443][..], &[442, 444, 1][..]),
            ("*:30000-32767", &[30_000, 31_000, 32_767], &[29_999, 32_768]),
            ("*:22,443,8000-8001", &[22, 443, 8_000, 8_001], &[23, 8_002]),
            ("*:22, 443", &[22, 443], &[21]),
            ("*:*", &[1, 443, 65_535], &[]),
            ("*:1-65535", &[1, 65_535], &[]),
        ];
        for (text, inside, outside) in table {
            assert!(inside.iter().all(|port| rule(text).has_port(*port)), "{text}");
            assert!(!outside.iter().any(|port| rule(text).has_port(*port)), "{text}");
        }
    }

    #[test]
    fn a_rule_shows_as_it_was_written() {
        for text in ["api.example:443", "*.apps.example:443,30000-32767", "[fd00::]/8:*", "fd00::/8:1", "*:*"] {
            assert_eq!(rule(text).to_string(), text);
        }
        assert_eq!(rule(" *.b\u{fc}cher.example:443 ").to_string(), "*.xn--bcher-kva.example:443");
    }

    #[test]
    fn errors_name_the_cause_and_the_form_wanted() {
        let table = [
            ("api.example", "names no ports; write HOST:PORTS, as `api.example:443`"),
            ("10.0.0.0/8", "as `10.0.0.0/8:443`"),
            ("fd00::/8", "as `fd00::/8:443`"),
            ("[fd00::1]", "names no ports"),
            ("[fd00::1:443", "lacks the closing bracket"),
            ("fd00::1:443", "write [ADDRESS]:PORTS"),
            ("fd00:1:2:3:4:5:6:7:443", "write [fd00:1:2:3:4:5:6:7]:PORTS"),
            ("10.1.2.3/8:443", "has host bits set beyond its prefix; write 10.0.0.0/8"),
            ("[fd00::1]/8:443", "write [fd00::]/8"),
            ("10.0.0.0/33:443", "is not a network; write 10.0.0.0/8"),
            ("[10.0.0.1]:443", "is not a network"),
            ("[fd00::/8]0:443", "is not a network"),
            ("[fe80::1%eth0]:443", "is not a network"),
            ("a*.example:443", "write * or *.example.com"),
            ("*.*.example:443", "write * or *.example.com"),
            (".example:443", "write *.example for the names below it"),
            ("127.1:443", "is not a host name: "),
            ("2130706433:443", "is not a host name: "),
            ("a..example:443", "is not a host name: "),
            (":443", "is not a host name: "),
            ("*.:443", "is not a host name: "),
            ("*:0", "`0` is not a port from 1 to 65535"),
            ("*:65536", "`65536` is not a port"),
            ("*:", "`` is not a port"),
            ("*:443,", "`` is not a port"),
            ("*:443,*", "`*` is not a port"),
            ("*:+443", "`+443` is not a port"),
            ("*:https", "write 443, 30000-32767, a list of those, or *"),
            ("*:200-100", "are reversed; write 100-200"),
            ("https://api.example:443", "is a URL; write HOST:PORTS alone, as `api.example:443`"),
            ("a\u{7}b:443", "control characters"),
        ];
        for (text, words) in table {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
        let long = format!("*:{}443", "443,".repeat(MAX_RULE));
        assert!(long.parse::<Rule>().unwrap_err().to_string().contains("too long"));
    }
}
