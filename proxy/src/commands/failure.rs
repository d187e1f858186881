//! Failure of a command, and the output of a success.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use crate::config::error::ConfigErrors;

/// Failure of a command: the text and its exit code.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// Wrong usage or configuration: 2.
    Usage(String),
    /// It could not be done: 1.
    Work(String),
    /// This host cannot run the gateway: 2.
    Host(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Work(_) => 1,
            Self::Usage(_) | Self::Host(_) => 2,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(what) | Self::Work(what) | Self::Host(what)) = self;
        f.write_str(what)
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Usage(errors.to_string())
    }
}

impl From<String> for Failure {
    fn from(what: String) -> Self {
        Self::Work(what)
    }
}

/// Prints the text of a command.
pub(super) fn print(result: Result<String, impl Into<Failure>>) -> Result<(), Failure> {
    let text = result.map_err(Into::into)?;
    // A reader that left early, as `head` does, is no failure.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
}
