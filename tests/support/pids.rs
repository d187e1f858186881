//! A control group in which a process can start no thread.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Pid;

use super::deadline::eventually;
use super::skipped::skipped;

/// Mount points of the pids controller: version 1, version 2 beside it, version 2 alone.
const PLACES: [&str; 3] = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// A control group of the pids controller. Dropping it removes the group; its process must have
/// been dropped before.
#[derive(Debug)]
pub(crate) struct Pids(PathBuf);

impl Pids {
    /// Moves a process into a new group. Prints a note and returns `None` if no pids group can be
    /// made.
    pub(crate) fn of(pid: Pid) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sluicegate-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        for place in PLACES {
            let group = Self(PathBuf::from(place).join(&name));
            let made = fs::create_dir(&group.0).and_then(|()| fs::metadata(group.0.join("pids.max")));
            if made.and_then(|_| fs::write(group.0.join("cgroup.procs"), pid.to_string())).is_ok() {
                return Some(group);
            }
        }
        skipped("there is no writable control group with the pids controller");
        None
    }

    /// Limits the group to its current number of threads.
    pub(crate) fn freeze(&self) {
        let current = fs::read_to_string(self.0.join("pids.current")).expect("a control group of ours");
        self.limit(current.trim());
    }

    /// Permits any number of threads.
    pub(crate) fn lift(&self) {
        self.limit("max");
    }

    fn limit(&self, threads: &str) {
        fs::write(self.0.join("pids.max"), threads).expect("a control group of ours");
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        // The last thread of a reaped process may still be leaving the group for a moment.
        let gone = || fs::remove_dir(&self.0).is_ok() || !self.0.exists();
        if std::thread::panicking() {
            gone();
        } else {
            eventually("the control group is empty", gone);
        }
    }
}
