//! A child process with its log, killed on drop.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::failure::{Context, Failure, Result};
use crate::interrupt;

/// Timeout for the start of a peer on a loaded machine.
const START_DEADLINE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(10);

/// A running child. Its standard output and error go to a file of its own.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pidfd: OwnedFd,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, logging to `dir/name.log`.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn spawn(name: &str, command: &mut Command, dir: &Path) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::create(&log).context(log.display())?;
        let err = out.try_clone().context(log.display())?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.context(format!("{name}: starting {}", command.get_program().display()))?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).context(name)?;
        Ok(Self { name: name.to_owned(), child, pidfd, log })
    }

    /// Name in reports.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the log.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Process id, for `/proc`.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Output so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits at most `limit` for the process to exit.
    ///
    /// # Errors
    /// The kernel refuses the wait.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        wait_any(&[&*self], limit)?;
        self.child.try_wait().context(&self.name)
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// The process has exited already.
    pub fn terminate(&self) -> Result<()> {
        rustix::process::pidfd_send_signal(&self.pidfd, Signal::TERM).context(&self.name)
    }

    /// Waits at most `limit` until the process has no children, according to the kernel
    /// (proc_tid_children(5)).
    pub(super) fn wait_for_children(&self, limit: Duration) {
        let id = self.id();
        let busy =
            || fs::read_to_string(format!("/proc/{id}/task/{id}/children")).is_ok_and(|ids| !ids.trim().is_empty());
        let deadline = Instant::now() + limit;
        while busy() && Instant::now() < deadline && wait_any(&[], TICK).is_ok() {}
    }

    /// Waits until `ready` returns a value.
    ///
    /// # Errors
    /// The process exits or the timeout expires; the error has the end of the log.
    pub fn ready<T>(&mut self, mut ready: impl FnMut(&Self) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            interrupt::check()?;
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if let Some(status) = self.wait(TICK)? {
                return Err(self.failure(&format!("ended at start ({status})")));
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("was not ready after {} s", START_DEADLINE.as_secs())));
            }
        }
    }

    /// Failure of this process, with the end of the log.
    #[must_use]
    pub fn failure(&self, what: &str) -> Failure {
        Failure::new(format!("{} {what}", self.name)).with_log(&self.name, &self.log)
    }

    /// Tests if this very process listens on `port` of the IPv4 loopback address. Unlike a
    /// connection, the test sends no data to the peer and cannot be answered by another process on
    /// the port.
    #[must_use]
    pub fn listens_on(&self, port: u16) -> bool {
        let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        listening_inode(&table, port).is_some_and(|inode| self.owns_socket(&inode))
    }

    fn owns_socket(&self, inode: &str) -> bool {
        let wanted = format!("socket:[{inode}]");
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.id())) else { return false };
        entries.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == wanted.as_str()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child already waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until one of the processes exits or the time is up.
///
/// # Errors
/// The kernel refuses the wait.
pub(super) fn wait_any(processes: &[&Process], limit: Duration) -> Result<()> {
    let mut fds: Vec<PollFd<'_>> = processes.iter().map(|p| PollFd::new(&p.pidfd, PollFlags::IN)).collect();
    let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut fds, Some(&limit)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("waiting for a child"),
    }
}

/// Inode of the socket listening on `127.0.0.1:port`, from the text of `/proc/net/tcp`
/// (proc_pid_net(5): the address is host-endian hexadecimal, state 0A is LISTEN).
fn listening_inode(table: &str, port: u16) -> Option<String> {
    let address = format!("{:08X}:{port:04X}", u32::from_ne_bytes([127, 0, 0, 1]));
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let found = columns.get(1) == Some(&address.as_str()) && columns.get(3) == Some(&"0A");
        found.then(|| columns.get(9).map(|inode| (*inode).to_owned())).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn only_a_listening_socket_counts() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = || fs::read_to_string("/proc/net/tcp").unwrap();
        assert!(listening_inode(&table(), port).is_some());
        drop(listener);
        assert_eq!(listening_inode(&table(), port), None);
    }

    #[test]
    fn a_child_that_ends_at_start_is_reported_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such module; exit 3"]);
        let mut child = Process::spawn("peer", &mut command, dir.path()).unwrap();
        let error = child.ready(|_| None::<()>).unwrap_err().to_string();
        assert!(error.starts_with("peer ended at start (exit status: 3)"), "{error}");
        assert!(error.ends_with("no such module"), "{error}");
    }

    #[test]
    fn dropping_ends_the_child() {
        let dir = tempfile::tempdir().unwrap();
        let child = Process::spawn("peer", Command::new("sleep").arg("600"), dir.path()).unwrap();
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        assert!(proc.exists());
        drop(child);
        assert!(!proc.exists());
    }
}
