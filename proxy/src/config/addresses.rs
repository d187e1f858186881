//! Addresses in options: `ADDR:PORT` to listen on, `ADDR` to dial from.
//!
//! They are never resolved: a name may have several addresses, or another one tomorrow, and the
//! open ports would depend on a server elsewhere.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::account::sanitize;
use crate::invalid_value::InvalidValue;

/// Parses `ADDR:PORT`; the error names the right form.
pub(super) fn socket(text: &str) -> Result<SocketAddr, InvalidValue> {
    text.parse().map_err(|_| explain(text))
}

/// Parses an address without a port.
pub(super) fn ip(text: &str) -> Result<IpAddr, InvalidValue> {
    text.parse().map_err(|_| match text.parse::<SocketAddr>() {
        Ok(socket) => {
            InvalidValue::new("a port is not allowed here: the kernel chooses it", format!("write {}", socket.ip()))
        }
        Err(_) => match text.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => {
                InvalidValue::new("no brackets around an address without a port", format!("write {address}"))
            }
            Err(_) => several(text).unwrap_or_else(|| {
                InvalidValue::new("not an IP address", "write an address such as 192.0.2.1 or 2001:db8::1")
            }),
        },
    })
}

/// Parses the address of a client, as a log line has it.
pub(super) fn client(text: &str) -> Result<IpAddr, InvalidValue> {
    ip(text).map_err(|error| match text.parse::<SocketAddr>() {
        Ok(socket) => InvalidValue::new("a port is no part of it", format!("write {}", socket.ip())),
        Err(_) => error,
    })
}

fn explain(text: &str) -> InvalidValue {
    if let Some(error) = several(text) {
        return error;
    }
    if let Some((_, rest)) = text.split_once("://") {
        let place = rest.split('/').next().unwrap_or_default();
        let cause = "a URL instead of an address and a port";
        return InvalidValue::new(
            cause,
            right_form(place).unwrap_or_else(|| "write ADDR:PORT alone, as 0.0.0.0:3128".into()),
        );
    }
    if text.contains('/') {
        return InvalidValue::new(
            "a path or a network instead of an address and a port",
            "write ADDR:PORT, as 0.0.0.0:3128 for all addresses",
        );
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        // `fd00::1:3128` is an address as well, and more probably a port without brackets.
        let with_port =
            text.rsplit_once(':').filter(|(host, _)| !text.starts_with('[') && host.parse::<Ipv6Addr>().is_ok());
        return match with_port.and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?))) {
            Some((host, port)) => InvalidValue::new(
                "an IPv6 address with a port needs brackets",
                format!("write [{host}]:{port}, or [{address}]:3128 if that is the whole address"),
            ),
            None => InvalidValue::new("no port", format!("write {}", SocketAddr::new(address, 3128))),
        };
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(if is_number(text) { ("", text) } else { (text, "") });
    if !port.is_empty() && port.parse::<u16>().is_err() {
        let cause = format!("`{}` is not a port", sanitize(port));
        return InvalidValue::new(cause, "write a number from 1 to 65535 after the colon, as in 0.0.0.0:3128");
    }
    let cause = match host {
        "" => "no address".to_owned(),
        "*" => "* is not an address".to_owned(),
        _ if port.is_empty() && text.ends_with(':') => "no port".to_owned(),
        _ => format!("`{}` is not an IP address, and names are not resolved here", sanitize(host)),
    };
    InvalidValue::new(cause, right_form(text).unwrap_or_else(|| "write ADDR:PORT, as 0.0.0.0:3128".into()))
}

/// Returns the probably intended address.
fn right_form(text: &str) -> Option<String> {
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(format!("write {socket}"));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or(if is_number(text) { ("", text) } else { (text, "") });
    let port = if port.is_empty() { 3128 } else { port.parse::<u16>().ok()? };
    Some(match host {
        "localhost" => format!("write 127.0.0.1:{port}, or [::1]:{port}"),
        _ => format!("write 0.0.0.0:{port} for all addresses of this host, or 127.0.0.1:{port} for this host alone"),
    })
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Several values where one is wanted.
fn several(text: &str) -> Option<InvalidValue> {
    let parts: Vec<&str> = text.split([' ', ',', '\t', '\n']).filter(|part| !part.is_empty()).collect();
    match parts.len() {
        0 | 1 if text.trim() == text && !text.is_empty() => None,
        0 => Some(InvalidValue::new("it is empty", "write an address, or leave the option out")),
        1 => Some(InvalidValue::new("blanks or a comma around the value", format!("write {}", sanitize(parts[0])))),
        _ => Some(InvalidValue::new("several values in one", separated(&parts))),
    }
}

/// The form of a list of these values.
pub(super) fn separated(parts: &[&str]) -> String {
    let list = sanitize(&parts.join(";")).into_owned();
    format!("separate them by a semicolon, as {list}, repeat the option, or give a list in a file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_address_and_the_right_form_are_named() {
        let all = "write 0.0.0.0:3128 for all addresses of this host, or 127.0.0.1:3128 for this host alone";
        for (text, cause, remedy) in [
            ("3128", "no address", all),
            (":3128", "no address", all),
            ("*:3128", "* is not an address", all),
            ("gw.example:3128", "`gw.example` is not an IP address, and names are not resolved here", all),
            ("localhost:3128", "`localhost` is not an IP address", "write 127.0.0.1:3128, or [::1]:3128"),
            ("localhost", "`localhost` is not an IP address", "write 127.0.0.1:3128, or [::1]:3128"),
            ("0.0.0.0", "no port", "write 0.0.0.0:3128"),
            ("0.0.0.0:", "no port", "write 0.0.0.0:3128 for all"),
            ("::1", "no port", "write [::1]:3128"),
            ("[::1]", "no port", "write [::1]:3128"),
            ("::1:3128", "an IPv6 address with a port needs brackets", "write [::1]:3128"),
            (
                "fd00::1:3128",
                "an IPv6 address with a port needs brackets",
                "write [fd00::1]:3128, or [fd00::1:3128]:3128 if",
            ),
            ("0.0.0.0:65536", "`65536` is not a port", "write a number from 1 to 65535"),
            ("0.0.0.0:http", "`http` is not a port", "write a number from 1 to 65535"),
            ("65536", "`65536` is not a port", "write a number from 1 to 65535"),
            ("0.0.0.0:-1", "`-1` is not a port", "write a number from 1 to 65535"),
            ("010.0.0.1:80", "`010.0.0.1` is not an IP address", "write 0.0.0.0:80 for all"),
            ("http://10.0.0.1:3128/", "a URL", "write 10.0.0.1:3128"),
            ("http://gw.example:80", "a URL", "write 0.0.0.0:80 for all addresses"),
            (
                "/run/gw.sock",
                "a path or a network instead of an address and a port",
                "write ADDR:PORT, as 0.0.0.0:3128",
            ),
            ("127.0.0.1:1 127.0.0.1:2", "several values in one", "as 127.0.0.1:1;127.0.0.1:2, repeat"),
            ("127.0.0.1:1,127.0.0.1:2", "several values in one", "as 127.0.0.1:1;127.0.0.1:2, repeat"),
            (" 127.0.0.1:1", "blanks or a comma around the value", "write 127.0.0.1:1"),
            ("", "it is empty", "write an address"),
        ] {
            let error = socket(text).unwrap_err();
            let said = error.remedy.as_deref().unwrap();
            assert!(error.cause.starts_with(cause) && said.contains(remedy), "{text}: {error}");
        }
        for text in ["127.0.0.1:0", "[::]:3128", "0.0.0.0:65535"] {
            assert_eq!(socket(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_address_to_dial_from_has_no_port() {
        for (text, said) in [
            ("192.0.2.1:80", "a port is not allowed here: the kernel chooses it; write 192.0.2.1"),
            ("[::1]:80", "a port is not allowed here: the kernel chooses it; write ::1"),
            ("[::1]", "no brackets around an address without a port; write ::1"),
            ("eth0", "not an IP address; write an address such as 192.0.2.1"),
            ("192.0.2.1 ::1", "several values in one; separate them by a semicolon, as 192.0.2.1;::1"),
        ] {
            assert!(ip(text).unwrap_err().to_string().starts_with(said), "{text}: {}", ip(text).unwrap_err());
        }
    }
}
