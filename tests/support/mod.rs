//! Support for the tests: a running gateway, origins, clients, and waiting.
//!
//! | file | contents |
//! |---|---|
//! | `forger` | handmade TCP segments, cut as no kernel would cut them |
//! | `binary` | the binary under test |
//! | `deadline` | waiting for a condition |
//! | `gateway` | a gateway, started and watched |
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
//! | `skipped` | tests that cannot run here |
//! | `stranger` | a user without any privilege |

pub(crate) mod admin;
pub(crate) mod binary;
pub(crate) mod client;
pub(crate) mod deadline;
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
pub(crate) mod skipped;
pub(crate) mod stranger;
pub(crate) mod tls;

pub(crate) use binary::in_clean_environment;
pub(crate) use client::{connect, connect_as};
pub(crate) use deadline::{DEADLINE, eventually};
pub(crate) use gateway::{Gateway, Setup};
pub(crate) use noise::Noise;
pub(crate) use origin::Origin;
