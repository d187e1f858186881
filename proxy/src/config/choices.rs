//! Options with a fixed set of values.

use crate::relay::Engine;

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

/// One word of `--engine`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineChoice {
    /// Every engine but the one that has to be asked for, best first.
    Auto,
    /// This one.
    One(Engine),
}

impl EngineChoice {
    /// The engines that a list of choices means, each once.
    #[must_use]
    pub fn expand(choices: &[Self]) -> Vec<Engine> {
        let mut engines = Vec::new();
        for choice in choices {
            let these = match choice {
                Self::Auto => Engine::AUTO,
                Self::One(engine) => std::slice::from_ref(engine),
            };
            engines.extend(these.iter().copied().filter(|engine| !engines.contains(engine)).collect::<Vec<_>>());
        }
        engines
    }
}

/// Parses one word of `--engine`.
///
/// # Errors
/// A word that names no engine.
pub fn engine(text: &str) -> Result<EngineChoice, String> {
    if text == "auto" { Ok(EngineChoice::Auto) } else { text.parse().map(EngineChoice::One) }
}
