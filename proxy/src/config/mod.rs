//! One definition of every option: flags, environment variables, the configuration file, `--help`,
//! man pages, shell completions and the table of options all come from it.
//!
//! The first paragraph of an option's doc comment is its line in `-h`; `--help` and the man pages
//! add the others.

mod addresses;
mod choices;
pub mod error;
mod file;
pub mod heading;
mod lines;
mod options;
pub mod parse;
mod rules;
pub mod settings;
pub mod sources;
pub mod table;
mod users;
mod values;

pub use choices::{Engines, LogFormat, LogLevel, ResolverChoice, engines};
pub use options::{Check, Explain, Serve};
pub use rules::{Operation, Rules};
