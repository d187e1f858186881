//! List of the engines.

use std::fmt;
use std::str::FromStr;

/// A method of moving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring reports readiness, and splice(2) moves the bytes from socket to socket through a
    /// pipe.
    Uring,
    /// Like `Uring`, but epoll(7) reports readiness.
    Splice,
    /// A BPF program redirects from socket to socket, without any process.
    Sockmap,
    /// read(2) and write(2).
    Copy,
}

impl Engine {
    /// All engines.
    pub const ALL: &[Self] = &[Self::Uring, Self::Splice, Self::Sockmap, Self::Copy];
    /// Engines tried by `auto`, best first. `sockmap` has to be asked for: kernels differ in how
    /// well they support it.
    pub const AUTO: &[Self] = &[Self::Uring, Self::Splice, Self::Copy];

    /// The value of the `engine` label and of `--engine`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Splice => "splice",
            Self::Sockmap => "sockmap",
            Self::Copy => "copy",
        }
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|engine| engine.label() == text);
        found.copied().ok_or_else(|| format!("unknown engine '{text}'; use auto, uring, splice, sockmap or copy"))
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
