//! Other programs, and kernel data about a process.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open, setrlimit,
};

use sluicegate_xtask::migration::{Process, start_listener};
use tempfile::TempDir;

use super::binary::{BINARY, in_clean_environment};
use super::deadline::eventually;
use super::skipped::skipped;

/// Exit code and output of a program.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs a subcommand of the gateway's binary.
pub(crate) fn sluicegate<A: AsRef<OsStr>>(arguments: &[A], variables: &[(&str, &str)]) -> Outcome {
    let mut command = Command::new(BINARY);
    in_clean_environment(command.args(arguments)).envs(variables.iter().copied());
    let _engines_are_tried = super::ring_sysctl::unchanged();
    run(command, b"")
}

/// Runs a program to its own end, with `input` on standard input.
pub(crate) fn run(mut command: Command, input: &[u8]) -> Outcome {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")));
    let mut stdin = child.0.stdin.take().expect("a pipe");
    let mut stdout = child.0.stdout.take().expect("a pipe");
    let mut stderr = child.0.stderr.take().expect("a pipe");
    let mut status = None;
    let (out, err) = thread::scope(|scope| {
        // A program may close its standard input unread: not a failure of the test.
        scope.spawn(move || drop(stdin.write_all(input)));
        let out = scope.spawn(move || text(&mut stdout));
        let err = scope.spawn(move || text(&mut stderr));
        eventually(&format!("{command:?} ends"), || {
            status = child.0.try_wait().expect("a child of this process");
            status.is_some()
        });
        (out.join().expect("it does not panic"), err.join().expect("it does not panic"))
    });
    Outcome { code: status.and_then(|status| status.code()), out, err }
}

fn text(from: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the program; if it is missing, prints a note and returns `None` so the test can be
/// skipped. With `SLUICEGATE_TEST_FULL=1` a missing program is a failure naming its Debian package.
pub(crate) fn program(name: &'static str, package: &str) -> Option<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|directory| directory.join(name).is_file()) {
        return Some(name);
    }
    let full = std::env::var_os("SLUICEGATE_TEST_FULL").is_some_and(|value| value == "1");
    assert!(!full, "{name} is missing: apt install {package}");
    skipped(&format!("there is no {name} (apt install {package})"));
    None
}

/// A child process, killed at the end of its test.
#[derive(Debug)]
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Raises the soft descriptor limit of this process to the hard limit.
pub(crate) fn raise_descriptor_limit() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("always permitted (getrlimit(2))");
}

/// Reports if /proc/PID/fd of a gateway is readable, and prints a note if not: the gateway is not
/// dumpable, so its own user cannot read it (ptrace(2), "Ptrace access mode checking").
pub(crate) fn sees_descriptors() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        skipped("the descriptors of a gateway are root's to see");
    }
    is_root
}

/// Number of open descriptors of a process.
pub(crate) fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("root sees them").count()
}

/// Peak resident memory of a process in bytes (`VmHWM`, proc(5)).
pub(crate) fn peak_memory(pid: Pid) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process of ours");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line of its memory");
    let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes << 10
}

/// Duplicates the sockets of a process connected to these addresses into this process.
pub(crate) fn sockets_to(pid: Pid, peers: [SocketAddr; 2]) -> [OwnedFd; 2] {
    let open = shared_descriptors(pid);
    peers.map(|peer| {
        let to_it = |socket: &&OwnedFd| {
            let address = socket2::SockRef::from(socket).peer_addr();
            address.is_ok_and(|address| address.as_socket() == Some(peer))
        };
        open.iter().find(to_it).expect("its end").try_clone().expect("a descriptor")
    })
}

/// Duplicates every descriptor of a process except its standard streams into this process.
pub(crate) fn shared_descriptors(pid: Pid) -> Vec<OwnedFd> {
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("a process of ours");
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours").flatten();
    let numbers = open.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    numbers
        .filter(|number| *number > 2)
        .filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok())
        .collect()
}

/// Replaces a file atomically, by rename.
pub(crate) fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).expect("a file");
    fs::rename(new, file).expect("it takes the place");
}

/// HAProxy instances with their files in one temporary directory.
pub(crate) struct Haproxies {
    program: &'static str,
    directory: TempDir,
}

impl Haproxies {
    /// Prints a note and returns `None` if HAProxy is not installed.
    pub(crate) fn new() -> Option<Self> {
        let program = program("haproxy", "haproxy")?;
        Some(Self { program, directory: tempfile::tempdir().expect("a directory") })
    }

    /// Starts an instance by name. `text` gives its configuration, time-outs excepted, for the port
    /// it is to listen on.
    pub(crate) fn start(&self, name: &str, text: impl Fn(u16) -> String) -> (Process, u16) {
        const DEFAULTS: &str =
            "global\n  maxconn 50\ndefaults\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n";
        let started = start_listener(name, self.directory.path(), |port| {
            let file = self.directory.path().join(format!("{name}.cfg"));
            fs::write(&file, format!("{DEFAULTS}{}", text(port))).expect("a file");
            let mut command = Command::new(self.program);
            command.arg("-db").arg("-f").arg(file);
            Ok(command)
        });
        started.unwrap_or_else(|failure| panic!("{failure}"))
    }
}
