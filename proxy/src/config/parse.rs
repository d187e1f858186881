//! Flags, variables and the configuration file, parsed together; errors are collected instead of
//! ending at the first.
//!
//! A refused value is noted and removed, and everything is parsed again, until the rest is sound.
//! Of a list only the refused element is removed, so that the next one is found too.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use super::error::ConfigError;
use super::file;
use super::sources::{ConfigSources, Setting};
use crate::account::sanitize;
use crate::invalid_value::InvalidValue;

/// Parses a command line by `command`, with the file that it or the environment names.
///
/// Errors of values and of the file are in [`ConfigSources::errors`].
///
/// # Errors
/// Anything that only clap can say: an unknown option, help, the version.
pub fn parse(
    command: &Command,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<(ArgMatches, ConfigSources), clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let name = arguments.get(1).and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let takes_file = command
        .find_subcommand(&name)
        .is_some_and(|command| command.get_arguments().any(|argument| argument.get_long() == Some("config")));
    if !takes_file {
        return Ok((command.clone().try_get_matches_from(arguments)?, ConfigSources::default()));
    }
    let sources = ConfigSources { arguments: arguments.clone(), ..ConfigSources::default() };
    let mut parser = Parser {
        command: command.clone(),
        name,
        arguments,
        removed: BTreeSet::new(),
        variables: BTreeMap::new(),
        sources,
    };
    let matches = parser.matches()?;
    let of_command = matches.subcommand().map(|(_, of_command)| of_command);
    if let Some(path) = of_command.and_then(|matches| matches.get_one::<PathBuf>("config")) {
        let read = file::read(path, command);
        parser.sources.file.clone_from(path);
        parser.sources.errors.extend(read.errors);
        parser.sources.users = read.users;
        parser.sources.settings = read.settings;
        let open = |key: &str| of_command.is_some_and(|matches| is_open(command, &parser.name, matches, key));
        parser.sources.settings.retain(|setting| open(&setting.key));
    }
    let matches = parser.matches()?;
    Ok((matches, parser.sources))
}

/// The command has this very option of `serve`, and neither a flag nor the environment gave it.
///
/// Looked up in the definition: what matches say of an option that a command does not have differs
/// with clap's build.
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

struct Parser {
    command: Command,
    /// The subcommand.
    name: String,
    arguments: Vec<OsString>,
    /// Options that are left out by now.
    removed: BTreeSet<String>,
    /// Variables that were refused in part, by their options. Their other values are arguments now.
    variables: BTreeMap<String, OsString>,
    sources: ConfigSources,
}

impl Parser {
    /// Parses until nothing is wrong any more, and records the errors.
    fn matches(&mut self) -> Result<ArgMatches, clap::Error> {
        loop {
            let mut all = self.arguments.clone();
            let of_file =
                self.sources.settings.iter().flat_map(|setting| setting.flags.iter().map(|(_, flag)| flag.clone()));
            all.splice(2..2, of_file);
            let error = match self.command.clone().try_get_matches_from(all) {
                Ok(matches) => return Ok(matches),
                Err(error) => error,
            };
            let Some((key, value, found)) = self.invalid(&error) else { return Err(error) };
            self.sources.errors.push(found);
            if !value.is_some_and(|value| self.remove_value(&key, &value)) {
                self.remove(&key);
            }
        }
    }

    /// The option that clap refuses, its value unless the option as a whole is refused, and the
    /// error in the words of this program.
    fn invalid(&self, error: &clap::Error) -> Option<(String, Option<String>, ConfigError)> {
        let kinds = [
            ErrorKind::ValueValidation,
            ErrorKind::InvalidValue,
            ErrorKind::ArgumentConflict,
            ErrorKind::TooManyValues,
        ];
        let ContextValue::String(argument) =
            error.get(ContextKind::InvalidArg).filter(|_| kinds.contains(&error.kind()))?
        else {
            return None;
        };
        let key = argument.strip_prefix("--")?.split([' ', '=']).next()?;
        if self.removed.contains(key) {
            return None;
        }
        let defined = self.defined(key)?;
        let value = match error.get(ContextKind::InvalidValue) {
            Some(ContextValue::String(value)) => value.as_str(),
            _ => "",
        };
        let InvalidValue { cause, remedy } = in_own_words(error, defined, value);
        let of_value = matches!(error.kind(), ErrorKind::ValueValidation | ErrorKind::InvalidValue);
        let refused = of_value.then(|| value.to_owned());
        let setting = self.sources.settings.iter().find(|setting| setting.key == key);
        let unset = setting.is_none() && !self.is_argument(key);
        let variable = self.variables.get(key).map(OsString::as_os_str).or(defined.get_env().filter(|_| unset));
        let line = setting.map(|setting| line_of(setting, value, defined.get_value_delimiter()));
        let value = sanitize(value);
        let what = match variable {
            Some(variable) => format!("{}={value}: {cause}", variable.to_string_lossy()),
            None if value.is_empty() => format!("--{key}: {cause}"),
            None => format!("--{key} {value}: {cause}"),
        };
        let error = ConfigError { remedy: remedy.map(Into::into), ..ConfigError::about(key, what, "") };
        let error = match line {
            None => error,
            Some(line) => error.at(self.sources.location(line)),
        };
        Some((key.to_owned(), refused, error))
    }

    fn defined(&self, key: &str) -> Option<&Arg> {
        let command = self.command.find_subcommand(&self.name)?;
        command.get_arguments().find(|argument| argument.get_long() == Some(key))
    }

    fn is_argument(&self, key: &str) -> bool {
        self.arguments.iter().any(|argument| is_flag(argument, key).is_some())
    }

    /// Removes one element of an option's values, the first that equals `value`. False if there is
    /// none.
    fn remove_value(&mut self, key: &str, value: &str) -> bool {
        let Some(defined) = self.defined(key) else { return false };
        let separator = defined.get_value_delimiter();
        let variable = defined.get_env().map(OsStr::to_owned);
        if let Some(setting) = self.sources.settings.iter_mut().find(|setting| setting.key == key) {
            let start = format!("--{key}=");
            for at in 0..setting.flags.len() {
                let (line, flag) = &setting.flags[at];
                let values = flag.to_str().and_then(|flag| flag.strip_prefix(&start));
                if let Some(rest) = values.and_then(|values| without(values, value, separator)) {
                    let rest = rest.map(|rest| (*line, OsString::from(format!("{start}{rest}"))));
                    setting.flags.splice(at..=at, rest);
                    return true;
                }
            }
            return false;
        }
        if !self.is_argument(key) {
            let values = variable.as_deref().and_then(std::env::var_os);
            let values = values.as_deref().and_then(OsStr::to_str);
            let Some(rest) = values.and_then(|values| without(values, value, separator)) else { return false };
            self.variables.insert(key.to_owned(), variable.unwrap_or_default());
            self.forget_variable(key);
            let rest = rest.map(|rest| OsString::from(format!("--{key}={rest}")));
            self.arguments.splice(2..2, rest);
            return true;
        }
        for at in 2..self.arguments.len() {
            let argument = &self.arguments[at];
            let Some(with_value) = is_flag(argument, key) else { continue };
            let (last, values) = match with_value {
                true => (at, argument.to_str().and_then(|argument| argument.split_once('='))),
                false => (at + 1, self.arguments.get(at + 1).and_then(|value| Some(("", value.to_str()?)))),
            };
            if let Some(rest) = values.and_then(|(_, values)| without(values, value, separator)) {
                let rest = rest.map(|rest| OsString::from(format!("--{key}={rest}")));
                self.arguments.splice(at..=last, rest);
                return true;
            }
        }
        false
    }

    /// Leaves an option out, wherever it was given.
    fn remove(&mut self, key: &str) {
        self.removed.insert(key.to_owned());
        self.sources.settings.retain(|setting| setting.key != key);
        let takes_value = self.defined(key).is_some_and(|argument| argument.get_action().takes_values());
        let mut is_value = false;
        self.arguments.retain(|argument| match is_flag(argument, key) {
            _ if std::mem::take(&mut is_value) => false,
            None => true,
            Some(with_value) => {
                is_value = takes_value && !with_value;
                false
            }
        });
        self.forget_variable(key);
    }

    fn forget_variable(&mut self, key: &str) {
        let Some(id) = self.defined(key).map(|argument| argument.get_id().clone()) else { return };
        let command = std::mem::take(&mut self.command);
        self.command =
            command.mut_subcommand(&self.name, |command| command.mut_arg(id, |argument| argument.env(None::<&str>)));
    }
}

/// Cause and remedy of clap's error about a value of this option.
fn in_own_words(error: &clap::Error, option: &Arg, value: &str) -> InvalidValue {
    let key = option.get_long().unwrap_or_default();
    match (error.kind(), error.source()) {
        (ErrorKind::ArgumentConflict, _) => InvalidValue::new("given several times", "give it once"),
        (ErrorKind::TooManyValues, _) => {
            InvalidValue::new("takes no value", format!("write --{key} alone, or {key} = true in a file"))
        }
        (_, Some(source)) => match source.downcast_ref::<InvalidValue>() {
            Some(invalid) => invalid.clone(),
            None => InvalidValue { cause: source.to_string().into(), remedy: None },
        },
        (_, None) if value.is_empty() => InvalidValue::new("no value", "give one, or leave the option out"),
        (_, None) => {
            let values: Vec<_> = option.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
            let values = if values.is_empty() { "true, false".to_owned() } else { values.join(", ") };
            InvalidValue::new("unknown value", format!("write one of {values}"))
        }
    }
}

/// Line of a setting of the file, or of the element of its list that equals `value`.
fn line_of(setting: &Setting, value: &str, separator: Option<char>) -> usize {
    let start = format!("--{}=", setting.key);
    let holds = |flag: &OsString| {
        let values = flag.to_str().and_then(|flag| flag.strip_prefix(&start));
        values.is_some_and(|values| elements(values, separator).any(|element| element == value))
    };
    setting.flags.iter().find(|(_, flag)| holds(flag)).map_or(setting.line, |(line, _)| *line)
}

/// The elements of a value, which is a list if its option has a separator.
fn elements(values: &str, separator: Option<char>) -> impl Iterator<Item = &str> {
    values.split(move |letter| Some(letter) == separator)
}

/// The values without the first element that equals `element`, and `Some(None)` if no other is
/// left; `None` if there is no such element.
fn without(values: &str, element: &str, separator: Option<char>) -> Option<Option<String>> {
    let mut elements: Vec<_> = elements(values, separator).collect();
    let at = elements.iter().position(|other| *other == element)?;
    elements.remove(at);
    let separator = separator.map(String::from).unwrap_or_default();
    Some((!elements.is_empty()).then(|| elements.join(&separator)))
}

/// `Some` if an argument is this option, and true if its value is part of it.
fn is_flag(argument: &OsString, key: &str) -> Option<bool> {
    let rest = argument.to_str()?.strip_prefix("--")?.strip_prefix(key)?;
    (rest.is_empty() || rest.starts_with('=')).then_some(!rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Serve;
    use clap::{Args, FromArgMatches};

    /// The options, or all errors, with the file called FILE.
    fn serve(file: &str, flags: &[&str]) -> Result<Serve, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sluicegate.toml");
        std::fs::write(&path, file).unwrap();
        let start = ["sluicegate", "serve", "--config", path.to_str().unwrap()];
        let command = Command::new("sluicegate").subcommand(Serve::augment_args(Command::new("serve")));
        let (matches, sources) = parse(&command, start.iter().chain(flags).map(OsString::from)).unwrap();
        let errors: Vec<_> = sources.errors.iter().map(ToString::to_string).collect();
        match errors.is_empty() {
            true => Ok(Serve::from_arg_matches(matches.subcommand().unwrap().1).unwrap()),
            false => Err(errors.join("\n").replace(path.to_str().unwrap(), "FILE")),
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
        let (matches, sources) = parse(&command, line.iter().map(OsString::from)).unwrap();
        let explain = Explain::from_arg_matches(matches.subcommand().unwrap().1).unwrap();
        assert_eq!((explain.user, explain.rules.allow.len()), (None, 1));
        let kept: Vec<_> = sources.settings.iter().map(|setting| setting.key.as_str()).collect();
        assert_eq!(kept, ["allow"]);
    }

    #[test]
    fn lists_have_one_separator_and_lists_in_a_file_are_lists() {
        let config = serve(
            "source = ['192.0.2.1', '2001:db8::1']\nengine = 'sockmap,uring'",
            &[
                "--listen",
                "127.0.0.1:1;127.0.0.1:2",
                "--deny",
                "a:1,2;b:1",
                "--parent",
                "http://a:1 for b:1;direct",
                "--proxy-protocol-from",
                "10.0.0.0/8;192.0.2.1",
                "--congestion-control",
                "client=cubic;origin=reno",
            ],
        );
        let config = config.unwrap();
        let rules = &config.rules;
        assert_eq!([rules.listen.len(), rules.deny.len(), rules.parent.len(), config.source.len()], [2; 4]);
        assert_eq!((config.proxy_protocol_from.len(), config.congestion_control.len()), (2, 2));
        assert_eq!(crate::config::Engines::of(&config.engine).len(), 2);
        for (flag, text) in [("listen", "127.0.0.1:1 127.0.0.1:2"), ("allow", "a:1 b:1"), ("source", "::1 127.0.0.1")] {
            let error = serve("", &[&format!("--{flag}"), text]).unwrap_err();
            let right = text.replace(' ', ";");
            let said = format!("several values in one; separate them by a semicolon, as {right}");
            assert!(error.contains(&said), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_names_the_place_and_the_remedy() {
        for (file, said) in [
            ("\nmax_tunnels = 7", "FILE:2: unknown option 'max_tunnels'; did you mean 'max-tunnels'?"),
            ("log = 'json'\nlisten = 'x'", "FILE:2: --listen x: `x` is not an IP address, and names are not resolved"),
            ("listen = [\n'127.0.0.1:1',\n'3128']", "FILE:3: --listen 3128: no address; write 0.0.0.0:3128"),
            ("frobnicate = 1", "FILE:1: unknown option 'frobnicate'; `sluicegate serve -h`"),
            ("log = 'json'\nadmin = ", "FILE:2: invalid TOML"),
            ("[users]\na = 1", "FILE:2: 'users.a' is not a section"),
            ("users = 'FILE'", "FILE:1: --users FILE: the option is called users-file now; write --users-file FILE"),
            ("[allow]\na = 1", "FILE:1: 'allow' is a table; write a string or a list of strings"),
            ("allow = []", "FILE:1: 'allow' is an empty list"),
            ("log = 'xml'", "FILE:1: --log xml: unknown value; write one of text, json"),
            (
                "no-auth = 'true'",
                "FILE:1: --no-auth true: takes no value; write --no-auth alone, or no-auth = true in a file",
            ),
            ("max-tunnels = [1, 2]", "FILE:1: --max-tunnels: given several times; give it once"),
            (
                "max-tunnels = 5\nmax-tunnels-per-user = 0",
                "FILE:2: --max-tunnels-per-user 0: 0 would refuse every client",
            ),
            (
                "max-tunnels = 0",
                "FILE:1: --max-tunnels 0: 0 would refuse every client; leave the option out for no limit",
            ),
        ] {
            let error = serve(file, &[]).unwrap_err();
            assert!(error.starts_with(said) && error.lines().count() == 1, "{file:?}: {error}");
        }
    }

    #[test]
    fn all_errors_are_found_in_one_run() {
        let file = "max-tunnels = 0\nlisten = ['3128', '127.0.0.1:1', ':80']\nfrob = 1\nrate = '1'\n\
                    [users.ann]\nrate = 1\nmax-tunnels = 0\n";
        let error = serve(file, &["--idle-timeout=0s", "--spin", "1s", "--deny", "x"]).unwrap_err();
        let mut starts: Vec<_> = error.lines().map(|line| line.split(' ').next().unwrap()).collect();
        starts.sort_unstable();
        let flags = ["--deny", "--idle-timeout", "--spin"];
        let lines = ["FILE:1:", "FILE:2:", "FILE:2:", "FILE:3:", "FILE:4:", "FILE:6:", "FILE:7:"];
        assert_eq!(starts, flags.into_iter().chain(lines).collect::<Vec<_>>(), "{error}");
        // What is no TOML in one line hides nothing of the others.
        let error = serve("log = \nmax-tunnels = 0\nx x\nrate = '1'\n", &[]).unwrap_err();
        let lines: Vec<_> = error.lines().map(|line| line.split(": ").next().unwrap()).collect();
        assert!(["FILE:1", "FILE:2", "FILE:3"].iter().all(|line| lines.contains(line)), "{error}");
    }

    #[test]
    fn every_element_of_a_list_is_told_once_with_its_line() {
        let file = "allow = [\n'x',\n'a:1',\n'y:99999;b:2;z',\n'x']\nrate = 'r'\n";
        let errors = serve(file, &["--deny", "p", "--deny=q;c:1;r", "--listen", "1;::1"]).unwrap_err();
        let of = |start: &str| errors.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(errors.lines().count(), 10, "{errors}");
        for (start, times) in [
            ("FILE:2: --allow x: ", 1),
            ("FILE:4: --allow y:99999: ", 1),
            ("FILE:4: --allow z: ", 1),
            ("FILE:5: --allow x: ", 1),
            ("FILE:6: --rate r: ", 1),
            ("--deny p: ", 1),
            ("--deny q: ", 1),
            ("--deny r: ", 1),
            ("--listen 1: ", 1),
            ("--listen ::1: ", 1),
        ] {
            assert_eq!(of(start), times, "{start}\n{errors}");
        }
    }

    #[test]
    fn the_old_name_and_the_sections_together_name_the_new_name() {
        let error = serve("users = 'FILE'\n[users.bob]\nrate = '1MiB'\n", &[]).unwrap_err();
        assert!(error.contains("the option is called users-file now"), "{error}");
        let config = serve("users-file = 'FILE'\n[users.bob]\nrate = '1MiB'\n", &[]).unwrap();
        assert_eq!(config.users_file, Some("FILE".into()));
    }
}
