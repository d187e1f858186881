//! A child process with its log; ended when dropped, and all that it started.

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

/// How long a program may take to start on a loaded machine.
const START: Duration = Duration::from_secs(20);

/// How long it may take to end when it is asked to.
const END: Duration = Duration::from_secs(3);

/// How long what ends may take to be gone.
const SOON: Duration = Duration::from_millis(500);

const TICK: Duration = Duration::from_millis(5);

/// Lines of a log that an error shows: the end is where the cause is.
const TAIL: usize = 12;

/// A running child, and the folder with its configuration.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// In memory, so that not even a run that is killed leaves it behind.
    log: File,
    folder: Option<TempDir>,
}

/// A folder for what a program reads and writes.
///
/// # Errors
/// It cannot be made.
pub fn folder() -> io::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("sluicegate-bench-").tempdir()?;
    // Some programs give up root, and read their configuration after that.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(folder)
}

/// A port of the loopback address that nobody has at the moment.
///
/// # Errors
/// There is none.
pub fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

impl Process {
    /// Starts `command`; `folder`, if it needs one, goes with it. It leads a process group of its own, so that
    /// Ctrl-C reaches this tool alone, which then ends it. Its standard input ends when this does.
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

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn log(&self) -> String {
        let length = self.log.metadata().map_or(0, |metadata| metadata.len());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        // What is written meanwhile is not read, and a log never gets shorter.
        let read = self.log.read_exact_at(&mut bytes, 0);
        read.map_or_else(|_| String::new(), |()| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// How it ended, if it has or does so soon: its sockets are closed a moment before it is gone.
    pub fn ends(&mut self) -> Option<ExitStatus> {
        self.ends_within(SOON)
    }

    fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.ended() {
                None if Instant::now() < deadline => thread::park_timeout(TICK),
                status => return status,
            }
        }
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    /// It ends before that, or takes too long: with the end of its log.
    pub fn ready<T>(&mut self, mut ready: impl FnMut(&Self) -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + START;
        loop {
            interrupt::check()?;
            if let Some(status) = self.ended() {
                return Err(self.failure(&format!("ended at start ({status})")));
            }
            if let Some(value) = ready(self) {
                return Ok(value);
            }
            if Instant::now() > deadline {
                return Err(self.failure(&format!("was not ready after {} s", START.as_secs())));
            }
            thread::park_timeout(TICK);
        }
    }

    /// Waits until it takes connections at `address`.
    ///
    /// # Errors
    /// As [`Process::ready`].
    pub fn accepts(&mut self, address: SocketAddr) -> io::Result<()> {
        self.ready(|_| TcpStream::connect(address).ok()).map(drop)
    }

    /// An error of this process, with the end of its log.
    #[must_use]
    pub fn failure(&self, what: &str) -> io::Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        let shown = if tail.is_empty() { "it wrote no log".to_owned() } else { format!("the end of its log:\n{tail}") };
        io::Error::other(format!("{} {what}; {shown}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = Pid::from_child(&self.child);
        // A master ends its workers when it is asked to; killed, it would leave them behind.
        let _ = kill_process_group(group, Signal::TERM);
        self.ends_within(END);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
        // Last: nobody reads it any more.
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
        // The master dies of the signal; its child does not heed it.
        let mut peer = shell("sh -c 'trap \"\" TERM; exec sleep 600' & echo $!; wait");
        let id = peer.ready(|peer| peer.log().lines().next().map(str::to_owned)).unwrap();
        let folder = peer.folder.as_ref().unwrap().path().to_owned();
        assert!(Path::new(&format!("/proc/{id}")).exists() && folder.exists());
        drop(peer);
        let there = || fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| !stat.contains(" Z "));
        let deadline = Instant::now() + START;
        while there() {
            assert!(Instant::now() < deadline, "{id} is still there");
            thread::park_timeout(TICK);
        }
        assert!(!folder.exists());
    }
}
