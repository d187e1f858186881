//! Settings of a run from a file, and the errors of reading all settings.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use super::error::{ConfigError, Location};
use crate::auth::Entry;

/// The part of a configuration read from a file, and the errors of reading all of the
/// configuration.
#[derive(Clone, Default)]
pub struct ConfigSources {
    pub(super) file: PathBuf,
    /// Effective settings of the file: neither a flag nor a variable overrides them.
    pub(super) settings: Vec<Setting>,
    /// The sections `[users.NAME]`.
    pub users: Vec<Entry>,
    /// The command line, for reading the file again.
    pub arguments: Vec<OsString>,
    /// Errors of flags, variables and the file. The options with an error have their defaults here.
    pub errors: Vec<ConfigError>,
}

/// One setting of a file.
#[derive(Clone)]
pub(super) struct Setting {
    pub(super) line: usize,
    pub(super) key: String,
    /// The values as flags, each with its line.
    pub(super) flags: Vec<(usize, OsString)>,
}

impl ConfigSources {
    /// Adds file and line to an error about an option set by the file.
    #[must_use]
    pub fn with_location(&self, error: ConfigError) -> ConfigError {
        let setting = || self.settings.iter().find(|setting| Some(&setting.key) == error.option.as_ref());
        match (&error.location, setting()) {
            (None, Some(setting)) => {
                let location = self.location(setting.line);
                error.at(location)
            }
            (None, None) => {
                let is_flag = |argument: &OsString, option: &str| {
                    let rest = argument.to_str().and_then(|argument| argument.strip_prefix("--")?.strip_prefix(option));
                    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
                };
                let is_given = |option: &str| self.arguments.iter().any(|argument| is_flag(argument, option));
                named_as_given(error, is_given, |variable| std::env::var_os(variable).is_some())
            }
            _ => error,
        }
    }

    /// A line of the file.
    pub(super) fn location(&self, line: usize) -> Location {
        Location { file: self.file.clone(), line: Some(line) }
    }

    /// Tells if the file sets this option, named without dashes.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.settings.iter().any(|setting| setting.key == key)
    }

    /// Returns the names of the settings, sections of users aside, with a change since an earlier
    /// reading.
    #[must_use]
    pub fn changed_since(&self, before: &Self) -> Vec<String> {
        let flags = |sources: &Self| -> BTreeMap<String, Vec<OsString>> {
            let flags = |setting: &Setting| setting.flags.iter().map(|(_, flag)| flag.clone()).collect();
            sources.settings.iter().map(|setting| (setting.key.clone(), flags(setting))).collect()
        };
        let (now, before) = (flags(self), flags(before));
        let mut keys: Vec<_> =
            now.keys().chain(before.keys()).filter(|key| now.get(*key) != before.get(*key)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.into_iter().cloned().collect()
    }
}

/// Names the variable in place of the option at the start of an error, where the value came from
/// it.
fn named_as_given(error: ConfigError, is_given: impl Fn(&str) -> bool, is_set: impl Fn(&str) -> bool) -> ConfigError {
    let Some(option) = error.option.as_deref().filter(|option| !is_given(option)) else { return error };
    let variable = format!("SLUICEGATE_{}", option.replace('-', "_").to_uppercase());
    let rest = error.cause.strip_prefix("--").and_then(|cause| cause.strip_prefix(option));
    match rest.filter(|rest| rest.starts_with([' ', ':', ',']) && is_set(&variable)) {
        Some(rest) => ConfigError { cause: format!("{variable}{rest}"), ..error },
        None => error,
    }
}

impl fmt::Debug for ConfigSources {
    /// Omits the command line and the values, because any of them may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSources").field("file", &self.file).field("users", &self.users).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_variable_that_gave_the_value() {
        let cause = |option: &str, cause: &str, flag: bool, variable: &str| {
            let error = ConfigError::about(option, cause, "do this");
            named_as_given(error, |_| flag, |name| name == variable).cause
        };
        let parent = "--parent, number 1: no port";
        assert_eq!(cause("parent", parent, false, "SLUICEGATE_PARENT"), "SLUICEGATE_PARENT, number 1: no port");
        // A flag takes precedence over the variable.
        assert_eq!(cause("parent", parent, true, "SLUICEGATE_PARENT"), parent);
        assert_eq!(cause("parent", parent, false, ""), parent);
        assert_eq!(cause("tls-key", "--tls-key /x: no", false, "SLUICEGATE_TLS_KEY"), "SLUICEGATE_TLS_KEY /x: no");
        // Of another option.
        assert_eq!(cause("user", "--users-file x", false, "SLUICEGATE_USER"), "--users-file x");
    }
}
