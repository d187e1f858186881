//! Errors in the users of a gateway.

use std::fmt;
use std::path::{Path, PathBuf};

/// Place of a user's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// An option or an argument, by its name.
    Named(&'static str),
    /// A file, and the line in it, counted from 1, if one is meant.
    File(PathBuf, Option<usize>),
}

impl From<&'static str> for Place {
    fn from(name: &'static str) -> Self {
        Self::Named(name)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::File(path, None) => write!(f, "{}", path.display()),
            Self::File(path, Some(line)) => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// An invalid user: place, reason and remedy. Never holds a password or a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersError {
    place: Place,
    cause: String,
    remedy: String,
}

impl UsersError {
    pub(crate) fn new(place: impl Into<Place>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
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

    /// Returns the place of the definition.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Creates the error of a line, counted from 1, of a file.
    pub(super) fn at(path: &Path, line: usize, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Place::File(path.to_owned(), Some(line)), cause, remedy)
    }
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.cause, self.remedy)
    }
}

impl std::error::Error for UsersError {}
