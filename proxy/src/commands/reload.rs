//! Reloading of the configuration file at run time: changed users take effect at once, if `check`
//! accepts the file; other settings take effect after a restart.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::warn;

use super::line::Command;
use super::parse::{Unusable, parse};
use crate::auth::{Entry, UserSource, UsersError};
use crate::config::Serve;
use crate::config::error::ConfigErrors;
use crate::config::settings::Settings;
use crate::config::sources::ConfigSources;
use crate::fingerprint::FileFingerprint;

/// The file, and its content at the start of the gateway.
#[derive(Debug)]
pub(super) struct ConfigReloader {
    file: PathBuf,
    state: Mutex<FileState>,
    before: ConfigSources,
}

/// State of the file.
#[derive(Debug)]
struct FileState {
    /// Fingerprint at the last read.
    read: Option<FileFingerprint>,
    /// Fingerprint at the last check.
    last: Option<FileFingerprint>,
    /// The last content was refused, perhaps because of another file.
    refused: bool,
}

impl ConfigReloader {
    /// Creates the reloader of the file in these options, if any.
    pub(super) fn of(options: &Serve) -> Option<Self> {
        let file = options.operation.config.clone()?;
        let read = FileFingerprint::of(&file);
        let state = Mutex::new(FileState { last: read, read, refused: false });
        Some(Self { state, file, before: options.sources.clone() })
    }

    fn state(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) -> Result<ConfigSources, String> {
        let cli = parse(self.before.arguments.clone()).map_err(|unusable| match unusable {
            Unusable::Config(errors) => in_one_line(&errors),
            Unusable::Usage(error) => error.to_string(),
            Unusable::NoCommand => "the command line is empty".to_owned(),
        })?;
        match cli.command {
            Command::Serve(options) => match Settings::new(&options) {
                Ok(_) => Ok(options.sources),
                Err(errors) => Err(in_one_line(&errors)),
            },
            _ => Err("the process was not started by `serve`".to_owned()),
        }
    }
}

impl UserSource for ConfigReloader {
    /// Waits until two checks find the file unchanged: an editor writing in place may not have
    /// finished, and half of a user's restrictions would permit too much.
    fn changed(&self) -> bool {
        let mut state = self.state();
        let now = FileFingerprint::of(&self.file);
        let stays = std::mem::replace(&mut state.last, now) == now;
        stays && (state.refused || now != state.read)
    }

    fn read(&self) -> Result<Vec<Entry>, UsersError> {
        // Taken before reading, so the next check sees a change in between.
        let read = FileFingerprint::of(&self.file);
        let checked = self.check();
        *self.state() = FileState { read, last: read, refused: checked.is_err() };
        let remedy = "`sluicegate check` shows the errors as well";
        let now = checked.map_err(|error| UsersError::new("check", error, remedy))?;
        let other = now.changed_since(&self.before);
        if !other.is_empty() {
            let settings = other.join(" ");
            warn!(settings, "these settings changed as well and take effect after a restart");
        }
        Ok(now.users)
    }
}

/// Formats errors for one line of the log.
fn in_one_line(errors: &ConfigErrors) -> String {
    errors.to_string().replace('\n', "; ")
}
