//! The configuration file, read again while the gateway runs: what users may counts at once, if `check` passes it; for
//! the rest it needs a new start.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tracing::warn;

use super::line::Command;
use crate::auth::{Elsewhere, Entry, UsersError};
use crate::config::Serve;
use crate::config::file::{Origins, Wrong};
use crate::config::settings::Settings;
use crate::stamp::Stamp;

/// The file, and what it held when the gateway started.
#[derive(Debug)]
pub(super) struct Reread {
    file: PathBuf,
    seen: Mutex<Option<Stamp>>,
    before: Origins,
}

impl Reread {
    /// Of these options, if a file is part of them.
    pub(super) fn of(options: &Serve) -> Option<Self> {
        let file = options.rules.config.clone()?;
        Some(Self { seen: Mutex::new(Stamp::of(&file)), file, before: options.origins.clone() })
    }

    fn check(&self) -> Result<Origins, String> {
        let cli = super::parse(self.before.arguments.clone()).map_err(|wrong| match wrong {
            Wrong::File(what) => what,
            Wrong::Usage(error) => error.to_string(),
        })?;
        match cli.command {
            Command::Serve(options) => Settings::new(&options).map(|_| options.origins),
            _ => Err("it was not started by `serve`".to_owned()),
        }
    }
}

impl Elsewhere for Reread {
    fn changed(&self) -> bool {
        Stamp::of(&self.file) != *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> Result<Vec<Entry>, UsersError> {
        // Taken before, so that a change in between is seen by the next look.
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Stamp::of(&self.file);
        let remedy = "`sluicegate check` says the same until it can be used";
        let now = self.check().map_err(|error| UsersError::new("check", error, remedy))?;
        let other = now.unlike(&self.before);
        if !other.is_empty() {
            let settings = other.join(" ");
            warn!(
                settings,
                "the configuration file says something else of these too, which counts from the next start on"
            );
        }
        Ok(now.users)
    }
}
