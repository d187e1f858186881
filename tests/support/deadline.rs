//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

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
