//! Description of the machine for a result.

use std::fs;
use std::io;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::flow;
use crate::{affinity, namespace, socket};

/// The machine and the circumstances of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Kernel release.
    pub kernel: String,
    /// Cores available to this process.
    pub cores: usize,
    /// Processor model.
    pub processor: String,
    /// MiB of memory.
    pub memory_mib: u64,
    /// Default congestion control of a connection over loopback.
    pub congestion_control: String,
    /// True if the sockets of the bench and of the gateway could choose cubic instead.
    pub chosen: bool,
    /// `net.core.wmem_max`: maximum send buffer without CAP_NET_ADMIN, in bytes.
    #[serde(default)]
    pub send_buffers: u64,
    /// True if the run had a network namespace of its own.
    pub namespace: bool,
    /// True if the ends of the ping-pong had priority over the load.
    pub priority: bool,
    /// The date in UTC.
    pub date: String,
    /// Load generator.
    pub generator: String,
}

impl Host {
    /// Reads the description. `mixed`: the mode of the origin.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn look(mixed: bool) -> io::Result<Self> {
        let threads = flow::threads();
        let ends = if mixed { "their tunnels mixed" } else { "their tunnels paired" };
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path)?;
            let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
            Ok::<_, io::Error>(line.trim_start_matches([' ', '\t', ':']).to_owned())
        };
        let memory = field("/proc/meminfo", "MemTotal")?;
        let memory: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Ok(Self {
            kernel: field("/proc/sys/kernel/osrelease", "")?,
            cores: std::thread::available_parallelism()?.into(),
            processor: field("/proc/cpuinfo", "model name")?,
            memory_mib: memory >> 10,
            congestion_control: namespace::congestion_control()?,
            chosen: socket::may_choose(),
            send_buffers: field("/proc/sys/net/core/wmem_max", "")?.parse().unwrap_or(0),
            namespace: namespace::inside(),
            priority: affinity::has_priority(),
            date: date(),
            generator: format!(
                "epoll, {threads} threads a side, on a core each where there are as many tunnels, {ends}, sendfile(2) and MSG_TRUNC"
            ),
        })
    }

    /// Describes the machine in a sentence or two.
    #[must_use]
    pub fn describe(&self) -> String {
        let network = if self.namespace { "a network namespace of its own" } else { "loopback of the host" };
        let control = &self.congestion_control;
        let others = if self.chosen && control != socket::CONGESTION_CONTROL {
            " for those who cannot choose, cubic for the bench and the gateway"
        } else {
            ""
        };
        let priority = if self.priority { "" } else { " The ends of the ping-pong had no priority over the load." };
        format!(
            "{date}, Linux {kernel}, {cores} cores shared with the load generator ({processor}), {network}, {control}{others}, send buffers up to {buffers} KiB \
             (net.core.wmem_max). \
             Load generator: {generator}.{priority}",
            date = self.date,
            buffers = self.send_buffers >> 10,
            kernel = self.kernel,
            cores = self.cores,
            processor = self.processor,
            generator = self.generator
        )
    }
}

/// Date of today by date(1): the standard library has no calendar.
fn date() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).stderr(Stdio::null()).output();
    output.map_or_else(|_| "undated".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
