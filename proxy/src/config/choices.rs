//! Options with a fixed set of values.

use crate::dial::ResolverKind;
use crate::invalid_value::InvalidValue;
use crate::relay::Engine;

/// Values of `--resolver`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ResolverChoice {
    /// The hosts file and the DNS.
    Dns,
    /// getaddrinfo(3), on threads.
    System,
}

impl From<ResolverChoice> for ResolverKind {
    fn from(choice: ResolverChoice) -> Self {
        match choice {
            ResolverChoice::Dns => Self::Dns,
            ResolverChoice::System => Self::System,
        }
    }
}

/// Formats of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line of words and `field=value`.
    Text,
    /// A JSON object per line, with all fields at the top level.
    Json,
}

/// Levels of the log, most severe first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is wrong, or ran out.
    Warn,
    /// Tunnels, refusals and changes.
    Info,
    /// Port checks and handshakes as well.
    Debug,
}

/// One value of `--engine`: an engine, `auto`, or several with commas between.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engines(Vec<Engine>);

impl Engines {
    /// The engines of all values in their order, each once.
    #[must_use]
    pub fn of(values: &[Self]) -> Vec<Engine> {
        let mut engines = Vec::new();
        for engine in values.iter().flat_map(|value| &value.0) {
            if !engines.contains(engine) {
                engines.push(*engine);
            }
        }
        engines
    }
}

/// Parses one value of `--engine`.
///
/// # Errors
/// An unknown engine.
pub fn engines(text: &str) -> Result<Engines, InvalidValue> {
    let mut engines = Vec::new();
    for word in text.split(',') {
        match word {
            // Every engine except those needing an explicit request, best first.
            "auto" => engines.extend(Engine::AUTO),
            word => engines.push(word.parse()?),
        }
    }
    Ok(Engines(engines))
}
