//! The engines.

use std::fmt;
use std::io;
use std::str::FromStr;

use tokio::sync::oneshot;

use crate::invalid_value::InvalidValue;
use crate::reason::Reason;
use crate::tunnel::Tunnel;

/// Result of handing a tunnel to an engine: the end of the tunnel to wait for, or the tunnel back
/// with the error.
pub(super) type Adopted = Result<oneshot::Receiver<Reason>, (Box<Tunnel>, io::Error)>;

/// A way of moving the bytes of tunnels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Engine {
    /// io_uring reports readiness, and splice(2) moves the bytes from socket to socket through a
    /// pipe.
    Uring,
    /// epoll(7) reports readiness, and splice(2) moves the bytes as with `Uring`.
    Splice,
    /// A BPF program redirects from socket to socket, with no process needed.
    Sockmap,
    /// read(2) and write(2).
    Copy,
}

impl Engine {
    /// Every engine.
    pub const ALL: &[Self] = &[Self::Uring, Self::Splice, Self::Sockmap, Self::Copy];
    /// Engines that `auto` tries, best first. `sockmap` has to be named, since kernels differ in
    /// their faults with it.
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
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let found = Self::ALL.iter().find(|engine| engine.label() == text);
        found.copied().ok_or_else(|| {
            InvalidValue::new(format!("unknown engine '{text}'"), "use auto, uring, splice, sockmap or copy")
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}
