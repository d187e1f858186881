//! Error type: a description, and the logs of the failed part.

use std::fmt;
use std::io;
use std::path::Path;

/// Lines of a log shown in a report: the cause is at the end.
const TAIL_LINES: usize = 15;

/// Result with a [`Failure`].
pub type Result<T> = std::result::Result<T, Failure>;

/// Description of a failure, with the ends of the relevant logs.
#[derive(Debug)]
pub struct Failure {
    what: String,
    logs: Vec<(String, String)>,
}

impl Failure {
    /// Creates a failure from one sentence, with the remedy if known.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), logs: Vec::new() }
    }

    /// Adds the last lines of the log at `path`; an empty or absent log adds nothing.
    #[must_use]
    pub fn with_log(mut self, name: &str, path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        if !tail.is_empty() {
            self.logs.push((name.to_owned(), tail.join("\n")));
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for (name, tail) in &self.logs {
            write!(f, "\n\n--- {name} ---\n{tail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Adds the attempted operation to an error.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] that begins with `what`.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{what}: {}", error.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_ends_with_the_end_of_the_log() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..40).map(|n| format!("line {n}\n")).collect();
        std::fs::write(log.path(), text).unwrap();
        let report = Failure::new("it broke").with_log("part", log.path()).to_string();
        assert!(report.starts_with("it broke\n\n--- part ---\nline 25\n"), "{report}");
        assert!(report.ends_with("line 39"), "{report}");
    }

    #[test]
    fn an_absent_log_adds_nothing() {
        let report = Failure::new("it broke").with_log("part", Path::new("/nonexistent/log")).to_string();
        assert_eq!(report, "it broke");
    }
}
