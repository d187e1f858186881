//! Parsers for values of options.

use std::convert::Infallible;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use super::addresses::separated;
use crate::auth::TrustedNetwork;
use crate::invalid_value::InvalidValue;
use crate::rate::bytes;
use crate::secret::Secret;

/// Separates the values of a list in a variable; no value of a list has it.
pub(super) const SEPARATOR: char = ';';

type Parsed<T> = Result<T, InvalidValue>;

/// Never fails, so no error shows a password; [`crate::auth::parse_user`] checks it later.
#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result")]
pub(super) fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// Refuses the former name of an option; in a file it names the sections of users.
pub(super) fn former_users(_: &str) -> Parsed<Infallible> {
    let remedy = "write --users-file FILE, SLUICEGATE_USERS_FILE=FILE or, in a file, users-file = \"FILE\"";
    Err(InvalidValue::new("the option is called users-file now", remedy))
}

/// Parses one value of a list; the type's own error explains an invalid value.
pub(super) fn parsed<T: FromStr<Err = InvalidValue>>(text: &str) -> Parsed<T> {
    text.parse()
}

/// Parses one value without blanks, as [`parsed`].
pub(super) fn word<T: FromStr<Err = InvalidValue>>(text: &str) -> Parsed<T> {
    let words: Vec<&str> = text.split_whitespace().collect();
    match words.len() {
        0 => Err(InvalidValue::new("it is empty", "leave the option out, or give it a value")),
        1 => parsed(words[0]).map_err(|error| {
            // A rule has commas of its own, in a list of ports.
            let parts: Vec<&str> = words[0].split(',').collect();
            let several = parts.len() > 1 && parts.iter().all(|part| part.parse::<T>().is_ok());
            if several { InvalidValue::new("several values in one", separated(&parts)) } else { error }
        }),
        _ => Err(InvalidValue::new("several values in one", separated(&words))),
    }
}

/// Longest time accepted by the kernel, in milliseconds (`TCP_USER_TIMEOUT`, tcp(7)).
const LONGEST: Duration = Duration::from_hours(24 * 24);

pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let duration = time(text, "write it as 30s, 5m or 12h")?;
    if duration.is_zero() {
        Err(InvalidValue::new("zero would time out at once", "leave the option out instead"))
    } else if duration < Duration::from_millis(1) || duration > LONGEST {
        Err(InvalidValue::new("out of range: 1ms to 24days", "write a time in that range"))
    } else {
        Ok(duration)
    }
}

fn time(text: &str, remedy: &'static str) -> Parsed<Duration> {
    humantime::parse_duration(text).map_err(|error| InvalidValue::new(format!("not a time: {error}"), remedy))
}

/// Longest busy-poll of a worker: a longer one takes a core for nothing.
const LONGEST_SPIN: Duration = Duration::from_millis(1);

pub(super) fn spin(text: &str) -> Parsed<Duration> {
    let duration = time(text, "write it as 50us, or 0s for none")?;
    if duration > LONGEST_SPIN { Err(InvalidValue::new("longer than 1ms", "write 1ms or less")) } else { Ok(duration) }
}

/// The kernel forwards segments of up to 64 KiB in one piece, and memory beyond the upper bound for
/// one direction is no longer a backlog.
const BACKLOG: std::ops::RangeInclusive<u64> = 64 << 10..=256 << 20;

/// Units of a size.
const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

pub(super) fn size(text: &str) -> Parsed<u64> {
    match bytes(text, &SIZE_UNITS) {
        None => Err(InvalidValue::new("not a number of bytes", "write it as 16MiB, 512KiB or 4194304")),
        Some(bytes) if BACKLOG.contains(&bytes) => Ok(bytes),
        Some(_) => Err(InvalidValue::new("out of range: 64KiB to 256MiB", "write a size in that range")),
    }
}

/// Parses a network; its clients are the user named like the text.
pub(super) fn trusted_network(text: &str) -> Parsed<TrustedNetwork> {
    network(text.trim()).map(|network| TrustedNetwork::new(network, text))
}

pub(super) fn network(text: &str) -> Parsed<IpNet> {
    let address = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    let network = address.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
        let words: Vec<&str> = text.split([' ', ',', '\t', '\n']).filter(|word| !word.is_empty()).collect();
        if words.len() > 1 {
            return InvalidValue::new("several values in one", separated(&words));
        }
        InvalidValue::new("not a network or an address", "write it as 10.0.0.0/8, 10.1.2.3 or fd00::/8")
    })?;
    if network.trunc() != network {
        return Err(InvalidValue::new("host bits are set beyond the prefix", format!("write {}", network.trunc())));
    }
    // Addresses are known in one form (RFC 4291, 2.5.5.2).
    let mapped = match network {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let v4 = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    Ok(v4.map_or(network, IpNet::V4))
}

pub(super) fn positive(text: &str) -> Parsed<usize> {
    match text.parse() {
        Ok(0) => Err(InvalidValue::new("0 would refuse every client", "leave the option out for no limit")),
        Ok(number) => Ok(number),
        Err(_) => Err(InvalidValue::new("not a whole number", "write 1 or more")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::SearchDomain;
    use crate::policy::Rule;

    #[test]
    fn commas_between_the_values_of_a_list_are_told() {
        let remedies = [
            word::<Rule>("*:443,*:80").unwrap_err().remedy,
            word::<SearchDomain>("a.example,b.example").unwrap_err().remedy,
        ];
        for remedy in remedies.map(Option::unwrap_or_default) {
            assert!(remedy.contains("semicolon"), "{remedy}");
        }
        word::<Rule>("*:443,80").unwrap();
    }

    #[test]
    fn a_network_is_known_in_one_form() {
        for (text, form) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("fd00::/8", "fd00::/8"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), form, "{text}");
        }
        assert_eq!(network("10.0.0.1/8").unwrap_err().remedy.as_deref(), Some("write 10.0.0.0/8"));
    }
}
