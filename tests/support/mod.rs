//! What the tests share: a gateway that runs, origins for it, clients of it, and waiting.
//!
//! | file | what is in it |
//! |---|---|
//! | `forger` | segments that no kernel would send just so |
//! | `gateway` | the binary under test, started and watched |
//! | `kernel_log` | what the kernel complains of |
//! | `name_server` | a DNS server that answers as a test says |
//! | `network` | a network of the test's own |
//! | `log` | its log lines |
//! | `admin` | its admin address, asked by hand |
//! | `origin` | what stands behind it |
//! | `client` | what stands before it |
//! | `noise` | random bytes that both ends can make |
//! | `ring_sysctl` | `kernel.io_uring_disabled`, changed by one test at a time |
//! | `pids` | a control group in which no thread can be started |
//! | `process` | other programs, and what the kernel says of a process |
//! | `seccomp` | system calls that the kernel refuses |
//! | `tls` | certificates, and a front that speaks TLS for clients |
//! | `stranger` | a user without any privilege |

use std::thread;
use std::time::{Duration, Instant};

pub(crate) mod admin;
pub(crate) mod client;
pub(crate) mod forger;
pub(crate) mod gateway;
pub(crate) mod kernel_log;
pub(crate) mod log;
pub(crate) mod name_server;
pub(crate) mod network;
pub(crate) mod noise;
pub(crate) mod origin;
pub(crate) mod pids;
pub(crate) mod process;
pub(crate) mod ring_sysctl;
pub(crate) mod seccomp;
pub(crate) mod stranger;
pub(crate) mod tls;

pub(crate) use client::{connect, connect_as};
pub(crate) use gateway::{Gateway, Setup, in_clean_environment};
pub(crate) use noise::Noise;
pub(crate) use origin::Origin;

/// How long anything that has to happen may take: far longer than it ever takes, so that a loaded
/// machine does not fail a test, and short enough to see one that hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}
