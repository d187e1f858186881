//! The program: parses, runs a command, turns its end into an exit code.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use sluicegate::commands;
use sluicegate::config::file::Wrong;
use sluicegate::sys::signals;

fn main() -> ExitCode {
    // Before the configuration is read, which takes as long as its file system does.
    if std::env::args_os().nth(1).is_some_and(|command| command == "serve")
        && let Err(error) = signals::prepare()
    {
        return fail(&format_args!("signals cannot be handled: {error}; look at the seccomp filter"), 1.into());
    }
    let cli = match commands::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Wrong::Usage(error)) => error.exit(),
        Err(Wrong::File(what)) => return fail(&what, 2.into()),
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.code();
            fail(&failure, code)
        }
    }
}

/// Tells the error. `eprintln!` would panic where standard error is closed or full.
fn fail(error: &dyn Display, code: ExitCode) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "sluicegate: {error}");
    code
}
