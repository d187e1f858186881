//! `kernel.io_uring_disabled`, a setting of the whole machine: while one test changes it, no other
//! test starts a gateway.

use std::cell::Cell;
use std::fs;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::skipped::skipped;

const FILE: &str = "/proc/sys/kernel/io_uring_disabled";

static UNCHANGED: RwLock<()> = RwLock::new(());

thread_local! {
    /// True on a thread with a changed value; it may start gateways meanwhile.
    static CHANGED: Cell<bool> = const { Cell::new(false) };
}

/// Locks the sysctl against change while a program starts.
pub(crate) fn unchanged() -> Option<RwLockReadGuard<'static, ()>> {
    (!CHANGED.get()).then(|| UNCHANGED.read().unwrap_or_else(PoisonError::into_inner))
}

/// The sysctl with another value; restored when dropped.
#[derive(Debug)]
pub(crate) struct Changed {
    before: String,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Changed {
    /// Prints a note and returns `None` if this test may not change the value.
    pub(crate) fn to(value: u8) -> Option<Self> {
        if std::env::var_os("SLUICEGATE_TEST_FULL").is_none() {
            skipped("changing kernel.io_uring_disabled is for SLUICEGATE_TEST_FULL=1");
            return None;
        }
        let alone = UNCHANGED.write().unwrap_or_else(PoisonError::into_inner);
        let before = fs::read_to_string(FILE).unwrap_or_default();
        if let Err(error) = fs::write(FILE, value.to_string()) {
            skipped(&format!("kernel.io_uring_disabled cannot be changed: {error}"));
            return None;
        }
        CHANGED.set(true);
        Some(Self { before, _alone: alone })
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        CHANGED.set(false);
        fs::write(FILE, &self.before).expect("it could be written before");
    }
}
