//! Protects the API from web pages in an operator's browser.
//!
//! Changes need the control socket, out of reach of a browser. Metrics and health are open to any
//! `Host`, since Prometheus scrapes by the name of a service.

use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};

use super::access::Access;
use super::routes::{Resource, Route};

/// `Sec-Fetch-Site` (W3C Fetch Metadata, 2.4): the browser's word on where a request comes from.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Allows a request to read, or returns the reason against it.
pub(super) fn may_read(access: Access, route: &Route, headers: &HeaderMap) -> Result<(), &'static str> {
    match route.resource {
        _ if access == Access::Control => Ok(()),
        Resource::Metrics | Resource::Health | Resource::Readiness => Ok(()),
        // A link leads here from any page.
        Resource::Page => has_local_host(headers).map(drop),
        Resource::Tunnels | Resource::Tunnel | Resource::Rates | Resource::Drain => is_own_page_or_tool(headers),
    }
}

/// `Sec-Fetch-Site` and `Origin` stop a foreign page. A page can make its own name resolve to this
/// address (DNS rebinding), so its request looks same-origin: hence the `Host` must be an address
/// or `localhost`, never the name of such a page.
fn is_own_page_or_tool(headers: &HeaderMap) -> Result<(), &'static str> {
    let host = has_local_host(headers)?;
    let same_site = |value: &[u8]| matches!(value, b"same-origin" | b"none");
    let same_origin =
        |value: &[u8]| value.strip_prefix(b"http://").is_some_and(|o| o.eq_ignore_ascii_case(host.as_bytes()));
    let sites = headers.get_all(FETCH_SITE).iter().all(|value| same_site(value.as_bytes()));
    let origins = headers.get_all(ORIGIN).iter().all(|value| same_origin(value.as_bytes()));
    if sites && origins { Ok(()) } else { Err("cross-origin requests are refused") }
}

/// The `Host` of a request if it is an address or `localhost`.
fn has_local_host(headers: &HeaderMap) -> Result<&str, &'static str> {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) else {
        return Err("a request for the status page or the API must have exactly one Host header");
    };
    if is_local_or_address(host) {
        return Ok(host);
    }
    Err(
        "use an IP address or localhost for the status page and the API: other names are refused, against DNS rebinding",
    )
}

fn is_local_or_address(authority: &str) -> bool {
    let Ok(authority) = authority.parse::<hyper::http::uri::Authority>() else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let host = authority.host();
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::Ipv4Addr>().is_ok()
        || v6.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(headers: &[(&'static str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| {
            map.append(name, value);
        });
        is_own_page_or_tool(&map).is_ok()
    }

    #[test]
    fn a_tool_needs_an_address_for_host() {
        for host in ["127.0.0.1:9128", "10.1.2.3", "[::1]:9128", "[fd00::1]", "localhost:9128", "LocalHost"] {
            assert!(verdict(&[("host", host)]), "{host}");
        }
        for host in [
            "gateway.svc:9128",
            "localhost.evil.example",
            "127.0.0.1.nip.io:9128",
            "evil@127.0.0.1",
            "",
            "2130706433",
            "::1",
            "[::1",
            "[evil]",
            "127.0.0.1:x y",
        ] {
            assert!(!verdict(&[("host", host)]), "{host}");
        }
        assert!(!verdict(&[]));
        assert!(!verdict(&[("host", "127.0.0.1"), ("host", "127.0.0.1")]));
    }

    #[test]
    fn a_page_has_to_be_the_gateways_own() {
        let host = ("host", "127.0.0.1:9128");
        assert!(verdict(&[host, ("origin", "http://127.0.0.1:9128"), ("sec-fetch-site", "same-origin")]));
        for foreign in [
            ("origin", "http://evil.example"),
            ("origin", "http://127.0.0.1:8000"),
            ("origin", "https://127.0.0.1:9128"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(!verdict(&[host, foreign]), "{foreign:?}");
        }
        assert!(!verdict(&[
            ("host", "evil.example"),
            ("origin", "http://evil.example"),
            ("sec-fetch-site", "same-origin")
        ]));
    }
}
