//! The subcommands.

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::FromArgMatches;

use crate::config::error::ConfigErrors;
use crate::config::parse;
use crate::config::table;

mod check;
pub mod doctor;
pub mod drain;
pub mod endpoint;
pub mod explain;
pub mod hash_password;
pub mod kill;
pub mod line;
mod log;
mod log_fields;
pub mod pages;
mod privileges;
pub mod rates;
mod reasons;
mod reread;
pub mod serve;
pub mod tunnels;

use line::{Cli, Command};

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

/// An unusable command line or configuration, with the text to print.
#[derive(Debug)]
pub enum Unusable {
    /// No argument at all: the text is [`line::FIRST_STEPS`].
    NoCommand,
    /// Errors of clap, and the texts of help and version.
    Usage(clap::Error),
    /// Errors of values, variables and the configuration file.
    Config(ConfigErrors),
}

/// Parses a command line, and the configuration file named in it.
///
/// `serve` and `check` keep the errors of a configuration, to report them together with the errors
/// of their own checks.
///
/// # Errors
/// Any error of either.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Unusable> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() < 2 {
        return Err(Unusable::NoCommand);
    }
    let (matches, mut sources) = parse::parse(&line::command(), arguments).map_err(Unusable::Usage)?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(Unusable::Usage)?;
    match &mut cli.command {
        Command::Serve(options) => options.sources = sources,
        Command::Check(options) => options.serve.sources = sources,
        _ if !sources.errors.is_empty() => {
            return Err(Unusable::Config(ConfigErrors(std::mem::take(&mut sources.errors))));
        }
        Command::Explain(options) => options.sources = sources,
        _ => {}
    }
    Ok(cli)
}

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
        Command::Man(command) => print(command.run()),
        Command::Completions(command) => print(Ok::<_, Failure>(command.run())),
        Command::Options { .. } => print(Ok::<_, Failure>(table::markdown(&line::command()))),
        Command::Reasons => print(Ok::<_, Failure>(reasons::markdown())),
    }
}

fn print(result: Result<String, impl Into<Failure>>) -> Result<(), Failure> {
    use std::io::Write as _;
    let text = result.map_err(Into::into)?;
    // A reader that left early, as `head` does, is no failure.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(())
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

/// Waits for a command with network I/O.
fn wait<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| Failure::Work(error.to_string()))?.block_on(work))
}
