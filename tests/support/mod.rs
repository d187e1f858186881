//! Support for the tests: a running gateway, origins, clients, and waiting.
//!
//! | file | contents |
//! |---|---|
//! | `forger` | handmade TCP segments, cut as no kernel would cut them |
//! | `gateway` | the binary under test, started and watched |
//! | `kernel_log` | complaints in the kernel log |
//! | `name_server` | a DNS server with scripted answers |
//! | `network` | a pair of network namespaces for one test |
//! | `log` | log lines of the gateway |
//! | `admin` | raw requests to the admin address |
//! | `origin` | origins |
//! | `client` | clients |
//! | `noise` | random bytes, reproducible at both ends |
//! | `ring_sysctl` | `kernel.io_uring_disabled`, changed by one test at a time |
//! | `pids` | a control group in which no thread can be started |
//! | `process` | other programs, and kernel data about a process |
//! | `seccomp` | system calls refused by the kernel |
//! | `tls` | certificates, and a TLS front for clients without TLS |
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

/// Time limit for every wait, 30 seconds: long enough for a loaded machine to pass, short enough to
/// show a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::park_timeout(Duration::from_millis(2));
    }
}
