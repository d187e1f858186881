//! Commands that a task runs, with the task's standard streams.

use std::path::Path;
use std::process::Command;

use crate::failure::{Context, Failure, Result};

/// Runs `command` to completion.
///
/// # Errors
/// The command cannot be started, or fails.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let status = command.status().context(format!("starting {program}"))?;
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let line = || format!("'{program} {}' ended with {status}", arguments.join(" "));
    if status.success() { Ok(()) } else { Err(Failure::new(line())) }
}
