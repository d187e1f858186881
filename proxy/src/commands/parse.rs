//! Parsing of a command line, and of the configuration file that it names.

use std::ffi::OsString;

use clap::FromArgMatches;

use super::line::{Cli, Command, command};
use crate::config::error::ConfigErrors;
use crate::config::parse;

/// An unusable command line or configuration, with the text to print.
#[derive(Debug)]
pub enum Unusable {
    /// No argument at all: the text is [`super::line::FIRST_STEPS`].
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
    let (matches, mut sources) = parse::parse(&command(), arguments).map_err(Unusable::Usage)?;
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
