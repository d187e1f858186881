//! The binary under test, started on ports of the kernel's choice and killed when dropped.

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

use super::admin;
use super::binary::{BINARY, in_clean_environment};
use super::deadline::eventually;
use super::log::{Line, Log};
use super::process::{Outcome, run};
use super::ring_sysctl::unchanged;

/// Engines this process may run: one of them needs capabilities to start.
pub(crate) fn engines() -> &'static [Engine] {
    if missing(FOR_BPF).is_empty() { Engine::ALL } else { Engine::AUTO }
}

/// Start parameters of a gateway.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// A command prefix; ends by executing the gateway.
    wrapper: Vec<String>,
    /// Listen address; loopback if empty.
    address: String,
}

impl Setup {
    /// These options of `serve`, and permission to dial loopback, where the tests' origins listen.
    pub(crate) fn new(arguments: &[&str]) -> Self {
        Self::bare(arguments).args(["--allow", "127.0.0.0/8:*"])
    }

    /// These options of `serve`, and the ones every test needs to find the gateway.
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

    /// Adds the user `NAME:PASSWORD`, through the environment instead of the command line.
    pub(crate) fn user(self, user: &str) -> Self {
        self.variable("SLUICEGATE_USER", user)
    }

    /// Logs at level debug.
    pub(crate) fn debug(self) -> Self {
        self.variable("SLUICEGATE_LOG_LEVEL", "debug")
    }

    /// Sets the descriptor limit (`ulimit -n`).
    pub(crate) fn descriptors(self, limit: u32) -> Self {
        self.under(&["sh", "-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"])
    }

    /// Runs the gateway under a command prefix, which must end by executing it.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Self {
        self.wrapper = wrapper.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets the address for the listeners and the admin listener.
    pub(crate) fn at(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        self
    }

    /// Starts the gateway and waits until it listens.
    pub(crate) fn start(self) -> Gateway {
        let _engines_are_tried = unchanged();
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

    /// Starts a gateway expected to refuse its configuration, and waits for its exit.
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

/// A directory for the control socket, writable by the gateway's user, root or not.
fn folder_for_all() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    set_permissions(folder.path(), Permissions::from_mode(0o1777)).expect("our own folder");
    folder
}

fn control_in(folder: &TempDir) -> PathBuf {
    folder.path().join("control.sock")
}

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    child: Child,
    /// Address of the TLS listener.
    pub(crate) secure: Option<SocketAddr>,
    /// Address of the plain listener.
    pub(crate) address: SocketAddr,
    /// Addresses of all listeners.
    pub(crate) listeners: Vec<SocketAddr>,
    /// Address of the admin listener, for metrics and tunnels.
    pub(crate) admin: SocketAddr,
    /// Address of the metrics listener, for metrics only.
    pub(crate) metrics: Option<SocketAddr>,
    /// Path of the control socket.
    pub(crate) control: PathBuf,
    _folder: TempDir,
    pub(crate) log: Arc<Log>,
    collector: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts a gateway without authentication (`--no-auth`) and with these options.
    pub(crate) fn open(arguments: &[&str]) -> Self {
        Setup::new(&["--no-auth"]).args(arguments.iter().copied()).start()
    }

    /// Waits for the first log line matching the condition, from the start of the log.
    pub(crate) fn log_line(&self, what: &str, condition: impl Fn(&Line) -> bool) -> Line {
        self.log.line(what, condition)
    }

    /// Waits for the closing line of this client's tunnel.
    pub(crate) fn closing_line(&self, client: SocketAddr) -> Line {
        self.log_line("tunnel closed", |line| line.message() == "tunnel closed" && line.is_of(client))
    }

    /// Waits for the refusal line of this client.
    pub(crate) fn refusal_line(&self, client: SocketAddr) -> Line {
        self.log_line("refused", |line| line.message() == "refused" && line.is_of(client))
    }

    /// Sums the series of a metric with these label values, in the order of [`Metric::labels`]; an
    /// empty value matches any.
    pub(crate) fn metric(&self, metric: &Metric, values: &[&str]) -> u64 {
        admin::metric(&admin::get(self.admin, "/metrics").body, metric, values)
    }

    /// Waits until the metric has the expected value.
    pub(crate) fn wait_for_metric(&self, metric: &Metric, values: &[&str], expected: u64) {
        let what = format!("{}{values:?} is {expected}", metric.name);
        eventually(&what, || self.metric(metric, values) == expected);
    }

    /// Live tunnels, from `/api/tunnels`.
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

    /// Waits until the gateway has exited by itself and its last log line is read.
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

/// Name, state and kernel stack of each thread of a process, to tell a slow process from a hung
/// one.
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
