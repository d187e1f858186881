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

impl fmt::Debug for ConfigSources {
    /// Omits the command line and the values, because any of them may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigSources").field("file", &self.file).field("users", &self.users).finish_non_exhaustive()
    }
}
