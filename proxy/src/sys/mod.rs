//! The kernel's side of the gateway: the only place of `unsafe`.
//!
//! Borrowed descriptors in, `io::Result` out. What rustix or socket2 can do safely is done by them.

pub mod bpf;
pub mod capabilities;
pub mod deadline;
pub mod descriptors;
mod option;
pub mod pacing;
pub mod pipe;
pub mod probe;
pub mod raw_io;
pub mod ring;
pub mod signals;
pub mod socket;
pub mod stream;
pub mod tcp;
pub mod thread;
pub mod user;
