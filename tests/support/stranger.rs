//! A user of its own without any privilege.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Gid, Pid, Resource, Rlimit, Uid, getrlimit, getuid, prlimit};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use sluicegate::sys::pipe::{Pipe, WANTED_CAPACITY};
use tempfile::TempDir;

use super::binary::BINARY;
use super::process::{program, run};
use super::skipped::skipped;

/// A user, and a copy of the gateway executable by this user, wherever the build directory is.
#[derive(Debug)]
pub(crate) struct Stranger {
    uid: u32,
    folder: TempDir,
}

/// First user number, above those of real, dynamic and subordinate users.
const FIRST: u32 = 2_000_000_000;

impl Stranger {
    /// Prints a note and returns `None` if this process cannot change its user.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        program("setpriv", "util-linux")?;
        // Concurrent runs of these tests get other numbers.
        let uid = FIRST + std::process::id() % 10_000_000 * 8 + COUNT.fetch_add(1, Ordering::Relaxed) % 8;
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
        fs::copy(BINARY, folder.path().join("sluicegate")).expect("a copy of the gateway");
        let stranger = Self { uid, folder };
        let mut command = Command::new("setpriv");
        command.args(stranger.prefix()).arg("true");
        if !getuid().is_root() || run(command, b"").code != Some(0) {
            skipped("to be another user needs root");
            return None;
        }
        Some(stranger)
    }

    pub(crate) const fn uid(&self) -> u32 {
        self.uid
    }

    fn prefix(&self) -> [String; 3] {
        [format!("--reuid={}", self.uid), format!("--regid={}", self.uid), "--clear-groups".to_owned()]
    }

    /// A command prefix: runs a line of shell, then this user's copy of the gateway instead of the
    /// path following the prefix.
    pub(crate) fn wrapper(&self, line: &str) -> Vec<String> {
        self.wrapper_with(&[], line)
    }

    /// As [`Self::wrapper`], with exactly these capabilities (`CAP_...`).
    pub(crate) fn wrapper_with(&self, capabilities: &[&str], line: &str) -> Vec<String> {
        let binary = self.folder.path().join("sluicegate").to_str().expect("a plain path").to_owned();
        let script = format!("{line}; shift; exec \"$0\" \"$@\"");
        let shell = ["sh".to_owned(), "-c".to_owned(), script, binary];
        let names = capabilities.iter().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
        let names = format!("=-all{}", names.collect::<String>());
        let privileges = ["--inh-caps", "--ambient-caps", "--bounding-set"].map(|set| format!("{set}{names}"));
        ["setpriv".to_owned()].into_iter().chain(self.prefix()).chain(privileges).chain(shell).collect()
    }

    /// Sets the limit of processes and threads of this user, on a process of this user.
    pub(crate) fn limit_processes(&self, process: Pid, count: u64) {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        // Set as this user: root would need CAP_SYS_RESOURCE, which a container may lack.
        let limited = thread::spawn(move || {
            set_thread_res_gid(gid, gid, gid).expect("root can be in any group");
            set_thread_res_uid(uid, uid, uid).expect("root can be anybody");
            let maximum = getrlimit(Resource::Nproc).maximum;
            prlimit(Some(process), Resource::Nproc, Rlimit { current: Some(count), maximum }).map(drop)
        });
        limited.join().expect("it does not panic").expect("a user may lower and raise the limit of its processes");
    }

    /// Opens pipes until this user's budget (`pipe-user-pages-soft`) is used up, and returns them;
    /// `None` if the host has no such limit. The kernel charges pages to the user of the creating
    /// thread, and a thread may run as another user than its process.
    pub(crate) fn every_pipe(&self) -> Option<Vec<Pipe>> {
        let uid = Uid::from_raw(self.uid);
        let thread = thread::spawn(move || {
            set_thread_res_uid(uid, uid, uid).expect("root can be anybody");
            let mut held = Vec::new();
            while held.len() < 1_000 {
                let pipe = Pipe::new().expect("descriptors for a pipe");
                if pipe.capacity() < WANTED_CAPACITY {
                    return Some(held);
                }
                held.push(pipe);
            }
            None
        });
        thread.join().expect("it does not panic")
    }
}
