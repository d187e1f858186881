//! Outcome of one turn of a direction, for the worker that schedules it.

use std::time::Duration;

use super::fault::Fault;

/// Bytes that a direction may move before other directions and tunnels have their turn.
pub(super) const QUANTUM: usize = 1 << 20;

/// Outcome of a turn of one direction.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing can be done until the kernel reports readiness.
    Blocked,
    /// The direction has to run again without an event: the quantum is used up, or more may
    /// follow.
    Yielded,
    /// There is something to do after this time; no event announces it.
    RetryAfter(Duration),
    /// The end of this direction was passed on.
    Finished,
    /// A socket failed.
    Failed(Fault),
}
