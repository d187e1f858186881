//! What values of options look like.

use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::secret::Secret;

/// Never fails, so that no error shows a password; [`crate::auth::parse_user`] looks at it later.
#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result")]
pub(super) fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}

/// Refuses the former name of an option, which in a file names the sections of users.
pub(super) fn former_users(_: &str) -> Result<std::convert::Infallible, String> {
    Err("the option is called users-file now; write --users-file FILE, SLUICEGATE_USERS_FILE=FILE or, in a file, \
         users-file = \"FILE\""
        .into())
}

/// Longer times the kernel does not take in milliseconds (`TCP_USER_TIMEOUT`, tcp(7)), and nobody waits
/// for.
const LONGEST: Duration = Duration::from_hours(24 * 24);

pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}: write it as 30s, 5m or 12h"))?;
    if duration.is_zero() {
        Err("zero would end everything at once: leave the option out instead".into())
    } else if duration < Duration::from_millis(1) || duration > LONGEST {
        Err("a time from 1ms to 24days is wanted".into())
    } else {
        Ok(duration)
    }
}

/// A loop that spins for longer takes a core for nothing.
const LONGEST_SPIN: Duration = Duration::from_millis(1);

pub(super) fn spin(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| format!("{error}: write it as 50us, or 0s"))?;
    if duration > LONGEST_SPIN { Err("a time up to 1ms is wanted".into()) } else { Ok(duration) }
}

/// The kernel gives segments of up to 64 KiB on in one piece, and memory that is held for one direction is no backlog
/// any more beyond the other.
const BACKLOG: std::ops::RangeInclusive<u64> = 64 << 10..=256 << 20;

pub(super) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = match text[digits.len()..].trim_start() {
        "" | "B" => Some(0),
        "KiB" => Some(10),
        "MiB" => Some(20),
        "GiB" => Some(30),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(1 << unit));
    match bytes {
        None => Err("a number of bytes is wanted: write it as 16MiB, 512KiB or 4194304".into()),
        Some(bytes) if BACKLOG.contains(&bytes) => Ok(bytes),
        Some(_) => Err("from 64KiB to 256MiB".into()),
    }
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical()));
    let network =
        address.or_else(|_| text.parse::<IpNet>()).map_err(|_| "write it as 10.0.0.0/8, 10.1.2.3 or fd00::/8")?;
    if network.trunc() != network {
        return Err(format!("it has bits behind its prefix: write {}", network.trunc()));
    }
    // Addresses are known in one form (RFC 4291, 2.5.5.2).
    let mapped = match network {
        IpNet::V6(v6) => v6.addr().to_ipv4_mapped().zip(v6.prefix_len().checked_sub(96)),
        IpNet::V4(_) => None,
    };
    let v4 = mapped.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok());
    Ok(v4.map_or(network, IpNet::V4))
}

pub(super) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("0 would refuse everybody: leave the option out for no limit".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("a whole number is wanted".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(network(text).map(|network| network.to_string()), Ok(form.to_owned()), "{text}");
        }
        assert!(network("10.0.0.1/8").unwrap_err().contains("write 10.0.0.0/8"));
    }
}
