//! Check for the threads of a runtime.

use std::io;
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

/// Tests if `count` threads can be started at once: if not, the runtime would panic.
pub(super) fn has_threads(count: usize) -> io::Result<()> {
    let (hold, held) = mpsc::channel::<()>();
    let held = Mutex::new(held);
    thread::scope(|scope| {
        let wait = || held.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let started = (0..count).map(|_| thread::Builder::new().spawn_scoped(scope, wait).map(drop));
        let result = started.collect::<io::Result<()>>();
        drop(hold);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_can_be_had() {
        has_threads(3).unwrap();
    }
}
