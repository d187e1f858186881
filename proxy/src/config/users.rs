//! The section `users` of the configuration file: policies of users, and their passwords unless set
//! elsewhere.
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

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use toml::Spanned;
use toml::de::{DeTable, DeValue};
use toml::value::{Datetime, Offset};

use super::error::ConfigError;
use super::lines::Lines;
use super::values::network;
use crate::account::{Limit, sanitize};
use crate::auth::{Entry, Place, UsersError};
use crate::invalid_value::InvalidValue;
use crate::policy::{Rule, Scope};
use crate::rate::Rate;
use crate::user_policy::{OnExpiry, UserPolicy};

/// Keys of a section.
const SETTINGS: &str = "passwords, allow, from, expires, on-expiry, max-tunnels and rate";

/// The end of the year 9999, the last of four digits, since the start of 1970.
const LAST: Duration = Duration::from_secs(253_402_300_800);

/// Reads the sections of users, and returns the valid ones and all errors.
pub(super) fn read(lines: Lines<'_>, sections: &DeTable<'_>) -> (Vec<Entry>, Vec<ConfigError>) {
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    for (name, value) in sections {
        let (at, name) = (name.span().start, name.get_ref().as_ref());
        match value.get_ref() {
            DeValue::Table(user) => entries.extend(entry(lines, at, name, user, &mut errors)),
            _ => errors.push(not_a_section(name).at(lines.at(at))),
        }
    }
    entries.sort_by(|one, other| one.name().cmp(other.name()));
    (entries, errors)
}

fn not_a_section(name: &str) -> ConfigError {
    let option = format!("users.{name}");
    if name == "htpasswd" {
        let remedy = "write users-file = \"FILE\" before the first section";
        return ConfigError::about(&option, "'users.htpasswd' is called users-file now", remedy);
    }
    let name = sanitize(name);
    let remedy =
        format!("a user has a section [users.{name}], and options of the gateway stand before the first section");
    ConfigError::about(&option, format!("'users.{name}' is not a section"), remedy)
}

/// The section of one user at an offset, unless something is wrong with it.
fn entry(lines: Lines<'_>, at: usize, name: &str, user: &DeTable<'_>, errors: &mut Vec<ConfigError>) -> Option<Entry> {
    let before = errors.len();
    let shared: Arc<str> = name.into();
    let (mut user_policy, mut passwords) = (UserPolicy::default(), Vec::new());
    for (key, value) in user {
        let (at, key) = (key.span().start, key.get_ref().as_ref());
        let option = format!("users.{name}.{key}");
        let alone = |invalid| vec![(at, invalid)];
        let set = match key {
            "passwords" => each(value, Ok).map(|texts| passwords = texts),
            "allow" => {
                let rules = each(value, |text| text.parse::<Rule>());
                rules.map(|rules| user_policy.scope = Some(Scope::new(Arc::clone(&shared), rules)))
            }
            "from" => each(value, network).map(|networks| user_policy.from = networks),
            "expires" => time(value).map(|time| user_policy.expires = Some(time)).map_err(alone),
            "on-expiry" => on_expiry(value).map(|end| user_policy.on_expiry = end).map_err(alone),
            "max-tunnels" => number(value).map(|number| user_policy.max_tunnels = Some(number)).map_err(alone),
            "rate" => limit(value).map(|rate| user_policy.rate = Some(rate)).map_err(alone),
            _ => {
                let cause = format!("unknown setting '{}' of a user", sanitize(key));
                errors
                    .push(ConfigError::about(&option, cause, format!("the settings are {SETTINGS}")).at(lines.at(at)));
                continue;
            }
        };
        for (at, InvalidValue { cause, remedy }) in set.err().unwrap_or_default() {
            let cause = format!("'{}': {cause}", sanitize(&option)).into();
            errors.push(ConfigError::of(&option, InvalidValue { cause, remedy }).at(lines.at(at)));
        }
    }
    let option = format!("users.{name}");
    if user_policy.on_expiry == OnExpiry::End && !user.keys().any(|key| key.get_ref() == "expires") {
        let cause = format!("'{}' has on-expiry but no expires", sanitize(&option));
        errors.push(ConfigError::about(&option, cause, "add expires, or remove on-expiry").at(lines.at(at)));
    }
    let place = lines.at(at);
    match Entry::new(Place::File(place.file.clone(), place.line), shared, &passwords, user_policy) {
        Ok(entry) => (errors.len() == before).then_some(entry),
        Err(found) => {
            let about = |error: &UsersError| ConfigError::about(&option, error.cause(), error.remedy());
            errors.extend(found.iter().map(|error| about(error).at(place.clone())));
            None
        }
    }
}

fn invalid(cause: &'static str, remedy: &'static str) -> InvalidValue {
    InvalidValue::new(cause, remedy)
}

/// Parses a string, or each string of a list.
///
/// # Errors
/// Each invalid element, with its offset.
fn each<'a, T>(
    value: &'a Spanned<DeValue<'_>>,
    parse: impl Fn(&'a str) -> Result<T, InvalidValue>,
) -> Result<Vec<T>, Vec<(usize, InvalidValue)>> {
    let elements = match value.get_ref() {
        DeValue::Array(elements) if elements.is_empty() => {
            return Err(vec![(value.span().start, invalid("an empty list", "remove it, or the whole section"))]);
        }
        DeValue::Array(elements) => &elements[..],
        _ => std::slice::from_ref(value),
    };
    let wanted = || invalid("not a string or a list of strings", "write \"...\" or [\"...\", \"...\"]");
    let parsed = elements.iter().map(|element| {
        let parsed = element.get_ref().as_str().ok_or_else(wanted).and_then(&parse);
        parsed.map_err(|invalid| (element.span().start, invalid))
    });
    let (parsed, refused): (Vec<_>, Vec<_>) = parsed.partition(Result::is_ok);
    match refused.is_empty() {
        true => Ok(parsed.into_iter().flatten().collect()),
        false => Err(refused.into_iter().filter_map(Result::err).collect()),
    }
}

fn on_expiry(value: &Spanned<DeValue<'_>>) -> Result<OnExpiry, InvalidValue> {
    match value.get_ref().as_str() {
        Some("end") => Ok(OnExpiry::End),
        Some("stay") => Ok(OnExpiry::Stay),
        _ => Err(invalid("unknown value", "write \"end\" to reset open tunnels then, or \"stay\" to keep them")),
    }
}

fn number(value: &Spanned<DeValue<'_>>) -> Result<usize, InvalidValue> {
    let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
    let number = number.and_then(|number| number.as_str().parse::<usize>().ok());
    number
        .filter(|number| *number > 0)
        .ok_or_else(|| invalid("not a positive whole number", "write 1 or more, or leave it out for no limit"))
}

fn limit(value: &Spanned<DeValue<'_>>) -> Result<Limit, InvalidValue> {
    match value.get_ref() {
        DeValue::Integer(number) => number.as_str().parse::<Rate>().map(|rate| Limit(Some(rate))),
        DeValue::String(text) => text.parse(),
        _ => Err(invalid("not a rate", "write \"100MiB\", \"1Gbit\" or \"none\"")),
    }
}

/// Parses a time of TOML, in the form of RFC 3339, or a string with one.
fn time(value: &Spanned<DeValue<'_>>) -> Result<SystemTime, InvalidValue> {
    let wanted = || {
        let remedy = "write a time of RFC 3339, such as 2026-12-24T18:00:00Z or 2026-12-24T18:00:00+01:00";
        invalid("not a time with an offset", remedy)
    };
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
    use std::path::Path;

    const HASH: &str = "$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";

    fn section(text: &str) -> Result<Vec<Entry>, String> {
        let whole = DeTable::parse(text).unwrap();
        let sections = whole.get_ref().get("users").unwrap().get_ref().as_table().unwrap();
        let (entries, errors) = read(Lines { file: Path::new("FILE"), text }, sections);
        let errors: Vec<_> = errors.iter().map(|error| error.to_string().replace("FILE:", "")).collect();
        if errors.is_empty() { Ok(entries) } else { Err(errors.join("\n")) }
    }

    #[test]
    fn a_section_says_what_its_users_may() {
        let with_name = format!("[users.ann]\npasswords = ['ann:{HASH}', '{HASH}']");
        assert!(section(&with_name).unwrap()[0].has_password());
        let text = format!(
            "\n\n[users.ann]\npasswords = '{HASH}'\nallow = ['a.example:443', '10.0.0.0/8:*']\n\
             from = ['192.0.2.0/24', '2001:db8::1']\nexpires = 2026-12-24T18:30:00+01:30\non-expiry = 'end'\n\
             max-tunnels = 2\nrate = '1Gbit'\n[users.bob]\nexpires = '2026-12-24T17:00:00Z'\nrate = 2048\n[users.eve]\n\
             rate = 'none'\n"
        );
        let section = section(&text).unwrap();
        let [ann, bob, eve] = &section[..] else { panic!("{section:?}") };
        assert_eq!((ann.name(), ann.place(), ann.has_password()), ("ann", &Place::File("FILE".into(), Some(3)), true));
        assert_eq!(
            ann.user_policy().to_string(),
            "from 192.0.2.0/24, 2001:db8::1/128; until 2026-12-24T17:00:00Z, when open tunnels end; at most 2 open tunnels; 1Gbit/s in all"
        );
        assert!(ann.user_policy().scope.is_some() && bob.user_policy().scope.is_none());
        assert_eq!(bob.user_policy().expires, ann.user_policy().expires);
        assert_eq!(bob.user_policy().to_string(), "until 2026-12-24T17:00:00Z, when open tunnels stay; 2KiB/s in all");
        assert_eq!((eve.user_policy().to_string(), eve.has_password()), ("no rate limit".to_owned(), false));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_the_remedy() {
        let three = format!("[users.ann]\npasswords = ['{HASH}', '{HASH}', '{HASH}']");
        for (text, said) in [
            ("[users]\nhtpasswd = 'FILE'", "2: 'users.htpasswd' is called users-file now; write users-file"),
            ("[users]\nann = 1", "2: 'users.ann' is not a section; a user has a section [users.ann]"),
            ("[users.ann]\nrate = 1\n", "2: 'users.ann.rate': a rate is at least 1KiB"),
            (
                "[users.ann]\n\nmax_tunnels = 2",
                "3: unknown setting 'max_tunnels' of a user; the settings are passwords, allow",
            ),
            ("[users.ann]\nmax-tunnels = 0", "2: 'users.ann.max-tunnels': not a positive whole number"),
            ("[users.ann]\nallow = 'x'", "2: 'users.ann.allow': `x` names no ports"),
            ("[users.ann]\nallow = []", "2: 'users.ann.allow': an empty list"),
            (
                "[users.ann]\nfrom = '10.0.0.1/8'",
                "2: 'users.ann.from': host bits are set beyond the prefix; write 10.0.0.0/8",
            ),
            (
                "[users.ann]\nexpires = 2026-12-24",
                "2: 'users.ann.expires': not a time with an offset; write a time of RFC 3339",
            ),
            ("[users.ann]\nexpires = 2026-12-24T18:00:00", "2: 'users.ann.expires': not a time with an offset"),
            ("[users.ann]\nexpires = 'soon'", "2: 'users.ann.expires': not a time with an offset"),
            ("[users.ann]\nexpires = 9999-12-31T23:59:59-00:01", "2: 'users.ann.expires': not a time with an offset"),
            ("[users.ann]\nexpires = 5", "2: 'users.ann.expires': not a time with an offset"),
            ("[users.ann]\non-expiry = 'kill'", "2: 'users.ann.on-expiry': unknown value; write \"end\""),
            ("[users.ann]\non-expiry = 'end'", "1: 'users.ann' has on-expiry but no expires"),
            ("[users.ann]\npasswords = 'secret'", "1: 'ann': "),
            ("[users.'a:b']\nrate = 'none'", "1: the name contains a ':'"),
            (&three, "1: 'ann' has 3 passwords; keep the current one"),
        ] {
            let error = section(text).unwrap_err();
            assert!(error.starts_with(said) && !error.contains("secret"), "{text}: {error}");
        }
    }

    #[test]
    fn every_error_of_every_section_is_named() {
        let text =
            "[users.ann]\nrate = 1\nmax-tunnels = 0\n[users.bob]\nrate = 'none'\n[users.eve]\nexpires = 5\nx = 1\n";
        let lines = |text: &str| {
            let errors = section(text).unwrap_err();
            errors.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(lines(text), ["3", "2", "7", "8"]);
        let lists = "[users.ann]\nallow = [\n'x',\n'a:1',\n'y']\nfrom = ['z', '::/0', 'q']\npasswords = ['p', 'q']\n";
        assert_eq!(lines(lists), ["3", "5", "6", "6", "1", "1"], "{}", section(lists).unwrap_err());
    }
}
