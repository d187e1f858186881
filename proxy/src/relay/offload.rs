//! The boundary between the workers and an engine that has the kernel move the bytes of a tunnel.
//!
//! The pump moves the bytes of every tunnel at first. A worker whose engine can offload has an
//! [`Offloader`], and hands a tunnel to it as soon as the pump holds none of its bytes. From then
//! on the tunnel has an [`Offload`], which the pump asks for the directions that it owns.

use std::fmt::Debug;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use super::step::Step;
use crate::tunnel::{Direction, Flow};

/// Calls the worker of a tunnel, named by its number, to run its next step.
pub(super) type Notify = Box<dyn Fn(u64) + Send>;

/// Hands tunnels to the kernel.
pub(super) trait Offloader: Debug + Send + Sync {
    /// Hands over the sockets of tunnel `id`, client first. Everything that was read from one of
    /// them has been sent on the other.
    ///
    /// # Errors
    /// Neither direction is offloaded then: EOPNOTSUPP if a socket has received FIN or a reset,
    /// ENOSPC if the kernel has no room for a further tunnel, or another error of the kernel.
    fn offload(&self, id: u64, sockets: [&TcpStream; 2], flow: &Arc<Flow>) -> io::Result<Box<dyn Offload>>;

    /// Calls `notify` for every tunnel that needs a step, until the returned value is dropped.
    ///
    /// # Errors
    /// Those of starting a thread.
    fn start_notifier(&self, notify: Notify) -> io::Result<Box<dyn Debug + Send + Sync>>;
}

/// One tunnel of which the kernel moves at least one direction. Dropped, it is taken from the
/// kernel.
pub(super) trait Offload: Debug + Send {
    /// Tests whether the kernel owns this direction; otherwise the pump keeps it.
    fn owns(&self, direction: Direction) -> bool;

    /// Does what userspace has to do for a direction that the kernel owns.
    fn step(&mut self, direction: Direction, sockets: [&TcpStream; 2], source: SourceState<'_>) -> Step;

    /// Tests whether the destination's send buffer has had every byte of a direction.
    fn has_sent_all(&self, direction: Direction, sockets: [&TcpStream; 2]) -> bool;
}

/// Known state of a direction's source, and memory lent to the step.
#[derive(Debug)]
pub(super) struct SourceState<'a> {
    /// The peer has sent FIN or a reset.
    pub(super) read_closed: bool,
    /// The connection broke.
    pub(super) broken: bool,
    pub(super) scratch: &'a mut [u8],
    pub(super) now: Instant,
}
