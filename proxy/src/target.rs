//! Where a client wants to go: a host and a port in one normal form.
//!
//! A target has one spelling here, so that the checked rule, the resolved name and the log line are
//! about the same target. Ambiguous text is refused rather than guessed at: a resolver reads
//! `127.1` or `0x7f000001` as an address (`inet_aton(3)`) never checked by a rule about addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::invalid_value::InvalidValue;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// The longest name in octets, without its trailing dot (RFC 1035, 2.3.4, as text).
pub const MAX_NAME: usize = 253;

/// The longest label in octets (RFC 1035, 2.3.4).
pub const MAX_LABEL: usize = 63;

/// The longest host text in bytes that is looked at, because IDNA costs time and a Unicode name is
/// longer in UTF-8 than in A-labels: room for four bytes for each octet of the result.
const MAX_TEXT: usize = 4 * MAX_NAME;

/// All of ASCII but letters, digits, hyphen, dot and underscore. The underscore is in no host name
/// of RFC 952, but in names that clusters and service records use, and the DNS has no objection.
const FORBIDDEN: AsciiDenyList = AsciiDenyList::new(true, "!\"#$%&'()*+,/:;<=>?@[\\]^`{|}~");

/// Why a text is not a target, a host or a name: cause and remedy in a few words of ASCII.
///
/// Never quotes the text, since it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetError {
    cause: &'static str,
    remedy: Option<&'static str>,
}

impl TargetError {
    /// Returns cause and remedy.
    #[must_use]
    pub fn invalid(self) -> InvalidValue {
        InvalidValue { cause: self.cause.into(), remedy: self.remedy.map(Into::into) }
    }
}

impl fmt::Display for TargetError {
    /// Without a full stop.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause)?;
        self.remedy.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for TargetError {}

const fn bad<T>(cause: &'static str) -> Result<T, TargetError> {
    Err(TargetError { cause, remedy: None })
}

const fn bad_with_remedy<T>(cause: &'static str, remedy: &'static str) -> Result<T, TargetError> {
    Err(TargetError { cause, remedy: Some(remedy) })
}

/// A host, either a name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A DNS name: ASCII (IDNA A-labels), lower-case, without a trailing dot.
    Name(String),
    /// A literal address; an IPv4-mapped IPv6 one is stored as IPv4.
    Address(IpAddr),
}

impl Host {
    /// Reads a name, a dotted-quad IPv4 address or an IPv6 address in brackets.
    ///
    /// # Errors
    ///
    /// All other text, in particular a bare IPv6 address, a zone id (it names an interface of the
    /// client's own host), and names refused by [`normal_name`].
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if let Some(bracketed) = text.strip_prefix('[') {
            let Some(inner) = bracketed.strip_suffix(']') else {
                return bad("unbalanced brackets in the host");
            };
            return parse_ipv6(inner);
        }
        Self::parse_name(text).map(|(host, _)| host)
    }

    /// Reads all but an address in brackets, and tells whether a name has a final dot.
    fn parse_name(text: &str) -> Result<(Self, bool), TargetError> {
        if text.contains(':') {
            return bad("an IPv6 address has to stand in brackets");
        }
        // `Ipv4Addr` takes four decimal numbers without leading zeros and nothing else.
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok((Self::Address(address.into()), false));
        }
        rooted_name(text).map(|(name, absolute)| (Self::Name(name), absolute))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// `host:port`, as named in a CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
    /// The name was given with a final dot: no search domain completes it.
    pub absolute: bool,
}

impl Target {
    /// Reads exactly the authority-form of RFC 9112, 3.2.3, with both parts present; `Display`
    /// gives
    /// the same text back, but for the normal form of its host.
    ///
    /// # Errors
    ///
    /// All other text: no port, port 0, userinfo, a scheme, a path, and hosts refused by
    /// [`Host::parse`].
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        if text.contains("://") {
            return bad_with_remedy("the target is a URL", "CONNECT takes host:port alone");
        }
        if text.contains(['/', '?', '#']) {
            return bad_with_remedy("the target has a path or query", "CONNECT takes host:port alone");
        }
        if text.contains('@') {
            return bad_with_remedy("the target has a user part", "credentials go into Proxy-Authorization");
        }
        let (host, port) = split(text)?;
        if host.is_empty() {
            return bad("the target has no host");
        }
        let (host, absolute) =
            if host.starts_with('[') { (Host::parse(host)?, false) } else { Host::parse_name(host)? };
        Ok(Self { host, port: parse_port(port)?, absolute })
    }

    /// Parses the authority of a URL; its port may be absent or empty (RFC 3986, 3.2.3), and is
    /// then `default_port`.
    ///
    /// # Errors
    ///
    /// Userinfo, port 0, and hosts refused by [`Host::parse`].
    pub fn parse_authority(text: &str, default_port: u16) -> Result<Self, TargetError> {
        let past_brackets = text.rfind(']').map_or(0, |end| end + 1);
        match text[past_brackets..].find(':') {
            Some(colon) if past_brackets + colon + 1 == text.len() => {
                Self::parse(&format!("{}:{default_port}", &text[..text.len() - 1]))
            }
            Some(_) => Self::parse(text),
            None => Self::parse(&format!("{text}:{default_port}")),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip().to_canonical()), port: address.port(), absolute: false }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// The one form of a DNS name: A-labels by UTS 46 (non-transitional), lower-case, without the
/// trailing dot. Rules and targets both go through here, so they can be compared as bytes.
///
/// # Errors
///
/// Characters impossible in a name, broken `xn--` labels, an empty label, a label above 63 octets,
/// a name above 253, and any name with a last label that is a number in the sense of the [URL
/// standard]: some parsers read it as an IPv4 address. All checks apply to the result, since
/// full-width digits and dots become ASCII ones on the way.
///
/// [URL standard]: https://url.spec.whatwg.org/#ends-in-a-number-checker
pub fn normal_name(text: &str) -> Result<String, TargetError> {
    rooted_name(text).map(|(name, _)| name)
}

/// The normal form of a name, and whether it was given with a final dot.
fn rooted_name(text: &str) -> Result<(String, bool), TargetError> {
    if text.len() > MAX_TEXT {
        return bad("the host name is longer than a DNS name can be");
    }
    // Hyphens anywhere are allowed, as in a URL: real names start, end and go on with them.
    let ascii = Uts46::new().to_ascii(text.as_bytes(), FORBIDDEN, Hyphens::Allow, DnsLength::Ignore);
    let Ok(ascii) = ascii else {
        return bad("the host is not a valid DNS name or address");
    };
    let (name, absolute) = ascii.strip_suffix('.').map_or((&*ascii, false), |name| (name, true));
    if name.split('.').any(str::is_empty) {
        return bad("the host name has an empty label");
    }
    if name.split('.').any(|label| label.len() > MAX_LABEL) {
        return bad("a label of the host name is longer than the DNS allows");
    }
    if name.len() > MAX_NAME {
        return bad("the host name is longer than a DNS name can be");
    }
    if ends_in_number(name) {
        return bad_with_remedy(
            "the host looks like an address, but is not four decimal numbers without leading zeros",
            "write it as 192.0.2.1",
        );
    }
    Ok((name.to_owned(), absolute))
}

/// Returns true if the last label would make the URL standard read the whole name as an IPv4
/// address. The forms of `inet_aton(3)` are a subset.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    match last.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => last.bytes().all(|b| b.is_ascii_digit()),
    }
}

fn parse_ipv6(inner: &str) -> Result<Host, TargetError> {
    if inner.contains('%') {
        return bad_with_remedy("a zone id means nothing to a proxy", "leave it out");
    }
    if inner.starts_with(['v', 'V']) {
        return bad("IPvFuture addresses are not supported");
    }
    match inner.parse::<Ipv6Addr>() {
        Ok(address) => Ok(Host::Address(address.to_canonical())),
        Err(_) => bad("the brackets hold no valid IPv6 address"),
    }
}

/// Host and port, with the brackets left on the host.
fn split(text: &str) -> Result<(&str, &str), TargetError> {
    const NO_PORT: TargetError =
        TargetError { cause: "the target has no port", remedy: Some("CONNECT takes host:port") };
    if !text.starts_with('[') {
        return text.rsplit_once(':').ok_or(NO_PORT);
    }
    let Some(end) = text.find(']') else {
        return bad("unbalanced brackets in the host");
    };
    let (host, rest) = text.split_at(end + 1);
    match rest.strip_prefix(':') {
        Some(port) => Ok((host, port)),
        None if rest.is_empty() => Err(NO_PORT),
        None => bad("something other than a port follows the brackets"),
    }
}

/// Decimal digits alone: `u16` by itself would take a sign.
fn parse_port(text: &str) -> Result<u16, TargetError> {
    if text.is_empty() {
        return bad_with_remedy("the target has no port", "CONNECT takes host:port");
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return bad("the port is not a number");
    }
    match text.parse() {
        Ok(0) => bad("port 0 cannot be connected to"),
        Ok(port) => Ok(port),
        Err(_) => bad("the port is above 65535"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(text: &str) -> Result<String, String> {
        Target::parse(text).map(|target| target.to_string()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_authority_of_a_url_may_leave_the_port_out() {
        let table = [
            ("API.example", Ok("api.example:80")),
            ("api.example:", Ok("api.example:80")),
            ("api.example:8080", Ok("api.example:8080")),
            ("192.0.2.7", Ok("192.0.2.7:80")),
            ("[2001:db8::1]", Ok("[2001:db8::1]:80")),
            ("[2001:db8::1]:", Ok("[2001:db8::1]:80")),
            ("[2001:db8::1]:8080", Ok("[2001:db8::1]:8080")),
            ("", Err("the target has no host")),
            (":80", Err("the target has no host")),
            ("u:p@h", Err("the target has a user part; credentials go into Proxy-Authorization")),
            ("h:0", Err("port 0 cannot be connected to")),
            ("::1", Err("an IPv6 address has to stand in brackets")),
            ("[::1]x", Err("something other than a port follows the brackets")),
        ];
        for (text, expected) in table {
            let read =
                Target::parse_authority(text, 80).map(|target| target.to_string()).map_err(|error| error.to_string());
            assert_eq!(read.as_deref().map_err(String::as_str), expected, "{text:?}");
        }
    }

    #[test]
    fn accepted_forms_have_one_normal_form() {
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        assert_eq!(long.len(), MAX_NAME);
        let table = [
            ("example.com:443", "example.com:443"),
            ("EXAMPLE.Com:443", "example.com:443"),
            ("example.com.:443", "example.com:443"),
            ("localhost:1", "localhost:1"),
            ("h:65535", "h:65535"),
            ("h:0443", "h:443"),
            ("_ldap._tcp.example.com:389", "_ldap._tcp.example.com:389"),
            ("my_svc.name-space.svc.cluster.local:6443", "my_svc.name-space.svc.cluster.local:6443"),
            ("-a-.r3---sn-x.example:443", "-a-.r3---sn-x.example:443"),
            ("1.2.3.example:443", "1.2.3.example:443"),
            ("0x7f.0x1g:443", "0x7f.0x1g:443"),
            ("192.0.2.7:443", "192.0.2.7:443"),
            ("[2001:DB8::1]:443", "[2001:db8::1]:443"),
            ("[2001:db8:0:0:0:0:0:1]:443", "[2001:db8::1]:443"),
            ("[::]:443", "[::]:443"),
            ("[::ffff:127.0.0.1]:443", "127.0.0.1:443"),
            ("[::FFFF:7f00:1]:443", "127.0.0.1:443"),
            // The IPv4-compatible form is deprecated and routed nowhere, but it is another address.
            ("[::127.0.0.1]:443", "[::7f00:1]:443"),
            ("bücher.example:443", "xn--bcher-kva.example:443"),
            ("BÜCHER.example:443", "xn--bcher-kva.example:443"),
            ("bu\u{308}cher.example:443", "xn--bcher-kva.example:443"),
            ("xn--bcher-kva.example:443", "xn--bcher-kva.example:443"),
            ("XN--BCHER-KVA.example:443", "xn--bcher-kva.example:443"),
            ("straße.example:443", "xn--strae-oqa.example:443"),
            ("ｅｘａｍｐｌｅ．ｃｏｍ。:443", "example.com:443"),
            ("exam\u{ad}ple.com:443", "example.com:443"),
            (&format!("{long}:443"), &format!("{long}:443")),
            (&format!("{long}.:443"), &format!("{long}:443")),
        ];
        for (text, normal) in table {
            assert_eq!(shown(text).as_deref(), Ok(normal), "{text}");
        }
    }

    #[test]
    fn refused_forms_say_why() {
        let label = format!("{}.example:443", "a".repeat(64));
        let unicode_label = format!("{}.example:443", "ü".repeat(64));
        let long = format!("{0}.{0}.{0}.{1}:443", "a".repeat(63), "b".repeat(62));
        let huge = format!("{}:443", "ü".repeat(5000));
        let table = [
            ("", "no port"),
            ("example.com", "no port"),
            ("example.com:", "no port"),
            ("[::1]", "no port"),
            ("[::1]:", "no port"),
            (":443", "no host"),
            ("h:0", "port 0"),
            ("h:00", "port 0"),
            ("h:65536", "above 65535"),
            ("h:99999999999999999999999", "above 65535"),
            ("h:+443", "not a number"),
            ("h:-1", "not a number"),
            ("h: 443", "not a number"),
            ("h:443 ", "not a number"),
            ("h:https", "not a number"),
            ("h:0x1bb", "not a number"),
            ("h:４４３", "not a number"),
            ("user@h:443", "user part"),
            ("user:secret@h:443", "user part"),
            ("@h:443", "user part"),
            ("[fe80::1%eth0]:443", "zone id"),
            ("[fe80::1%25eth0]:443", "zone id"),
            ("a..b:443", "empty label"),
            (".a:443", "empty label"),
            ("a..:443", "empty label"),
            (".:443", "empty label"),
            ("。:443", "empty label"),
            ("\u{ad}:443", "empty label"),
            (&label, "a label"),
            (&unicode_label, "a label"),
            (&long, "name is longer"),
            (&huge, "name is longer"),
            ("::1:443", "in brackets"),
            ("2001:db8::1:443", "in brackets"),
            ("h:1:2", "in brackets"),
            ("http://h:80", "URL"),
            ("http://h:80/", "URL"),
            ("https://user:secret@h", "URL"),
            ("/", "path or query"),
            ("/path:443", "path or query"),
            ("h:443/", "path or query"),
            ("h:443?q", "path or query"),
            ("h:443#f", "path or query"),
            ("h/p:443", "path or query"),
            ("[v1.fe80::a]:443", "IPvFuture"),
            ("[V1.x]:443", "IPvFuture"),
            ("[]:443", "no valid IPv6"),
            ("[h]:443", "no valid IPv6"),
            ("[127.0.0.1]:443", "no valid IPv6"),
            ("[::1::]:443", "no valid IPv6"),
            ("[::1:443", "brackets"),
            ("[::1]443", "brackets"),
            ("[::1]x:443", "brackets"),
            ("x[::1]:443", "brackets"),
            ("::1]:443", "brackets"),
            ("*:443", "not a valid"),
            ("*.example.com:443", "not a valid"),
            ("a b:443", "not a valid"),
            ("a\r\nb:443", "not a valid"),
            ("a\0b:443", "not a valid"),
            ("ex%61mple.com:443", "not a valid"),
            ("a,b:443", "not a valid"),
            ("a\\b:443", "not a valid"),
            ("xn--\u{fc}.example:443", "not a valid"),
            ("xn--99999999.example:443", "not a valid"),
            ("xn--abc-.example:443", "not a valid"),
            // A character that becomes a delimiter only under IDNA is refused as one.
            ("a\u{ff0f}b:443", "not a valid"),
            ("a\u{ff20}b:443", "not a valid"),
            ("a\u{ff1a}b:443", "not a valid"),
            ("\u{2100}.example:443", "not a valid"),
            ("a\u{fffd}:443", "not a valid"),
        ];
        for (text, word) in table {
            let detail = shown(text).expect_err(text);
            assert!(detail.contains(word), "{text}: {detail}");
        }
    }

    #[test]
    fn numeric_look_alikes_are_refused_as_such() {
        let table = [
            "2130706433",
            "0177.0.0.1",
            "127.1",
            "127.0.1",
            "0x7f.1",
            "0x7F000001",
            "0x",
            "0X7f.0.0.0X1",
            "1.2.3.4.",
            "1.2.3.4.5",
            "1.2.3.256",
            "1.2.3.04",
            "08",
            "999999999999",
            "example.com.1",
            "foo.0x1f",
            "１２７.０.０.１",
            "１２７．０．０．１",
            "127。0。0。1",
            "②①③",
            "１２７.1",
            "０ｘ７ｆ.１",
            "127.0.0.1\u{ad}",
            "127.0.0.1\u{200b}",
        ];
        for host in table {
            let detail = Host::parse(host).map_err(|error| error.to_string()).expect_err(host);
            assert!(detail.contains("looks like an address"), "{host}: {detail}");
            assert!(shown(&format!("{host}:443")).is_err(), "{host}");
        }
    }

    #[test]
    fn a_host_shows_as_it_is_parsed() {
        for text in ["example.com", "192.0.2.7", "[2001:db8::1]"] {
            assert_eq!(Host::parse(text).map(|host| host.to_string()).as_deref(), Ok(text));
        }
    }

    fn any_host() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<Ipv4Addr>().prop_map(|a| a.to_string()),
            any::<Ipv6Addr>().prop_map(|a| format!("[{a}]")),
            any::<Ipv4Addr>().prop_map(|a| format!("[{}]", a.to_ipv6_mapped())),
            "[a-zA-Z0-9_-]{1,20}(\\.[a-zA-Z][a-zA-Z0-9_-]{0,20}){0,4}\\.?",
            "[a-zäöüßéñ中日本語]{1,12}(\\.|。)[a-z]{2,8}",
            "[0-9a-fxX.０-９．。]{1,20}",
            "\\PC{0,40}",
        ]
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same(host in any_host(), port in any::<u16>()) {
            if let Ok(target) = Target::parse(&format!("{host}:{port}")) {
                let shown = Target::parse(&target.to_string());
                prop_assert_eq!(shown, Ok(Target { absolute: false, ..target }));
            }
        }

        #[test]
        fn a_normal_name_is_its_own_normal_form(text in any_host()) {
            if let Ok(name) = normal_name(&text) {
                prop_assert!(name.bytes().all(|b| b"-._".contains(&b) || b.is_ascii_lowercase() || b.is_ascii_digit()));
                prop_assert!(name.len() <= MAX_NAME && !name.ends_with('.'));
                prop_assert_eq!(normal_name(&name), Ok(name));
            }
        }

        /// No permitted name is an address to `inet_aton(3)`: each of its forms is made of one to
        /// four decimal, octal or hexadecimal numbers.
        #[test]
        fn no_spelling_of_an_ipv4_address_is_a_name(parts in proptest::collection::vec((any::<u32>(), 0..4_u8), 1..5)) {
            let spell = |(number, radix): &(u32, u8)| match radix {
                0 => format!("{number}"),
                1 => format!("0{number:o}"),
                2 => format!("0x{number:x}"),
                _ => format!("0X{number:X}"),
            };
            let text = parts.iter().map(spell).collect::<Vec<_>>().join(".");
            prop_assert!(normal_name(&text).is_err());
        }

        #[test]
        fn every_real_address_is_read(address in any::<SocketAddr>()) {
            prop_assume!(address.port() != 0);
            let address = SocketAddr::new(address.ip(), address.port());
            prop_assert_eq!(Target::parse(&address.to_string()), Ok(Target::from(address)));
        }
    }
}
