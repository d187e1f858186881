//! The program: parses, runs a command, turns its end into an exit code.

use std::process::ExitCode;

use sluicegate::commands;
use sluicegate::config::file::Wrong;

fn main() -> ExitCode {
    let cli = match commands::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(Wrong::Usage(error)) => error.exit(),
        Err(Wrong::File(what)) => {
            eprintln!("sluicegate: {what}");
            return ExitCode::from(2);
        }
    };
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sluicegate: {failure}");
            failure.code()
        }
    }
}
