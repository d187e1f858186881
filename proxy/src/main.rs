//! The program: parses, runs a command, turns its end into an exit code.

use std::fmt::Display;
use std::io::Write as _;
use std::process::ExitCode;

use sluicegate::commands::line::FIRST_STEPS;
use sluicegate::commands::{self, Unusable};
use sluicegate::sys::{capabilities, descriptors, signals};

fn main() -> ExitCode {
    descriptors::count_inherited();
    // Passwords and keys are read from here on. Refused, as by a seccomp filter, `serve` says so.
    let _ = capabilities::conceal_memory();
    // Before the configuration is read, which takes as long as its file system does.
    if std::env::args_os().nth(1).is_some_and(|command| command == "serve")
        && let Err(error) = signals::prepare()
    {
        return fail(&format_args!("cannot handle signals: {error}; check the seccomp filter"), 1.into());
    }
    let cli = match commands::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Unusable::NoCommand) => {
            let _ = write!(std::io::stderr(), "{FIRST_STEPS}");
            return 2.into();
        }
        Err(Unusable::Usage(error)) => error.exit(),
        Err(Unusable::Config(errors)) => return fail(&errors, 2.into()),
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let code = failure.code();
            fail(&failure, code)
        }
    }
}

/// Tells errors, one per line. `eprintln!` would panic where standard error is closed or full.
fn fail(errors: &dyn Display, code: ExitCode) -> ExitCode {
    for error in errors.to_string().lines() {
        let _ = writeln!(std::io::stderr(), "sluicegate: {error}");
    }
    code
}
