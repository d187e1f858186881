//! The binary under test, and the environment that it is run in.

use std::process::Command;

/// Path of the binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_sluicegate");

/// Removes inherited SLUICEGATE_ variables and the control socket's default path, which belongs to
/// the host.
pub(crate) fn in_clean_environment(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICEGATE_") {
            command.env_remove(name);
        }
    }
    command.env("SLUICEGATE_CONTROL", "none")
}
