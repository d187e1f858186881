//! Interface to the kernel: the only place of `unsafe`.
//!
//! Takes borrowed descriptors and returns `io::Result`. Uses rustix or socket2 where they can do
//! the work safely.
#![expect(unsafe_code, reason = "system calls without a safe wrapper, each with its argument")]

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
