//! The configuration file: TOML whose keys are the long names of the options.
//!
//! The file is turned into flags and parsed by the same definition as those, so that a value means
//! the same wherever it stands and no option can be missing here. Flags and environment win.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Command};
use toml::{Spanned, Value};

use super::users;
use crate::auth::Entry;
use crate::file::{self, MAX_CONFIG_BYTES};

/// A configuration that cannot be used, with the words to print.
#[derive(Debug)]
pub enum Wrong {
    /// What clap has to say, help and version included.
    Usage(clap::Error),
    /// What is wrong with the file: `FILE:LINE: cause; remedy`.
    File(String),
}

/// What came out of a file.
#[derive(Clone, Default)]
pub struct Origins {
    file: PathBuf,
    /// Where the settings stand that count.
    settings: Vec<Setting>,
    /// The section `users`.
    pub users: Vec<Entry>,
    /// The command line, by which it can be read again.
    pub arguments: Vec<OsString>,
}

impl std::fmt::Debug for Origins {
    /// Neither the command line nor a value, any of which may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Origins").field("file", &self.file).field("users", &self.users).finish_non_exhaustive()
    }
}

impl Origins {
    /// Puts the file and the line before an error that names one of the settings as `--key`.
    #[must_use]
    pub fn blame(&self, what: String) -> String {
        match guilty(&self.settings, &what) {
            Some(setting) => format!("{}:{}: {what}", self.file.display(), setting.line),
            None => what,
        }
    }

    /// The settings, but for what users may, that say something else than those before did.
    #[must_use]
    pub fn unlike(&self, before: &Self) -> Vec<String> {
        let flags = |origins: &Self| -> BTreeMap<String, Vec<OsString>> {
            origins.settings.iter().map(|setting| (setting.key.clone(), setting.flags.clone())).collect()
        };
        let (now, before) = (flags(self), flags(before));
        let mut keys: Vec<_> =
            now.keys().chain(before.keys()).filter(|key| now.get(*key) != before.get(*key)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().cloned().collect()
    }
}

/// One setting of a file.
#[derive(Clone)]
struct Setting {
    line: usize,
    key: String,
    flags: Vec<OsString>,
}

/// Matches a command line against `command`, with the file that the line or the environment names.
///
/// # Errors
/// Anything that clap refuses, and a file that cannot be read, is no TOML, or has a key or a value
/// that no option of `serve` takes.
pub fn parse(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Result<(ArgMatches, Origins), Wrong> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let matches = command.clone().try_get_matches_from(&arguments).map_err(Wrong::Usage)?;
    let named = matches.subcommand().and_then(|(name, of_command)| {
        let file = of_command.try_get_one::<PathBuf>("config").ok().flatten();
        file.map(|file| (name, of_command, file))
    });
    let Some((name, of_command, file)) = named else { return Ok((matches, Origins::default())) };
    let (mut settings, users) = read(file, &keys(command))?;
    settings.retain(|setting| is_open(command, name, of_command, &setting.key));
    let origins = Origins { file: file.clone(), settings, users, arguments: arguments.clone() };
    let position = arguments.iter().skip(1).position(|argument| *argument == *name).unwrap_or(0) + 2;
    let mut all = arguments.clone();
    all.splice(position..position, origins.settings.iter().flat_map(|setting| setting.flags.clone()));
    match command.clone().try_get_matches_from(all) {
        Ok(matches) => Ok((matches, origins)),
        Err(error) => Err(blame(error, &origins)),
    }
}

/// The command has this very option of `serve`, and neither a flag nor the environment gave it.
///
/// Looked up in the definition: what matches say of an option that a command does not have differs with clap's build.
fn is_open(command: &Command, name: &str, matches: &ArgMatches, key: &str) -> bool {
    let of = |name: &str| {
        let mut arguments = command.find_subcommand(name)?.get_arguments();
        arguments.find(|argument| argument.get_long() == Some(key))
    };
    // One that is called the same and means something else has no variable, or another one.
    let is_it = of(name).is_some_and(|own| of("serve").is_some_and(|other| own.get_env() == other.get_env()));
    let given = |id: &str| matches.value_source(id);
    is_it && !matches!(given(&key.replace('-', "_")), Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

fn read(file: &Path, known: &[String]) -> Result<(Vec<Setting>, Vec<Entry>), Wrong> {
    let wrong = |line: usize, what: String| Wrong::File(format!("{}:{line}: {what}", file.display()));
    let unread = |what: String| Wrong::File(format!("{}: {what}", file.display()));
    let bytes = file::read(file, MAX_CONFIG_BYTES)
        .map_err(|error| unread(error.with_remedy("name another file with --config")))?;
    let text = str::from_utf8(&bytes).map_err(|error| {
        let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
        wrong(line, "the line is not UTF-8; save the file as UTF-8".to_owned())
    })?;
    let line_of = |offset: usize| 1 + text[..offset.min(text.len())].matches('\n').count();
    let table: BTreeMap<Spanned<String>, Spanned<Value>> = toml::from_str(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        wrong(line, format!("this is no TOML: {}", error.message()))
    })?;
    let (mut settings, mut entries) = (Vec::new(), Vec::new());
    for (key, value) in table {
        let line = line_of(key.span().start);
        let key = key.into_inner();
        if !known.contains(&key) {
            return Err(wrong(line, unknown(&key, known)));
        }
        if key == "users" && value.get_ref().is_table() {
            entries = users::read(file, text).map_err(|(line, what)| wrong(line, what))?;
            continue;
        }
        let flags = flags(&key, value.into_inner()).map_err(|what| wrong(line, what))?;
        settings.push(Setting { line, key, flags });
    }
    Ok((settings, entries))
}

/// The long names of all that `serve` takes, but for the file itself.
fn keys(command: &Command) -> Vec<String> {
    let serve = command.find_subcommand("serve").expect("the subcommand serve");
    let longs = serve.get_arguments().filter_map(|argument| argument.get_long());
    longs.filter(|long| !["config", "help"].contains(long)).map(str::to_owned).collect()
}

fn unknown(key: &str, known: &[String]) -> String {
    let mut what = format!("no option is called '{key}'");
    let alike = key.replace('_', "-").to_lowercase();
    let is_close = |known: &&String| known.starts_with(&alike) || alike.starts_with(known.as_str());
    if let Some(close) = known.iter().find(is_close) {
        let _ = write!(what, "; did you mean '{close}'?");
    } else {
        what.push_str("; `sluicegate serve --help` lists them by their long names");
    }
    what
}

fn flags(key: &str, value: Value) -> Result<Vec<OsString>, String> {
    let flag = |text: &str| OsString::from(format!("--{key}={text}"));
    match value {
        Value::String(text) => Ok(vec![flag(&text)]),
        Value::Integer(number) => Ok(vec![flag(&number.to_string())]),
        Value::Boolean(true) if key == "no-auth" => Ok(vec![OsString::from("--no-auth")]),
        Value::Boolean(false) if key == "no-auth" => Ok(Vec::new()),
        Value::Array(values) if values.is_empty() => {
            Err(format!("'{key}' is an empty list, which would mean the default: leave the option out for that"))
        }
        Value::Array(values) => {
            let flags = values.into_iter().map(|value| match value {
                Value::Array(_) => Err(format!("'{key}' takes a list of strings, not of lists")),
                value => flags(key, value),
            });
            Ok(flags.collect::<Result<Vec<_>, _>>()?.concat())
        }
        other => Err(format!("'{key}' takes a string or a list of strings, not a {}", other.type_str())),
    }
}

/// Names the line behind what clap refuses.
fn blame(error: clap::Error, origins: &Origins) -> Wrong {
    let text = error.to_string();
    let cause = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
    match guilty(&origins.settings, cause) {
        None => Wrong::Usage(error),
        Some(_) => Wrong::File(origins.blame(cause.to_owned())),
    }
}

/// The setting that an error speaks of: that very option, and not one whose name begins like it.
fn guilty<'a>(settings: &'a [Setting], error: &str) -> Option<&'a Setting> {
    let names = |setting: &&Setting| {
        let flag = format!("--{}", setting.key);
        error
            .match_indices(&flag)
            .any(|(at, _)| !error[at + flag.len()..].starts_with(|next: char| next == '-' || next.is_ascii_lowercase()))
    };
    settings.iter().find(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Serve;
    use clap::{Args, FromArgMatches};

    fn serve(file: &str, flags: &[&str]) -> Result<Serve, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sluicegate.toml");
        std::fs::write(&path, file).unwrap();
        let start = ["sluicegate", "serve", "--config", path.to_str().unwrap()];
        let command = Command::new("sluicegate").subcommand(Serve::augment_args(Command::new("serve")));
        match parse(&command, start.iter().chain(flags).map(OsString::from)) {
            Ok((matches, _)) => Ok(Serve::from_arg_matches(matches.subcommand().unwrap().1).unwrap()),
            Err(Wrong::File(what)) => Err(what.replace(path.to_str().unwrap(), "FILE")),
            Err(Wrong::Usage(error)) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_file_sets_what_flags_leave_open() {
        let file = "listen = ['127.0.0.1:1', '127.0.0.1:2']\nmax-tunnels = 7\nno-auth = true\nidle-timeout = '5m'\n";
        let config = serve(file, &["--max-tunnels", "9"]).unwrap();
        assert_eq!(config.rules.listen.len(), 2);
        assert_eq!(config.max_tunnels, Some(9));
        assert!(config.no_auth);
        assert_eq!(config.idle_timeout, Some(std::time::Duration::from_secs(300)));
    }

    /// Whichever way clap was built.
    #[test]
    fn a_command_takes_what_it_has_and_what_means_the_same_there() {
        use crate::config::Explain;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sluicegate.toml");
        let file = "user = 'ann:s3cret'\nmax-tunnels = 5\nrate = '1MiB'\nallow = 'a.example:1'\nno-auth = true\n";
        std::fs::write(&path, file).unwrap();
        let serve = Serve::augment_args(Command::new("serve"));
        let command = Command::new("sluicegate").subcommand(serve);
        let command = command.subcommand(Explain::augment_args(Command::new("explain")));
        let line = ["sluicegate", "explain", "--config", path.to_str().unwrap(), "a.example:1"];
        let (matches, origins) = parse(&command, line.iter().map(OsString::from)).unwrap();
        let explain = Explain::from_arg_matches(matches.subcommand().unwrap().1).unwrap();
        assert_eq!((explain.user, explain.rules.allow.len()), (None, 1));
        let kept: Vec<_> = origins.settings.iter().map(|setting| setting.key.as_str()).collect();
        assert_eq!(kept, ["allow"]);
    }

    #[test]
    fn a_wrong_file_names_the_line_and_the_remedy() {
        for (file, said) in [
            ("\nmax_tunnels = 7", "FILE:2: no option is called 'max_tunnels'; did you mean 'max-tunnels'?"),
            ("log = 'json'\nlisten = 'x'", "FILE:2: invalid value 'x' for '--listen <ADDR:PORT>'"),
            ("frobnicate = 1", "FILE:1: no option is called 'frobnicate'; `sluicegate serve --help`"),
            ("log = 'json'\nadmin = ", "FILE:2: this is no TOML"),
            ("[users]\na = 1", "FILE:2: 'users.a' is no user"),
            (
                "users = 'FILE'",
                "FILE:1: invalid value 'FILE' for '--users <FILE>': the option is called users-file now",
            ),
            ("[allow]\na = 1", "FILE:1: 'allow' takes a string or a list of strings, not a table"),
            ("allow = []", "FILE:1: 'allow' is an empty list"),
            ("max-tunnels = 5\nmax-tunnels-per-user = 0", "FILE:2: invalid value '0' for '--max-tunnels-per-user <N>'"),
            ("max-tunnels = 0", "FILE:1: invalid value '0' for '--max-tunnels <N>': 0 would refuse everybody"),
        ] {
            let error = serve(file, &[]).unwrap_err();
            assert!(error.starts_with(said), "{file:?}: {error}");
        }
    }
}
