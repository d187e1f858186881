//! Why an engine does not work on a host: as a label, and as words with a remedy.

use std::fmt;
use std::fs;
use std::io;

use super::Engine;

/// An engine that did not work on this host, and why.
#[derive(Debug)]
pub struct Unfit {
    /// Which.
    pub engine: Engine,
    /// What of it did not work.
    pub part: Part,
    /// What the kernel, or the self-test, said.
    pub error: io::Error,
}

/// What an engine needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// splice(2), and a pipe for it that is worth having.
    Splice,
    /// Its threads and what they wait by: io_uring, epoll(7).
    Threads,
    /// A tunnel through it, with a prefix and a half-close each way, whose every byte is compared.
    Tunnel,
}

impl Unfit {
    /// What was refused, as the manual pages call it.
    #[must_use]
    pub const fn what(&self) -> &'static str {
        match (self.part, self.engine) {
            (Part::Splice, _) => "splice",
            (Part::Threads, Engine::Uring) => "io_uring_setup",
            (Part::Threads, _) => "loop threads",
            (Part::Tunnel, _) => "self-test",
        }
    }

    /// What an operator can do about it, as far as the host tells; nothing where only the error does.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        let ring = self.part == Part::Threads && self.engine == Engine::Uring;
        let remedy = match self.error.raw_os_error()? {
            libc::EPERM | libc::EACCES if ring => return Some(permission(disabled())),
            libc::ENOSYS if ring && !filtered() => "the kernel is built without io_uring",
            libc::EOPNOTSUPP if ring => "the kernel is too old for this use of io_uring: 5.13 has what it takes",
            libc::EPERM | libc::EACCES | libc::ENOSYS if filtered() => {
                "a seccomp filter refuses it: allow it in the container's profile (podman run --security-opt \
                 seccomp=PROFILE)"
            }
            libc::ENOMEM if ring => {
                "RLIMIT_MEMLOCK is too small for its rings: LimitMEMLOCK=infinity, ulimit -l, or CAP_IPC_LOCK"
            }
            libc::EMFILE => "raise the descriptor limit (LimitNOFILE=, ulimit -n)",
            libc::ENFILE => "raise fs.file-max",
            _ => return None,
        };
        Some(remedy.to_owned())
    }

    /// The `cause` label of a fallback: the error's name without its numbers.
    pub(super) fn cause(&self) -> &'static str {
        cause(&self.error)
    }
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.engine, self.what(), self.error)?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// `kernel.io_uring_disabled`, where the kernel has it (6.6) and /proc can be read.
fn disabled() -> Option<u8> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// What refused io_uring_setup(2) with EPERM (`io_uring/io_uring.c`, `io_uring_allowed`).
fn permission(disabled: Option<u8>) -> String {
    match disabled {
        Some(2) => "kernel.io_uring_disabled is 2: sysctl -w kernel.io_uring_disabled=0".to_owned(),
        Some(1) => "kernel.io_uring_disabled is 1: sysctl -w kernel.io_uring_disabled=0, or put the gateway's group \
                    into kernel.io_uring_group"
            .to_owned(),
        _ => "a seccomp filter or a security module refuses it: start the container with a profile that allows \
              io_uring_setup, io_uring_enter and io_uring_register"
            .to_owned(),
    }
}

/// This process runs under a seccomp filter (`Seccomp: 2`, proc(5)).
fn filtered() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// See [`Unfit::cause`].
pub(super) fn cause(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "not_permitted",
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => "not_supported",
        Some(libc::EMFILE | libc::ENFILE) => "descriptors",
        Some(libc::ENOMEM | libc::ENOBUFS | libc::ENOSPC) => "memory",
        _ => match error.kind() {
            io::ErrorKind::QuotaExceeded => "pipe_budget",
            io::ErrorKind::TimedOut => "self_test_timeout",
            _ => "self_test",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_refuses_comes_with_a_remedy() {
        let said = |engine, part, errno| Unfit { engine, part, error: io::Error::from_raw_os_error(errno) }.to_string();
        assert!(said(Engine::Uring, Part::Threads, libc::ENOMEM).contains("RLIMIT_MEMLOCK"));
        assert!(said(Engine::Uring, Part::Threads, libc::EPERM).starts_with("uring: io_uring_setup: Operation"));
        assert_eq!(
            said(Engine::Splice, Part::Threads, libc::EMFILE),
            "splice: loop threads: Too many open files (os error 24); raise the descriptor limit (LimitNOFILE=, ulimit -n)"
        );
        assert_eq!(said(Engine::Copy, Part::Tunnel, libc::EIO), "copy: self-test: Input/output error (os error 5)");
        for (disabled, words) in [(Some(2), "sysctl -w"), (Some(1), "io_uring_group"), (None, "seccomp")] {
            assert!(permission(disabled).contains(words));
        }
    }
}
