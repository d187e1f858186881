//! The section `users` of the configuration file: what each user may, and his passwords unless they are elsewhere.
//!
//! ```toml
//! [users.ann]
//! passwords = ["$2y$12$...", "$2y$12$..."]    # one, or two while it is being replaced
//! allow = ["*.apps.east.example:443"]
//! from = ["10.0.0.0/8"]
//! expires = 2026-12-24T18:00:00Z
//! on-expiry = "end"
//! max-tunnels = 20
//! rate = "1Gbit"
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};

use super::values::network;
use crate::account::Limit;
use crate::auth::Entry;
use crate::grant::{Grant, OnExpiry};
use crate::policy::{Rule, Scope};
use crate::rate::Rate;

/// What may be said of a user.
const SETTINGS: &str = "passwords, allow, from, expires, on-expiry, max-tunnels and rate";

/// The end of the last year that has four digits, since that of 1970 began.
const LAST: Duration = Duration::from_secs(253_402_300_800);

/// Reads the section out of a file that is TOML and has one; the error names the line.
pub(super) fn read(file: &Path, text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
    let whole = DeTable::parse(text).map_err(|error| (1, error.message().to_owned()))?;
    let mut entries = Vec::new();
    let users = whole.get_ref().get("users").and_then(|users| users.get_ref().as_table());
    for (name, value) in users.into_iter().flat_map(DeTable::iter) {
        let (line, name) = (line_of(name.span().start), name.get_ref().as_ref());
        match value.get_ref() {
            DeValue::Table(user) => {
                let said = |(at, what): (usize, String)| (if at == 0 { line } else { line_of(at) }, what);
                entries.push(entry(file, line, name, user).map_err(said)?);
            }
            _ => return Err((line, unknown(name))),
        }
    }
    entries.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(entries)
}

fn unknown(name: &str) -> String {
    if name == "htpasswd" {
        return "'users.htpasswd' is called users-file now; write users-file = \"FILE\" before the first section"
            .into();
    }
    format!(
        "'users.{name}' is no user, who has a section [users.{name}]; an option of the gateway stands before the first section"
    )
}

/// The error has the place of what is wrong, in bytes, or 0 for the section itself.
fn entry(file: &Path, line: usize, name: &str, user: &DeTable<'_>) -> Result<Entry, (usize, String)> {
    let shared: Arc<str> = name.into();
    let (mut grant, mut passwords) = (Grant::default(), Vec::new());
    for (key, value) in user.iter() {
        let (at, key) = (key.span().start, key.get_ref().as_ref());
        let wrong = |what: String| (at, format!("'users.{name}.{key}' {what}"));
        match key {
            "passwords" => passwords = strings(value).map_err(wrong)?,
            "allow" => {
                let rules = all::<Rule>(value).map_err(wrong)?;
                grant.scope = Some(Scope::new(Arc::clone(&shared), rules));
            }
            "from" => {
                let networks = strings(value).map_err(wrong)?.into_iter().map(network);
                grant.from = networks.collect::<Result<Vec<IpNet>, _>>().map_err(wrong)?;
            }
            "expires" => grant.expires = Some(time(value).map_err(wrong)?),
            "on-expiry" => grant.on_expiry = on_expiry(value).map_err(wrong)?,
            "max-tunnels" => grant.max_tunnels = Some(number(value).map_err(wrong)?),
            "rate" => grant.rate = Some(limit(value).map_err(wrong)?),
            _ => return Err((at, format!("no setting of a user is called '{key}'; there are {SETTINGS}"))),
        }
    }
    if grant.on_expiry == OnExpiry::End && grant.expires.is_none() {
        return Err((0, format!("'users.{name}' has on-expiry but no expires: add that, or leave both out")));
    }
    // The place is put before it where it is shown.
    let whole = Entry::new(format!("{}:{line}", file.display()), shared, &passwords, grant);
    let place = format!("{}:{line}: ", file.display());
    whole.map_err(|error| (0, error.to_string().replacen(&place, "", 1)))
}

/// A string, or some of them.
fn strings<'a>(value: &'a Spanned<DeValue<'_>>) -> Result<Vec<&'a str>, String> {
    let wanted = || "takes a string or a list of strings".to_owned();
    match value.get_ref() {
        DeValue::String(text) => Ok(vec![text]),
        DeValue::Array(texts) if texts.is_empty() => {
            Err("is an empty list: leave it out, or the whole user".to_owned())
        }
        DeValue::Array(texts) => texts.iter().map(|text| text.get_ref().as_str().ok_or_else(wanted)).collect(),
        _ => Err(wanted()),
    }
}

fn all<T: std::str::FromStr<Err = String>>(value: &Spanned<DeValue<'_>>) -> Result<Vec<T>, String> {
    let parse = |text: &str| text.parse().map_err(|error| format!("holds `{text}`: {error}"));
    strings(value)?.into_iter().map(parse).collect()
}

fn on_expiry(value: &Spanned<DeValue<'_>>) -> Result<OnExpiry, String> {
    match value.get_ref().as_str() {
        Some("end") => Ok(OnExpiry::End),
        Some("stay") => Ok(OnExpiry::Stay),
        _ => Err("is \"end\", which resets live tunnels, or \"stay\", which lets them live on".to_owned()),
    }
}

fn number(value: &Spanned<DeValue<'_>>) -> Result<usize, String> {
    let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
    let number = number.and_then(|number| number.as_str().parse::<usize>().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| "is a whole number from 1 on; leave it out for no limit".to_owned())
}

fn limit(value: &Spanned<DeValue<'_>>) -> Result<Limit, String> {
    match value.get_ref() {
        DeValue::Integer(number) => number.as_str().parse::<Rate>().map(|rate| Limit(Some(rate))),
        DeValue::String(text) => text.parse(),
        _ => Err("100MiB, 1Gbit or none is wanted".to_owned()),
    }
    .map_err(|error| format!("is no rate: {error}"))
}

/// A time of TOML, which is one of RFC 3339, or a string that holds one.
fn time(value: &Spanned<DeValue<'_>>) -> Result<SystemTime, String> {
    let wanted =
        || "is a time with its offset (RFC 3339), as 2026-12-24T18:00:00Z or 2026-12-24T18:00:00+01:00".to_owned();
    let time: Datetime = match value.get_ref() {
        DeValue::Datetime(time) => *time,
        DeValue::String(text) => text.parse().map_err(|_| wanted())?,
        _ => return Err(wanted()),
    };
    let minutes = match time.offset.ok_or_else(wanted)? {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let there = Datetime { offset: Some(Offset::Z), ..time };
    let there = humantime::parse_rfc3339(&there.to_string()).map_err(|_| wanted())?;
    let shift = Duration::from_secs(minutes.unsigned_abs() * 60);
    let here = if minutes < 0 { there.checked_add(shift) } else { there.checked_sub(shift) };
    // Beyond the year 9999 it could not be shown.
    here.filter(|here| here.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since < LAST)).ok_or_else(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";

    fn section(text: &str) -> Result<Vec<Entry>, String> {
        read(Path::new("FILE"), text).map_err(|(line, what)| format!("{line}: {what}"))
    }

    #[test]
    fn a_section_says_what_its_users_may() {
        let with_name = format!("[users.ann]\npasswords = ['ann:{HASH}', '{HASH}']");
        assert!(read(Path::new("FILE"), &with_name).unwrap()[0].has_password());
        let text = format!(
            "\n\n[users.ann]\npasswords = '{HASH}'\nallow = ['a.example:443', '10.0.0.0/8:*']\n\
             from = ['192.0.2.0/24', '2001:db8::1']\nexpires = 2026-12-24T18:30:00+01:30\non-expiry = 'end'\n\
             max-tunnels = 2\nrate = '1Gbit'\n[users.bob]\nexpires = '2026-12-24T17:00:00Z'\nrate = 2048\n[users.eve]\n\
             rate = 'none'\n"
        );
        let section = section(&text).unwrap();
        let [ann, bob, eve] = &section[..] else { panic!("{section:?}") };
        assert_eq!((ann.name(), ann.place(), ann.has_password()), ("ann", "FILE:3", true));
        assert_eq!(
            ann.grant().to_string(),
            "from 192.0.2.0/24, 2001:db8::1/128; until 2026-12-24T17:00:00Z, when live tunnels end; at most 2 tunnels at \
             once; 1Gbit/s together"
        );
        assert!(ann.grant().scope.is_some() && bob.grant().scope.is_none());
        assert_eq!(bob.grant().expires, ann.grant().expires);
        assert_eq!(bob.grant().to_string(), "until 2026-12-24T17:00:00Z, when live tunnels stay; 2KiB/s together");
        assert_eq!((eve.grant().to_string(), eve.has_password()), ("as fast as can be".to_owned(), false));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_the_remedy() {
        let three = format!("[users.ann]\npasswords = ['{HASH}', '{HASH}', '{HASH}']");
        for (text, said) in [
            ("[users]\nhtpasswd = 'FILE'", "2: 'users.htpasswd' is called users-file now; write users-file"),
            ("[users]\nann = 1", "2: 'users.ann' is no user, who has a section [users.ann]"),
            ("[users.ann]\nrate = 1\n", "2: 'users.ann.rate' is no rate: a rate is at least 1KiB"),
            (
                "[users.ann]\n\nmax_tunnels = 2",
                "3: no setting of a user is called 'max_tunnels'; there are passwords, allow",
            ),
            ("[users.ann]\nmax-tunnels = 0", "2: 'users.ann.max-tunnels' is a whole number from 1 on"),
            ("[users.ann]\nallow = 'x'", "2: 'users.ann.allow' holds `x`: `x` names no ports"),
            ("[users.ann]\nallow = []", "2: 'users.ann.allow' is an empty list"),
            ("[users.ann]\nfrom = '10.0.0.1/8'", "2: 'users.ann.from' it has bits behind its prefix: write 10.0.0.0/8"),
            ("[users.ann]\nexpires = 2026-12-24", "2: 'users.ann.expires' is a time with its offset (RFC 3339)"),
            ("[users.ann]\nexpires = 2026-12-24T18:00:00", "2: 'users.ann.expires' is a time with its offset"),
            ("[users.ann]\nexpires = 'soon'", "2: 'users.ann.expires' is a time with its offset"),
            ("[users.ann]\nexpires = 9999-12-31T23:59:59-00:01", "2: 'users.ann.expires' is a time with its offset"),
            ("[users.ann]\nexpires = 5", "2: 'users.ann.expires' is a time with its offset"),
            ("[users.ann]\non-expiry = 'kill'", "2: 'users.ann.on-expiry' is \"end\""),
            ("[users.ann]\non-expiry = 'end'", "1: 'users.ann' has on-expiry but no expires"),
            ("[users.ann]\npasswords = 'secret'", "1: 'ann': "),
            ("[users.'a:b']\nrate = 'none'", "1: the name holds a ':'"),
            (&three, "1: 'ann' has 3 passwords; keep the one that is in use"),
        ] {
            let error = section(text).unwrap_err();
            assert!(error.starts_with(said) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
