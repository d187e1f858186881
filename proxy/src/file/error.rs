//! Reasons why a file cannot be read, and the time limit that is one of them.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::invalid_value::InvalidValue;

/// Longest wait for a file.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Reason why a file cannot be used, with the remedy where there is a better one than the caller's.
#[derive(Debug)]
pub enum ReadError {
    /// Error of the file system.
    Io(io::Error),
    /// Not a regular file, but one of this kind.
    Kind(&'static str),
    /// More bytes than this limit.
    TooLarge(u64),
    /// A pipe closed before the first byte.
    Empty,
    /// A pipe with a silent writer, or without a writer.
    Silent,
    /// The file system of this file does not answer.
    Stuck(PathBuf),
}

impl ReadError {
    /// Returns the remedy; `None` for an error of the file system itself, because the caller has a
    /// better one.
    #[must_use]
    pub const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Io(_) => None,
            Self::Kind(_) => Some("put a regular file there"),
            Self::TooLarge(_) => Some("name the right file, or make it smaller"),
            Self::Empty | Self::Silent => Some("write the whole file into the pipe, or name a regular file"),
            Self::Stuck(_) => Some("check the mount"),
        }
    }

    /// Returns the cause and the remedy; `remedy` applies if the error has none of its own.
    #[must_use]
    pub fn invalid(&self, remedy: &'static str) -> InvalidValue {
        InvalidValue::new(self.to_string(), self.remedy().unwrap_or(remedy))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = TIMEOUT.as_secs();
        match self {
            Self::Io(error) => write!(f, "cannot be read: {error}"),
            Self::Kind(kind) => write!(f, "cannot be read: {kind}, not a regular file"),
            Self::TooLarge(limit) => write!(f, "cannot be read: larger than {} MiB", limit >> 20),
            Self::Empty => f.write_str("cannot be read: the pipe was empty"),
            Self::Silent => write!(f, "cannot be read: no data from the pipe for {seconds} s"),
            Self::Stuck(path) => {
                write!(f, "cannot be read: the file system of {} has not answered for {seconds} s", path.display())
            }
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
