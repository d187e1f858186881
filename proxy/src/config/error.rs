//! Errors and warnings of a configuration: the option, where it was set, the cause and the remedy.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use crate::invalid_value::InvalidValue;

/// Place of a setting in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file as it was named.
    pub file: PathBuf,
    /// Line, counted from 1; absent when the file as a whole is meant.
    pub line: Option<usize>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}", self.file.display()),
            None => write!(f, "{}", self.file.display()),
        }
    }
}

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// `serve` refuses to start.
    Error,
    /// `serve` starts, and something is probably not as it was meant.
    Warning,
}

/// One error of a configuration, or one warning about it.
///
/// Displayed as `FILE:LINE: cause; remedy`. It never holds a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Error or warning.
    pub severity: Severity,
    /// Long name of the option without its dashes, if it is about one.
    pub option: Option<String>,
    /// Place of the setting, if it is in a file.
    pub location: Option<Location>,
    /// The failure, with the value, and its cause.
    pub cause: String,
    /// The way out.
    pub remedy: Option<String>,
}

impl ConfigError {
    /// An error about no option in particular.
    pub fn new(cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        let (cause, remedy) = (cause.into(), Some(remedy.into()));
        Self { severity: Severity::Error, option: None, location: None, cause, remedy }
    }

    /// An error about an option, named without its dashes.
    pub fn about(option: &str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { option: Some(option.to_owned()), ..Self::new(cause, remedy) }
    }

    /// Creates an error about an option; the cause names its value.
    pub fn of(option: &str, invalid: InvalidValue) -> Self {
        let InvalidValue { cause, remedy } = invalid;
        let (cause, remedy) = (cause.into_owned(), remedy.map(Cow::into_owned));
        Self { severity: Severity::Error, option: Some(option.to_owned()), location: None, cause, remedy }
    }

    /// A warning about an option.
    pub fn warning(option: &str, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::about(option, cause, remedy) }
    }

    /// Sets the place in a file.
    #[must_use]
    pub fn at(self, location: Location) -> Self {
        Self { location: Some(location), ..self }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if self.severity == Severity::Warning {
            f.write_str("warning: ")?;
        }
        f.write_str(&self.cause)?;
        self.remedy.as_ref().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl Serialize for ConfigError {
    /// The object printed by `check --json`, with every member present: an absent one is `null`.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let file = self.location.as_ref().map(|location| location.file.to_string_lossy());
        let mut object = serializer.serialize_struct("finding", 6)?;
        object.serialize_field("severity", &self.severity)?;
        object.serialize_field("option", &self.option)?;
        object.serialize_field("file", &file)?;
        object.serialize_field("line", &self.location.as_ref().and_then(|location| location.line))?;
        object.serialize_field("message", &self.cause)?;
        object.serialize_field("remedy", &self.remedy)?;
        object.end()
    }
}

/// All errors of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Returns the value, or records the error.
    pub fn collect<T>(&mut self, result: Result<T, impl Into<ConfigError>>) -> Option<T> {
        result.map_err(|error| self.0.push(error.into())).ok()
    }
}

impl fmt::Display for ConfigErrors {
    /// One line for each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            let line_end = if index == 0 { "" } else { "\n" };
            write!(f, "{line_end}{error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_place_cause_and_remedy() {
        let at = Location { file: "gateway.toml".into(), line: Some(7) };
        let error =
            ConfigError::of("listen", InvalidValue::new("--listen 3128: no address", "write 0.0.0.0:3128")).at(at);
        assert_eq!(error.to_string(), "gateway.toml:7: --listen 3128: no address; write 0.0.0.0:3128");
        let json = serde_json::to_value(&error).unwrap();
        let expected = serde_json::json!({
            "severity": "error", "option": "listen", "file": "gateway.toml", "line": 7,
            "message": "--listen 3128: no address", "remedy": "write 0.0.0.0:3128",
        });
        assert_eq!(json, expected);
        let warning = ConfigError::warning("no-auth", "open", "close it");
        assert_eq!(ConfigErrors(vec![warning, error.clone()]).to_string(), format!("warning: open; close it\n{error}"));
    }
}
