//! Descriptor table of this process: its limit, and the share each purpose leaves to others.
//!
//! A new descriptor gets the lowest free number (open(2)), so its number is a lower bound of the
//! descriptors in use. Nothing else has to be counted: a purpose allowed to use the table up to
//! some number closes any descriptor beyond it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Purpose of a descriptor opened on behalf of a tunnel's peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Pipe of a tunnel; without it the tunnel is slower.
    Pipe,
    /// Socket of a client or an origin.
    Socket,
}

/// Descriptors below the limit left alone by pipes, and by sockets; in force before [`divide`] too.
static LEFT: [AtomicU64; 2] = [AtomicU64::new(128), AtomicU64::new(32)];

/// Number of descriptors open at the start.
static INHERITED: AtomicU64 = AtomicU64::new(0);

/// Limit of this process; 0 until it is read.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Raises the limit of this process to its hard limit; returns the limit.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Raising the soft limit to the hard one is always permitted (getrlimit(2)); on failure the old
    // one stays.
    let _ = setrlimit(Resource::Nofile, raised);
    read_limit()
}

/// Sets the number of descriptors left by sockets to the gateway itself, and by pipes to the
/// gateway and to connections without a tunnel together.
pub fn divide(sockets_leave: u64, pipes_leave: u64) {
    LEFT[Purpose::Pipe as usize].store(pipes_leave, Ordering::Relaxed);
    LEFT[Purpose::Socket as usize].store(sockets_leave, Ordering::Relaxed);
}

/// Checks that a new descriptor leaves enough to other purposes; otherwise the caller has to close
/// it.
///
/// # Errors
/// `EMFILE`, as if the limit were lower by the reserve.
pub fn admit(descriptor: impl AsFd, purpose: Purpose) -> io::Result<()> {
    let limit = match LIMIT.load(Ordering::Relaxed) {
        0 => read_limit(),
        limit => limit,
    };
    let number = u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or(0);
    let left = LEFT[purpose as usize].load(Ordering::Relaxed);
    if number.saturating_add(left) >= limit { Err(Errno::MFILE.into()) } else { Ok(()) }
}

/// Counts the open descriptors besides standard input, output and error, before the program opens
/// any: a parent process may leave descriptors open (execve(2)).
pub fn count_inherited() {
    // Without /proc none are known. The descriptor used to list the others is the fourth.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    INHERITED.store(open.saturating_sub(4), Ordering::Relaxed);
}

/// Number of descriptors found by [`count_inherited`].
#[must_use]
pub fn inherited() -> u64 {
    INHERITED.load(Ordering::Relaxed)
}

fn read_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    LIMIT.store(limit, Ordering::Relaxed);
    limit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_low_enough_is_admitted_for_every_purpose() {
        let limit = read_limit();
        let low = std::fs::File::open("/dev/null").unwrap();
        let number = u64::try_from(low.as_raw_fd()).unwrap();
        assert!(limit > number + 128, "the limit of descriptors is too low for this test");
        for purpose in [Purpose::Pipe, Purpose::Socket] {
            assert!(admit(&low, purpose).is_ok());
        }
        let Ok(high) = rustix::io::fcntl_dupfd_cloexec(&low, i32::try_from(limit.min(1 << 20) - 1).unwrap()) else {
            panic!("a descriptor below the limit can be had");
        };
        if limit <= 1 << 20 {
            for purpose in [Purpose::Pipe, Purpose::Socket] {
                let refused = admit(&high, purpose).unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(libc::EMFILE), "{purpose:?}");
            }
        }
    }
}
