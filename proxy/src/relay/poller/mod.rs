//! Sources of readiness for workers: epoll(7) for the engines `splice` and `sockmap`, io_uring for
//! the engine `uring`. Only in this do these engines differ.

mod epoll;
mod poll_source;
mod uring;

pub(super) use epoll::Epoll;
pub(super) use poll_source::{Event, Key, Mask, Poller};
pub(super) use uring::Uring;

#[cfg(test)]
pub(super) mod tampered;
#[cfg(test)]
mod tests;
