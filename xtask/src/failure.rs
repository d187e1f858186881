//! One error type: what failed, and the logs of the part that failed.

use std::fmt;
use std::io;
use std::path::Path;

/// Lines of a log that a report shows: the end is where the cause is.
const TAIL_LINES: usize = 15;

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Failure>;

/// What failed, with the ends of the logs that tell why.
#[derive(Debug)]
pub struct Failure {
    what: String,
    logs: Vec<(String, String)>,
}

impl Failure {
    /// A failure in one sentence, with the remedy where there is one.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), logs: Vec::new() }
    }

    /// Adds the last lines of the log at `path`; a log that is empty or absent adds nothing.
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

/// Says what was being done when a system call failed.
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
