//! Parent proxies, and the choice of one for a target.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipnet::IpNet;
use rustls::pki_types::ServerName;

use crate::invalid_value::InvalidValue;
use crate::policy::Rule;
use crate::secret::Secret;
use crate::target::{Host, Target};
use crate::tls::server_name;

/// The list of `--parent`, in its order.
#[derive(Clone, Debug, Default)]
pub struct Parents(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    /// `None` is `direct`.
    parent: Option<Arc<Parent>>,
    /// Rule for its targets; `None`: every target.
    rule: Option<Rule>,
}

/// A proxy to ask by CONNECT.
#[derive(Debug)]
pub struct Parent {
    /// Where it is.
    pub target: Target,
    /// Name for verifying the parent's certificate; `None` for a parent without TLS.
    pub(super) tls: Option<ServerName<'static>>,
    /// The value of `Proxy-Authorization` for it.
    pub(super) authorization: Option<Secret>,
    /// `host:port`, for the log and as a label.
    pub label: Arc<str>,
}

/// Route to a target, as far as its name decides it.
#[derive(Clone, Debug)]
pub enum Route {
    /// By its own address.
    Direct,
    /// Through this one.
    Parent(Arc<Parent>),
    /// The addresses of the name decide the route.
    ByAddress,
}

impl Parents {
    /// Reads the values of `--parent`: `http[s]://[USER:PASSWORD@]HOST:PORT` or `direct`, alone or
    /// with ` for RULE`.
    ///
    /// # Errors
    /// One for each invalid value, without quoting it: it may hold a password.
    pub fn new(values: &[Secret]) -> Result<Self, Vec<InvalidValue>> {
        let is_rest = |place: usize| {
            let text = values.get(place).and_then(|value| std::str::from_utf8(value.expose()).ok());
            text.is_some_and(|text| text.contains('@') && !text.contains("://"))
        };
        let entry = |(place, value): (usize, &Secret)| {
            let text = std::str::from_utf8(value.expose()).map_err(|_| InvalidValue::without_remedy("it is not UTF-8"));
            let entry =
                text.and_then(Entry::parse).map_err(|error| match place > 0 && is_rest(place) || is_rest(place + 1) {
                    true => error.or(SEMICOLON),
                    false => error,
                });
            entry.map_err(|error| error.of(format_args!("--parent, number {}", place + 1)))
        };
        let (entries, errors): (Vec<_>, Vec<_>) = values.iter().enumerate().map(entry).partition(Result::is_ok);
        let errors: Vec<InvalidValue> = errors.into_iter().filter_map(Result::err).collect();
        if errors.is_empty() { Ok(Self(entries.into_iter().flatten().collect())) } else { Err(errors) }
    }

    /// Returns the route of the first entry for this target, before the target's name is resolved.
    #[must_use]
    pub fn route(&self, target: &Target) -> Route {
        match self.first(target, None) {
            Err(ByAddress) => Route::ByAddress,
            Ok(entry) => entry.and_then(|entry| entry.parent.clone()).map_or(Route::Direct, Route::Parent),
        }
    }

    /// Returns the parent for a target with these addresses, and the network of the matching entry,
    /// if it names one.
    #[must_use]
    pub fn choose(&self, target: &Target, addresses: &[SocketAddr]) -> (Option<Arc<Parent>>, Option<IpNet>) {
        let entry = self.first(target, Some(addresses)).ok().flatten();
        let network = entry.and_then(|entry| entry.rule.as_ref()).and_then(Rule::network);
        (entry.and_then(|entry| entry.parent.clone()), network)
    }

    fn first(&self, target: &Target, addresses: Option<&[SocketAddr]>) -> Result<Option<&Entry>, ByAddress> {
        for entry in &self.0 {
            let is_it = match (&entry.rule, &target.host) {
                (None, _) => true,
                (Some(rule), _) if !rule.has_port(target.port) => false,
                (Some(rule), Host::Address(address)) => rule.covers_address(*address),
                (Some(rule), Host::Name(name)) if rule.network().is_none() => rule.covers_name(name),
                (Some(rule), Host::Name(_)) => {
                    addresses.ok_or(ByAddress)?.iter().any(|address| rule.covers_address(address.ip()))
                }
            };
            if is_it {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Tells if at least one parent uses TLS.
    #[must_use]
    pub fn speak_tls(&self) -> bool {
        self.0.iter().filter_map(|entry| entry.parent.as_ref()).any(|parent| parent.tls.is_some())
    }

    /// Each parent once.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Parent>> {
        let parents = || self.0.iter().filter_map(|entry| entry.parent.as_ref());
        parents()
            .enumerate()
            .filter(move |(place, parent)| parents().take(*place).all(|other| other.label != parent.label))
            .map(|(_, parent)| parent)
    }
}

/// The route depends on unknown addresses.
struct ByAddress;

fn no_rule() -> InvalidValue {
    InvalidValue::new(
        "unexpected text after the URL",
        "write ` for *.apps.example:443`, and a blank in a password as %20",
    )
}

/// Remedy where a URL seems to be divided by a semicolon.
const SEMICOLON: &str = "a semicolon separates parents: write %3B for one in a password";

/// Where a parent is, of the part of its URL behind the credentials.
fn target(place: &str) -> Result<Target, InvalidValue> {
    const FORM: &str = "write http://HOST:PORT, with an IPv6 address in brackets";
    if place.contains(['/', '?', '#']) {
        return Err(InvalidValue::new("the URL has a path or query", "write http://HOST:PORT without it"));
    }
    let past_brackets = place.rfind(']').map_or(0, |end| end + 1);
    let mut parts = place[past_brackets..].split(':').skip(1);
    match (parts.next(), parts.next()) {
        (None | Some(""), None) => Err(InvalidValue::new("the URL has no port", FORM)),
        (_, Some(_)) => Err(InvalidValue::new("the URL has several colons behind its credentials", FORM)),
        (Some(_), None) => Target::parse(place).map_err(|error| {
            let InvalidValue { cause, remedy } = error.invalid();
            InvalidValue { cause, remedy: Some(remedy.unwrap_or(FORM.into())) }
        }),
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        let mut words = text.split_whitespace();
        let (first, of, rule, more) = (words.next(), words.next(), words.next(), words.next());
        let rule = match (of, rule, more) {
            (None, ..) => None,
            // Omits the error of the rule, because it quotes the rule: with an unescaped blank,
            // part of a password would be parsed here.
            (Some("for"), Some(rule), None) => Some(rule.parse::<Rule>().map_err(|_| no_rule())?),
            _ => return Err(no_rule()),
        };
        let parent = match first.unwrap_or_default() {
            "direct" => None,
            url => Some(Arc::new(Parent::parse(url)?)),
        };
        Ok(Self { parent, rule })
    }
}

impl Parent {
    fn parse(url: &str) -> Result<Self, InvalidValue> {
        let wanted = || {
            InvalidValue::new(
                "not the URL of a proxy",
                "write http://USER:PASSWORD@HOST:PORT, https://HOST:PORT or direct",
            )
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(wanted)?;
        let secure = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wanted()),
        };
        let (userinfo, place) = match rest.rsplit_once('@') {
            Some((userinfo, place)) => (Some(userinfo), place),
            None => (None, rest),
        };
        let target = target(place.strip_suffix('/').unwrap_or(place))?;
        let authorization = userinfo.map(authorization).transpose()?;
        let label = target.to_string().into();
        let name = || match &target.host {
            Host::Name(name) => server_name(Err(name.as_str())),
            Host::Address(address) => server_name(Ok(*address)),
        };
        let tls = secure.then(name).transpose().map_err(InvalidValue::without_remedy)?;
        Ok(Self { target, tls, authorization, label })
    }
}

impl Parent {
    /// Scheme, host and port, without the credentials.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.label)
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the parent proxy {}", self.label)
    }
}

/// `Basic`, of percent-encoded credentials (RFC 3986, 3.2.1; RFC 7617, 2).
fn authorization(userinfo: &str) -> Result<Secret, InvalidValue> {
    let (name, password) = userinfo
        .split_once(':')
        .ok_or_else(|| InvalidValue::new("the user has no password", "write USER:PASSWORD@"))?;
    let broken = || InvalidValue::new("invalid percent-encoding in the user or the password", "write %25 for %");
    let (name, password) = (decoded(name).ok_or_else(broken)?, decoded(password).ok_or_else(broken)?);
    if name.iter().chain(&password).any(u8::is_ascii_control) {
        let cause = "the user or the password contains a control character, which Basic authentication does not allow (RFC 7617)";
        return Err(InvalidValue::new(cause, "use another one"));
    }
    if name.is_empty() || name.contains(&b':') {
        let cause = "the user is empty or contains a colon, which Basic authentication does not allow";
        return Err(InvalidValue::new(cause, "give the parent a user with another name"));
    }
    let credentials = BASE64_STANDARD.encode([&name[..], b":", &password].concat());
    Ok(Secret::new(format!("Basic {credentials}")))
}

fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Parents, String> {
        let values = values.iter().map(|value| Secret::new(*value)).collect::<Vec<_>>();
        Parents::new(&values).map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    fn route(parents: &Parents, target: &str, addresses: Option<&[&str]>) -> String {
        let addresses: Option<Vec<SocketAddr>> =
            addresses.map(|all| all.iter().map(|address| address.parse().unwrap()).collect());
        let target = Target::parse(target).unwrap();
        let label = |parent: Option<Arc<Parent>>| parent.map_or("direct".to_owned(), |parent| parent.label.to_string());
        match (addresses, parents.route(&target)) {
            (Some(addresses), _) => {
                let (parent, network) = parents.choose(&target, &addresses);
                let is_meant = |address: &&SocketAddr| network.is_none_or(|network| network.contains(&address.ip()));
                let meant: Vec<_> = addresses.iter().filter(is_meant).map(|address| address.ip().to_string()).collect();
                format!("{} {}", label(parent), meant.join(" "))
            }
            (None, Route::Direct) => label(None),
            (None, Route::Parent(parent)) => label(Some(parent)),
            (None, Route::ByAddress) => "by address".to_owned(),
        }
    }

    #[test]
    fn the_first_entry_that_is_about_a_target_decides() {
        let parents = read(&[
            "direct for *.direct.example:*",
            "http://one.example:3128 for *.one.example:443",
            "http://u:p@two.example:8080/ for 10.0.0.0/8:443,6443",
            "http://[2001:db8::3]:3 for *:6443",
        ])
        .unwrap();
        for (target, addresses, expected) in [
            ("a.direct.example:443", None, "direct"),
            ("a.one.example:443", None, "one.example:3128"),
            ("a.one.example:80", None, "direct"),
            ("10.1.2.3:443", None, "two.example:8080"),
            ("192.0.2.1:443", None, "direct"),
            ("192.0.2.1:6443", None, "[2001:db8::3]:3"),
            // Entries for networks apply once the name is resolved.
            ("b.example:443", None, "by address"),
            ("b.example:443", Some(&["192.0.2.1:443", "10.0.0.1:443"][..]), "two.example:8080 10.0.0.1"),
            ("b.example:443", Some(&["192.0.2.1:443"][..]), "direct 192.0.2.1"),
            ("b.example:6443", Some(&["192.0.2.1:6443"][..]), "[2001:db8::3]:3 192.0.2.1"),
            ("b.example:80", None, "direct"),
        ] {
            assert_eq!(route(&parents, target, addresses), expected, "{target} {addresses:?}");
        }
        assert_eq!(parents.all().count(), 3);
        let all = read(&["http://h:1", "http://u:p@h:1 for a:1"]).unwrap();
        assert_eq!((route(&all, "b.example:443", None).as_str(), all.all().count()), ("h:1", 1));
        assert_eq!(route(&Parents::default(), "b.example:443", None), "direct");
    }

    #[test]
    fn a_semicolon_in_a_password_is_told_how_to_write() {
        // As the list is divided where the option is read.
        let error = read(&["http://u:s3", "cret@h:1"]).unwrap_err();
        assert!(error.lines().count() == 2 && error.lines().all(|line| line.contains("write %3B")), "{error}");
        assert!(!error.contains("s3") && !error.contains("cret"), "{error}");
    }

    #[test]
    fn only_https_is_tls() {
        for (values, tls) in [
            (&["http://h:1", "direct"][..], false),
            (&["http://h:1", "https://u:p@h.example:1 for a:1"], true),
            (&["https://192.0.2.1:1"], true),
            (&["https://[2001:db8::1]:1"], true),
        ] {
            assert_eq!(read(values).unwrap().speak_tls(), tls, "{values:?}");
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let parents = read(&["http://mover:s3cret%3A%40%2f%25%C3%BC@h:1"]).unwrap();
        let parent = parents.all().next().unwrap();
        let expected = format!("Basic {}", BASE64_STANDARD.encode("mover:s3cret:@/%\u{fc}"));
        assert_eq!(parent.authorization.as_ref().unwrap().expose(), expected.as_bytes());
        assert!(!format!("{parents:?} {parent}").contains("s3cret") && !format!("{parents:?}").contains("bW92"));
    }

    /// A variable filled from a mounted file.
    #[test]
    fn the_line_end_of_a_mounted_secret_is_no_part_of_the_url() {
        for end in ["\n", "\r\n"] {
            for url in ["http://u:p@h:1", "http://u:p@h:1 for *:443"] {
                let parents = read(&[&format!("{url}{end}")]).unwrap();
                let authorization = parents.all().next().unwrap().authorization.clone();
                assert_eq!(authorization, Some(Secret::new(format!("Basic {}", BASE64_STANDARD.encode("u:p")))));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for (value, words) in [
            ("http://u:s3cret@h", "the URL has no port; write http://HOST:PORT"),
            ("http://u:s3cret@h/", "the URL has no port; write http://HOST:PORT"),
            ("http://h:1:2", "several colons behind its credentials; write http://HOST:PORT"),
            ("http://u:s3cret@h:0", "port 0 cannot be connected to; write http://HOST:PORT"),
            ("http://u:s3cret@h:1/path", "path"),
            ("http://u:s3cret@:1", "no host"),
            ("u:s3cret@h:1", "write http://"),
            ("socks5://u:s3cret@h:1", "write http://"),
            ("http://s3cret@h:1", "no password"),
            ("http://u:s3cret%@h:1", "%25"),
            ("http://u:s3cret%0A@h:1", "control character"),
            ("http://u:s3cret%+1@h:1", "%25"),
            ("http://:s3cret@h:1", "user is empty"),
            ("http://u:s3cret@h:1 h:443", "text after the URL"),
            ("http://u:s3cret@h:1 for", "text after the URL"),
            ("http://u:s3cret@h:1 for a:1 b:1", "text after the URL"),
            ("http://u:s3cret@h:1 for a", "text after the URL"),
            ("http://u:a for s3cret@h:1", "%20"),
            ("http://h:1 for http://u:s3cret@h:1", "text after the URL"),
            ("", "write http://"),
        ] {
            let error = read(&["direct for a:1", value]).unwrap_err();
            let twice = read(&["direct for a:1", value, "direct", value]).unwrap_err();
            assert!(twice.lines().count() == 2 && twice.contains("--parent, number 4: "), "{twice}");
            assert!(error.starts_with("--parent, number 2: ") && error.contains(words), "{value}: {error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
