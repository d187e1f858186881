//! The configuration file: TOML with the long names of the options as keys.
//!
//! The file is turned into flags and parsed by their definition, so a value has one meaning in all
//! places and no option can be missing here. Flags and environment win.

use std::ffi::OsString;
use std::path::Path;

use clap::Command;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ConfigError, Location};
use super::lines::Lines;
use super::sources::Setting;
use super::users;
use crate::account::sanitize;
use crate::auth::Entry;
use crate::file::MAX_CONFIG_BYTES;

/// The valid contents of a file, and its errors.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) settings: Vec<Setting>,
    pub(super) users: Vec<Entry>,
    pub(super) errors: Vec<ConfigError>,
}

/// Reads a file of options of `serve` in `command`.
pub(super) fn read(file: &Path, command: &Command) -> Contents {
    let unread = |line: Option<usize>, error: ConfigError| {
        let error = error.at(Location { file: file.to_owned(), line });
        Contents { errors: vec![error], ..Contents::default() }
    };
    let bytes = match crate::file::read(file, MAX_CONFIG_BYTES) {
        Ok(bytes) => bytes,
        Err(error) => {
            let remedy = error.remedy().unwrap_or("name another file with --config");
            return unread(None, ConfigError::about(WHOLE, error.to_string(), remedy));
        }
    };
    match str::from_utf8(&bytes) {
        Ok(text) => contents(Lines { file, text }, &keys(command)),
        Err(error) => {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            unread(Some(line), ConfigError::about(WHOLE, "the line is not UTF-8", "save the file as UTF-8"))
        }
    }
}

fn contents(lines: Lines<'_>, known: &[String]) -> Contents {
    let (table, broken) = DeTable::parse_recoverable(lines.text);
    let mut read = Contents::default();
    for error in &broken {
        let at = lines.at(error.span().map_or(0, |span| span.start));
        // The lines after a broken line are often parsed as a part of it.
        if read.errors.iter().all(|other| other.location.as_ref() != Some(&at)) {
            let cause = format!("invalid TOML: {}", error.message());
            read.errors.push(ConfigError::new(cause, "see https://toml.io").at(at));
        }
    }
    for (key, value) in table.get_ref() {
        let (offset, key) = (key.span().start, key.get_ref().as_ref());
        let at = lines.at(offset);
        if read.errors.iter().any(|broken| broken.location.as_ref() == Some(&at)) {
            continue;
        }
        match value.get_ref() {
            _ if !known.iter().any(|known| known == key) => read.errors.push(unknown(key, known).at(at)),
            DeValue::Table(sections) if key == "users" => {
                let (users, errors) = users::read(lines, sections);
                read.users = users;
                read.errors.extend(errors);
            }
            _ => match flags(key, value, lines) {
                Ok(flags) => read.settings.push(Setting { line: lines.number(offset), key: key.to_owned(), flags }),
                Err((offset, cause, remedy)) => {
                    read.errors.push(ConfigError::about(key, cause, remedy).at(lines.at(offset)));
                }
            },
        }
    }
    read
}

/// Returns the long names of all options of `serve`, except for the file itself.
fn keys(command: &Command) -> Vec<String> {
    let serve = command.find_subcommand("serve").expect("the subcommand serve");
    let longs = serve.get_arguments().filter_map(|argument| argument.get_long());
    longs.filter(|long| !["config", "help"].contains(long)).map(str::to_owned).collect()
}

/// Option of an error about the file as a whole.
pub(super) const WHOLE: &str = "config";

/// True if a key is the name of an option in another spelling, or with a letter or two mistyped.
pub(super) fn is_alike(key: &str, option: &str) -> bool {
    likeness(key, option) >= 0.75
}

fn likeness(key: &str, option: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(option, &key.replace('_', "-").to_lowercase())
}

fn unknown(key: &str, known: &[String]) -> ConfigError {
    let likest = known.iter().max_by(|one, other| likeness(key, one).total_cmp(&likeness(key, other)));
    let remedy = match likest.filter(|likest| is_alike(key, likest)) {
        Some(close) => format!("did you mean '{close}'?"),
        None => "`sluicegate serve -h` lists the options".to_owned(),
    };
    ConfigError::about(key, format!("unknown option '{}'", sanitize(key)), remedy)
}

/// Flags of a value, each with its line; an error has the offset of its subject, the cause and the
/// remedy.
type Flags = Result<Vec<(usize, OsString)>, (usize, String, &'static str)>;

fn flags(key: &str, value: &Spanned<DeValue<'_>>, lines: Lines<'_>) -> Flags {
    let at = value.span().start;
    let flag = |text: &str| Ok(vec![(lines.number(at), OsString::from(format!("--{key}={text}")))]);
    let wrong = |cause: String, remedy: &'static str| Err((at, cause, remedy));
    match value.get_ref() {
        DeValue::String(text) => flag(text),
        DeValue::Integer(number) if number.radix() == 10 => flag(number.as_str()),
        DeValue::Boolean(given) if key == "no-auth" => {
            Ok(if *given { vec![(lines.number(at), OsString::from("--no-auth"))] } else { Vec::new() })
        }
        DeValue::Array(values) if values.is_empty() => {
            wrong(format!("'{key}' is an empty list, which would mean the default"), "leave the option out for that")
        }
        DeValue::Array(values) => {
            let flags = values.iter().map(|value| match value.get_ref() {
                DeValue::Array(_) => {
                    Err((value.span().start, format!("'{key}' is a list of lists"), "write a list of strings"))
                }
                _ => flags(key, value, lines),
            });
            Ok(flags.collect::<Result<Vec<_>, _>>()?.concat())
        }
        other => wrong(format!("'{key}' is a {}", other.type_str()), "write a string or a list of strings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_option_is_told_the_nearest_one() {
        let known =
            ["no-auth", "no-auth-from", "user", "users-file", "listen", "listen-tls", "rate", "rate-per-user", "admin"];
        let known = known.map(str::to_owned);
        let nearest = |key: &str| unknown(key, &known).remedy.unwrap_or_default();
        for (key, expected) in [
            ("no_auth", "no-auth"),
            ("NO-AUTH", "no-auth"),
            ("users_file", "users-file"),
            ("user-file", "users-file"),
            ("listen_tls", "listen-tls"),
            ("rate_per_user", "rate-per-user"),
            ("lisetn", "listen"),
        ] {
            assert_eq!(nearest(key), format!("did you mean '{expected}'?"), "{key}");
        }
        assert_eq!(unknown("a\u{1b}[31m", &known).cause.matches('\u{1b}').count(), 0);
        assert!(["a", "port", "loglevel"].iter().all(|key| nearest(key).contains("lists the options")));
    }
}
