//! Unavailability of an engine on a host, and its cause.

use std::fmt;
use std::io;

use super::engine::Engine;

/// An engine that does not work on this host, and the cause.
#[derive(Debug)]
pub struct EngineUnavailable {
    /// The engine.
    pub engine: Engine,
    /// The component that does not work.
    pub part: Component,
    /// Error of the kernel or of the self-test.
    pub error: io::Error,
    /// Remedy, if it is known.
    pub hint: Option<String>,
}

/// A component of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The kernel's description of its types (BTF), which has the offsets of the fields that the
    /// BPF program reads.
    Types,
    /// A kernel that does not panic at a warning.
    PanicOnWarn,
    /// The BPF maps.
    Maps,
    /// The BPF program.
    Program,
    /// splice(2), and a pipe of useful size.
    Splice,
    /// The threads and their pollers: io_uring, epoll(7).
    Threads,
    /// A tunnel through the engine, with a prefix and a half-close each way, of which every byte is
    /// compared.
    Tunnel,
}

impl EngineUnavailable {
    /// Name of the component, as in the manual pages.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match (self.part, self.engine) {
            (Component::Types, _) => "BTF",
            (Component::PanicOnWarn, _) => "kernel.panic_on_warn",
            (Component::Maps, _) => "BPF maps",
            (Component::Program, _) => "BPF program",
            (Component::Splice, _) => "splice",
            (Component::Threads, Engine::Uring) => "io_uring",
            (Component::Threads, _) => "loop threads",
            (Component::Tunnel, _) => "self-test",
        }
    }

    /// Value of the `cause` label of a fallback.
    pub(super) fn cause(&self) -> &'static str {
        if self.part == Component::PanicOnWarn { "panic_on_warn" } else { cause(&self.error) }
    }

    /// Copies this; [`io::Error`] is not `Clone`.
    pub(super) fn duplicate(&self) -> Self {
        let kind = || io::Error::new(self.error.kind(), self.error.to_string());
        let error = self.error.raw_os_error().map_or_else(kind, io::Error::from_raw_os_error);
        Self { engine: self.engine, part: self.part, error, hint: self.hint.clone() }
    }
}

impl fmt::Display for EngineUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.engine, self.what(), self.error)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, ": {hint}"))
    }
}

/// Value of the `cause` label of a tunnel that the engine could not take.
pub(super) fn cause_of_tunnel(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "half_closed",
        Some(libc::ENOSPC | libc::E2BIG) => "slots",
        _ => cause(error),
    }
}

/// See [`EngineUnavailable::cause`].
pub(super) fn cause(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "not_permitted",
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => "not_supported",
        Some(libc::EMFILE | libc::ENFILE) => "descriptors",
        Some(libc::EAGAIN) => "threads",
        Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => "memory",
        _ => match error.kind() {
            io::ErrorKind::QuotaExceeded => "pipe_budget",
            // Every worker has ended.
            io::ErrorKind::BrokenPipe => "threads",
            io::ErrorKind::TimedOut => "self_test_timeout",
            _ => "self_test",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_named_and_counted_by_its_cause() {
        let unfit = |engine, part, errno| EngineUnavailable {
            engine,
            part,
            error: io::Error::from_raw_os_error(errno),
            hint: None,
        };
        for (engine, part, errno, said, cause) in [
            (Engine::Uring, Component::Threads, libc::EPERM, "uring: io_uring: Operation not", "not_permitted"),
            (Engine::Uring, Component::Threads, libc::ENOSYS, "uring: io_uring: Function not", "not_supported"),
            (Engine::Uring, Component::Threads, libc::ENOMEM, "uring: io_uring: Cannot allocate", "memory"),
            (Engine::Splice, Component::Threads, libc::EMFILE, "splice: loop threads: Too many open", "descriptors"),
            (Engine::Splice, Component::Splice, libc::EPERM, "splice: splice: Operation not", "not_permitted"),
            (Engine::Copy, Component::Tunnel, libc::EIO, "copy: self-test: Input/output", "self_test"),
        ] {
            let unfit = unfit(engine, part, errno);
            assert!(unfit.to_string().starts_with(said), "{unfit}");
            assert_eq!(unfit.cause(), cause);
        }
    }
}
