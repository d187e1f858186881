//! A user without any privilege, whom nobody else is.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Gid, Pid, Resource, Rlimit, Uid, getrlimit, getuid, prlimit};
use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
use sluicegate::sys::pipe::{Pipe, WANTED_CAPACITY};
use tempfile::TempDir;

use super::gateway::BINARY;
use super::process::{program, run, skipped};

/// A user, and a copy of the gateway that this user can run wherever the build is.
#[derive(Debug)]
pub(crate) struct Stranger {
    uid: u32,
    folder: TempDir,
}

/// User numbers that no system gives away: above those of real and dynamic users and of their subordinates.
const FIRST: u32 = 2_000_000_000;

impl Stranger {
    /// `None`, with a word, where this process cannot be another user.
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        program("setpriv", "util-linux")?;
        // Other runs of these tests have strangers of their own.
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

    /// The command that runs the gateway as this user, after a line of shell, whatever path of it follows.
    pub(crate) fn wrapper(&self, line: &str) -> Vec<String> {
        self.wrapper_with(&[], line)
    }

    /// The same, with these capabilities (`CAP_...`) and no others.
    pub(crate) fn wrapper_with(&self, capabilities: &[&str], line: &str) -> Vec<String> {
        let binary = self.folder.path().join("sluicegate").to_str().expect("a plain path").to_owned();
        let script = format!("{line}; shift; exec \"$0\" \"$@\"");
        let shell = ["sh".to_owned(), "-c".to_owned(), script, binary];
        let names = capabilities.iter().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
        let names = format!("=-all{}", names.collect::<String>());
        let privileges = ["--inh-caps", "--ambient-caps", "--bounding-set"].map(|set| format!("{set}{names}"));
        ["setpriv".to_owned()].into_iter().chain(self.prefix()).chain(privileges).chain(shell).collect()
    }

    /// Sets how many processes and threads this user may have, for a process of this user.
    pub(crate) fn limit_processes(&self, process: Pid, count: u64) {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.uid));
        // As that user: for root it takes CAP_SYS_RESOURCE, which a container may lack.
        let limited = thread::spawn(move || {
            set_thread_res_gid(gid, gid, gid).expect("root can be in any group");
            set_thread_res_uid(uid, uid, uid).expect("root can be anybody");
            let maximum = getrlimit(Resource::Nproc).maximum;
            prlimit(Some(process), Resource::Nproc, Rlimit { current: Some(count), maximum }).map(drop)
        });
        limited.join().expect("it does not panic").expect("a user may lower and raise the limit of its processes");
    }

    /// Pipes that use up the budget of this user (`pipe-user-pages-soft`) while they are held; `None` where
    /// there is no such limit. Pages are counted for who makes the pipe, and a thread can be somebody else
    /// than its process.
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
