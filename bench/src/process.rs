//! A child process with its log. Dropping ends the process and all its descendants.

use std::fs::{self, File};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::interrupt;

/// Timeout for the start of a program on a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Timeout after SIGTERM.
const TERM_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeout for a process about to exit.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Lines of a log shown in an error: the cause is at the end.
const LOG_TAIL_LINES: usize = 12;

/// A running child, and the folder with its configuration.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Log in memory, so that even a killed run leaves no file.
    log: File,
    folder: Option<TempDir>,
}

/// Creates a temporary folder for a program's files.
///
/// # Errors
/// The folder cannot be created.
pub fn folder() -> io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("sluicegate-bench-").tempdir()?;
    // Some programs drop root, and read their configuration afterwards.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(folder)
}

/// Finds a free port of the loopback address.
///
/// # Errors
/// There is none.
pub fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Process {
    /// Starts `command` and owns `folder`. The child leads a process group of its own, so that
    /// Ctrl-C reaches the bench alone, and the bench ends the child. The child's standard input
    /// closes with the bench.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn start(name: &str, command: &mut Command, folder: Option<TempDir>) -> io::Result<Self> {
        let log = File::from(memfd_create("bench-log", MemfdFlags::CLOEXEC)?);
        command.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log.try_clone()?).process_group(0);
        let program = Path::new(command.get_program()).display().to_string();
        let child = command.spawn();
        let child = child.map_err(|error| io::Error::new(error.kind(), format!("{name}: starting {program}: {error}")));
        Ok(Self { name: name.to_owned(), child: child?, log, folder })
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Output so far.
    #[must_use]
    pub fn log(&self) -> String {
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        // Later output is not read; a log never shrinks.
        let read = self.log.read_exact_at(&mut bytes, 0);
        read.map_or_else(|_| String::new(), |()| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Exit status, if the process has exited.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Exit status, if the process exits within 500 ms: its sockets close a moment earlier.
    pub fn ends(&mut self) -> Option<ExitStatus> {
        self.ends_within(EXIT_TIMEOUT)
    }

    fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.ended() {
                None if Instant::now() < deadline => thread::park_timeout(POLL_INTERVAL),
                status => return status,
            }
        }
    }

    /// Waits until `ready` returns a value.
    ///
    /// # Errors
    /// The process exits or the timeout expires; the error has the end of the log.
    pub fn ready<T>(&mut self, mut ready: impl FnMut(&Self) -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            interrupt::check()?;
            if let Some(status) = self.ended() {
                return Err(self.failure(&format!("ended at start ({status})")));
            }
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("was not ready after {} s", START_TIMEOUT.as_secs())));
            }
            thread::park_timeout(POLL_INTERVAL);
        }
    }

    /// Waits until the process accepts connections at `address`.
    ///
    /// # Errors
    /// Like [`Process::ready`].
    pub fn accepts(&mut self, address: SocketAddr) -> io::Result<()> {
        self.ready(|_| TcpStream::connect(address).ok()).map(drop)
    }

    /// Error of this process, with the end of its log.
    #[must_use]
    pub fn failure(&self, what: &str) -> io::Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        let shown = if tail.is_empty() { "it wrote no log".to_owned() } else { format!("the end of its log:\n{tail}") };
        io::Error::other(format!("{} {what}; {shown}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // A master ends its workers on SIGTERM; SIGKILL would leave them running.
        let _ = kill_process_group(group, Signal::TERM);
        self.ends_within(TERM_TIMEOUT);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        // Removed last, after the exit of every reader.
        drop(self.folder.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::start("peer", Command::new("sh").args(["-c", script]), folder().ok()).unwrap()
    }

    #[test]
    fn a_child_that_ends_at_start_is_reported_with_its_log() {
        let error = shell("echo no such module; exit 3").ready(|_| None::<()>).unwrap_err().to_string();
        assert_eq!(error, "peer ended at start (exit status: 3); the end of its log:\nno such module");
    }

    #[test]
    fn dropping_ends_the_child_and_what_it_started() {
        // The master dies of the signal; its child ignores it.
        let mut peer = shell("sh -c 'trap \"\" TERM; exec sleep 600' & echo $!; wait");
        let id = peer.ready(|peer| peer.log().lines().next().map(str::to_owned)).unwrap();
        let folder = peer.folder.as_ref().unwrap().path().to_owned();
        assert!(Path::new(&format!("/proc/{id}")).exists() && folder.exists());
        drop(peer);
        let there = || fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(" Z "));
        let deadline = Instant::now() + START_TIMEOUT;
        while there() {
            assert!(Instant::now() < deadline, "{id} is still there");
            thread::park_timeout(POLL_INTERVAL);
        }
        assert!(!folder.exists());
    }
}
