//! The binary under test, started with ports of the kernel's choice and killed when dropped.

use std::fs::{Permissions, set_permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use sluicegate::metrics::Metric;
use sluicegate::relay::Engine;
use sluicegate::sys::capabilities::{FOR_BPF, missing};
use tempfile::TempDir;

use super::log::{Line, Log};
use super::process::{Outcome, run};
use super::{admin, eventually};

/// The program that is tested.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_sluicegate");

/// The engines that this process may run: one takes capabilities to start.
pub(crate) fn engines() -> &'static [Engine] {
    if missing(FOR_BPF).is_empty() { Engine::ALL } else { Engine::AUTO }
}

/// How a gateway is to be started.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// A command that runs the command behind it.
    wrapper: Vec<String>,
    /// Where it listens; loopback if empty.
    address: String,
}

impl Setup {
    /// With these options of `serve`, and leave to go to loopback, where the tests' origins are.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self::bare(arguments).args(["--allow", "127.0.0.0/8:*"])
    }

    /// With these options of `serve` and what every test needs to find the gateway.
    pub(crate) fn bare(arguments: &[&str]) -> Self {
        Self { arguments: arguments.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    pub(crate) fn args<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    pub(crate) fn variable(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Lets in `NAME:PASSWORD`, without showing it on the command line.
    pub(crate) fn user(self, user: &str) -> Self {
        self.variable("SLUICEGATE_USER", user)
    }

    /// With lines of level debug in the log.
    pub(crate) fn debug(self) -> Self {
        self.variable("SLUICEGATE_LOG_LEVEL", "debug")
    }

    /// With room for so many descriptors (`ulimit -n`).
    pub(crate) fn descriptors(self, limit: u32) -> Self {
        self.under(&["sh", "-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"])
    }

    /// Under a command that becomes the one behind it.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Listening at this address of its own, for its admin as well.
    pub(crate) fn at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// Starts it, and waits until it listens.
    pub(crate) fn start(self) -> Gateway {
        let _engines_are_tried = super::ring_sysctl::unchanged();
        let mut gateway = self.spawn();
        let line = gateway.log_line("listening", |line| line.message() == "listening");
        let listeners = line.text("listen").split(',').map(|address| address.parse().expect("an address"));
        gateway.listeners = listeners.collect();
        gateway.address = gateway.listeners[0];
        gateway.secure = line.text("listen_tls").split(',').next().and_then(|address| address.parse().ok());
        gateway.admin = line.text("admin").parse().expect("the admin address");
        gateway.metrics = line.text("metrics").parse().ok();
        gateway
    }

    /// Starts it where it has to refuse to run, and waits for that.
    pub(crate) fn refused(self) -> Outcome {
        let folder = folder_for_all();
        run(self.command(&folder), b"")
    }

    fn spawn(self) -> Gateway {
        let folder = folder_for_all();
        let mut child = self.command(&folder).stderr(Stdio::piped()).spawn().expect("the gateway starts");
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().expect("a pipe");
        let collector = thread::spawn({
            let log = log.clone();
            move || log.collect(stderr)
        });
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Gateway {
            child,
            address: nowhere,
            secure: None,
            listeners: Vec::new(),
            admin: nowhere,
            metrics: None,
            control: control_in(&folder),
            _folder: folder,
            log,
            collector: Some(collector),
        }
    }

    fn command(self, folder: &TempDir) -> Command {
        let words: Vec<_> = self.wrapper.iter().map(String::as_str).chain([BINARY]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let address = format!("{}:0", if self.address.is_empty() { "127.0.0.1" } else { &self.address });
        command.args(["serve", "--listen", &address, "--admin", &address, "--log", "json"]);
        command.args(self.arguments);
        in_clean_environment(&mut command).env("SLUICEGATE_CONTROL", control_in(folder));
        command.envs(self.variables).stdin(Stdio::null());
        command
    }
}

/// A folder for the control socket, of whatever user the gateway is.
fn folder_for_all() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("our own folder");
    folder
}

fn control_in(folder: &TempDir) -> PathBuf {
    folder.path().join("control.sock")
}

/// Without the variables that whoever runs the tests may have set for a gateway of their own, and without a control
/// socket at the default path, which belongs to the host.
pub(crate) fn in_clean_environment(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICEGATE_") {
            command.env_remove(name);
        }
    }
    command.env("SLUICEGATE_CONTROL", "none")
}

/// A gateway that runs.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    /// Where it accepts the tests' clients.
    /// Where clients speak TLS with it.
    pub(crate) secure: Option<SocketAddr>,
    pub(crate) address: SocketAddr,
    /// Everywhere that it accepts clients.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Where it shows metrics and tunnels.
    pub(crate) admin: SocketAddr,
    /// Where it shows metrics alone.
    pub(crate) metrics: Option<SocketAddr>,
    /// Where it is told to change something.
    pub(crate) control: PathBuf,
    _folder: TempDir,
    pub(crate) log: Arc<Log>,
    collector: Option<JoinHandle<()>>,
}

impl Gateway {
    /// An open one (`--no-auth`) with these options.
    pub(crate) fn open(arguments: &[&str]) -> Self {
        Setup::new(&["--no-auth"]).args(arguments.iter().copied()).start()
    }

    /// The first line of the log of which this holds, past or to come.
    pub(crate) fn log_line(&self, what: &str, condition: impl Fn(&Line) -> bool) -> Line {
        self.log.line(what, condition)
    }

    /// The closing line of this client's tunnel.
    pub(crate) fn closing_line(&self, client: SocketAddr) -> Line {
        self.log_line("tunnel closed", |line| line.message() == "tunnel closed" && line.is_of(client))
    }

    /// The line that says why this client was refused.
    pub(crate) fn refusal_line(&self, client: SocketAddr) -> Line {
        self.log_line("refused", |line| line.message() == "refused" && line.is_of(client))
    }

    /// The sum of the series of a metric whose labels have these values, in the order of
    /// [`Metric::labels`]; an empty value stands for any.
    pub(crate) fn metric(&self, metric: &Metric, values: &[&str]) -> u64 {
        admin::metric(&admin::get(self.admin, "/metrics").body, metric, values)
    }

    /// Waits until the metric has this value.
    pub(crate) fn wait_for_metric(&self, metric: &Metric, values: &[&str], expected: u64) {
        let what = format!("{}{values:?} is {expected}", metric.name);
        eventually(&what, || self.metric(metric, values) == expected);
    }

    /// The live tunnels, as `/api/tunnels` shows them.
    pub(crate) fn tunnels(&self) -> Vec<Value> {
        let answer = admin::get(self.admin, "/api/tunnels");
        serde_json::from_str(&answer.body).expect("an array of tunnels")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the gateway is there to be told");
    }

    /// Waits until it has ended by itself, and until its last line is read.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the gateway ends", || {
            status = self.child.try_wait().expect("a child of this process");
            status.is_some()
        });
        self.collector.take().into_iter().for_each(|collector| collector.join().expect("it does not panic"));
        status.expect("just seen")
    }
}

/// The name, the state and the kernel's stack of each thread of a process, to tell a slow one from one that hangs.
fn threads_of(pid: Pid) -> String {
    let folders = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = folders.map(|folder| {
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        let status = read("status");
        let state = status.lines().find(|line| line.starts_with("State:")).unwrap_or_default();
        format!("{} {state}\n{}", read("comm").trim_end(), read("stack"))
    });
    texts.collect()
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the gateway's threads:\n{}", threads_of(self.pid()));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.collector.take().map(JoinHandle::join);
        let text = self.log.text();
        if thread::panicking() {
            let lines: Vec<_> = text.lines().collect();
            eprintln!("the gateway's last lines:\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        } else {
            assert!(!text.contains("panicked"), "{text}");
        }
    }
}
