//! Descriptor table of this process: its limit, and what each purpose leaves of it to others.
//!
//! A new descriptor gets the lowest free number (open(2)), so that its number says at least how many
//! are in use. Nothing else has to be counted: a purpose that may use the table up to some number
//! gives back what it gets beyond.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Use of a descriptor that peers of tunnels bring about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Pipe of a tunnel, which is slower without.
    Pipe,
    /// Socket of a client or an origin.
    Socket,
}

/// Descriptors below the limit that pipes, and sockets, leave alone; of use before [`divide`] too.
static LEFT: [AtomicU64; 2] = [AtomicU64::new(128), AtomicU64::new(32)];

/// Descriptors that were open at the start.
static INHERITED: AtomicU64 = AtomicU64::new(0);

/// Limit of this process; 0 until it is read.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Raises the limit of this process to its hard limit, and gives what it is then.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Raising the soft limit to the hard one is always permitted (getrlimit(2)); if not, the old one stays.
    let _ = setrlimit(Resource::Nofile, raised);
    read_limit()
}

/// Sets how many descriptors sockets leave to the gateway itself, and how many pipes leave to it and
/// to connections without a tunnel together.
pub fn divide(sockets_leave: u64, pipes_leave: u64) {
    LEFT[Purpose::Pipe as usize].store(pipes_leave, Ordering::Relaxed);
    LEFT[Purpose::Socket as usize].store(sockets_leave, Ordering::Relaxed);
}

/// Checks that a new descriptor leaves enough to other purposes; otherwise it is to be closed.
///
/// # Errors
/// `EMFILE`, as if the limit was that much lower.
pub fn admit(descriptor: impl AsFd, purpose: Purpose) -> io::Result<()> {
    let limit = match LIMIT.load(Ordering::Relaxed) {
        0 => read_limit(),
        limit => limit,
    };
    let number = u64::try_from(descriptor.as_fd().as_raw_fd()).unwrap_or(0);
    let left = LEFT[purpose as usize].load(Ordering::Relaxed);
    if number.saturating_add(left) >= limit { Err(Errno::MFILE.into()) } else { Ok(()) }
}

/// Counts what is open beyond standard input, output and error before the program opens anything: a
/// parent process may leave descriptors open (execve(2)).
pub fn count_inherited() {
    // Without /proc none are known. The descriptor by which the others are listed is the fourth.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
    INHERITED.store(open.saturating_sub(4), Ordering::Relaxed);
}

/// Descriptors that [`count_inherited`] found.
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
