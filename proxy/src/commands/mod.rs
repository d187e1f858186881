//! The subcommands.

use crate::config::table;

mod check;
pub mod doctor;
pub mod drain;
pub mod endpoint;
pub mod explain;
mod failure;
pub mod hash_password;
pub mod kill;
pub mod line;
mod log;
mod log_fields;
pub mod pages;
mod parse;
mod privileges;
pub mod rates;
mod reasons;
mod reload;
pub mod serve;
pub mod tunnels;

pub use failure::Failure;
pub use parse::{Unusable, parse};

use failure::print;
use line::Command;

/// Runs a command.
///
/// # Errors
/// The command's own failure.
pub fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(options) => serve::serve(&options),
        Command::Check(options) => check::run(&options),
        Command::Doctor(command) => command.run(),
        Command::Explain(options) => print(wait(explain::run(&options))?),
        Command::Tunnels(command) => print(wait(command.run())?),
        Command::Kill(command) => {
            let (ended, outcome) = wait(command.run())?;
            if !ended.is_empty() {
                print(Ok::<_, Failure>(ended))?;
            }
            Ok(outcome?)
        }
        Command::Rates(command) => print(wait(command.run())?),
        Command::Drain(command) => print(wait(command.run())?),
        Command::HashPassword(command) => print(command.run().map_err(|error| Failure::Usage(error.to_string()))),
        Command::Man(man) => print(man.run(line::command())),
        Command::Completions(completions) => print(Ok::<_, Failure>(completions.run(line::command()))),
        Command::Options { .. } => print(Ok::<_, Failure>(table::markdown(&line::command()))),
        Command::Reasons => print(Ok::<_, Failure>(reasons::markdown())),
    }
}

/// Waits for a command with network I/O.
fn wait<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::Work(error.to_string()))?.block_on(work))
}
