//! Errors in the users of a gateway.

use std::fmt;
use std::path::Path;

/// An invalid user: place, reason and remedy. Never holds a password or a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersError {
    place: String,
    cause: String,
    remedy: String,
}

impl UsersError {
    pub(crate) fn new(place: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place: place.into(), cause: cause.into(), remedy: remedy.into() }
    }

    /// Returns the reason, and the user if known.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// Returns the remedy.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// Returns the place: an option, a file or `FILE:LINE`.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Creates the error of a line, counted from 1, of a file.
    pub(super) fn at(path: &Path, line: usize, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(format!("{}:{line}", path.display()), cause, remedy)
    }
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.cause, self.remedy)
    }
}

impl std::error::Error for UsersError {}
