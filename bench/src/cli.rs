//! The command line.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::effort::Effort;
use crate::rated::Rates;
use sluicegate_bench::contender::{Kind, Programs};
use sluicegate_bench::flow::Role;
use sluicegate_bench::origin;
use sluicegate_bench::process::Process;
use sluicegate_bench::socket::{Proxy, Way};

/// Measures tunnel gateways against no proxy at all
#[derive(Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Task,
}

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Everything, over no proxy, the engines of the gateway, other proxies, and one that runs already
    Compare(Compare),
    /// What tunnels cost from 1 to 10,000 of them, over no proxy and the engines
    Scale(Scale),
    /// How exactly the gateway keeps to `--rate` and `--rate-per-user`
    Rates(Rates),
    /// Print the measured block of docs/benchmarks.md for a result on file
    Readme {
        /// What --json wrote
        file: PathBuf,
        /// Show the plots, which are in this folder
        #[arg(long, value_name = "DIR")]
        images: Option<String>,
    },
    /// Draw the plots of a result on file
    Plots {
        /// What --json wrote
        file: PathBuf,
        /// Where the SVG files go
        folder: PathBuf,
    },
    /// Throughput
    Bulk {
        #[command(flatten)]
        path: Path,
        /// Tunnels at once
        #[arg(long, default_value_t = 4)]
        tunnels: usize,
        /// Length of the measurement
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Which way the bytes go
        #[arg(long, default_value = "down")]
        direction: Direction,
    },
    /// Latency of small messages
    Ping {
        #[command(flatten)]
        path: Path,
        /// Bytes of a message
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Length of the measurement
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Bulk tunnels to the client beside it; the messages are of 64 bytes then
        #[arg(long, value_name = "TUNNELS", conflicts_with = "size")]
        beside: Option<usize>,
    },
    /// Tunnels opened and closed a second
    Connects {
        #[command(flatten)]
        path: Path,
        /// Clients at once
        #[arg(long, default_value_t = 4)]
        clients: usize,
        /// Length of the measurement
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Each carries 64 KiB to the client
        #[arg(long)]
        carry: bool,
    },
    /// The cost of idle tunnels to a process of the proxy and its children
    Idle {
        #[command(flatten)]
        path: Path,
        /// Tunnels
        #[arg(long, default_value_t = 2_000)]
        tunnels: usize,
        /// The proxy's process
        #[arg(long)]
        pid: u32,
    },
    /// Send random bytes to an echo and compare what comes back
    Verify {
        #[command(flatten)]
        path: Path,
        /// Tunnels at once
        #[arg(long, default_value_t = 1)]
        tunnels: usize,
        /// MiB to send through each
        #[arg(long, default_value_t = 256)]
        mib: u64,
    },
    /// Serve as the far end; prints its address, and ends with its standard input
    Origin {
        /// Where
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Have the sockets of each thread of the client on all threads in turn
        #[arg(long)]
        mixed: bool,
    },
    /// Relay to a fixed target by tokio-uring; prints its address, and ends with its standard input
    Relay {
        /// Where
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Where to
        #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
        target: SocketAddr,
    },
}

#[derive(Args)]
pub(crate) struct Compare {
    /// Two minutes instead of twenty: less of everything, and no scaling
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) rivals: Rivals,
    /// Numbers of bulk tunnels
    #[arg(long, default_value = "1,4,64", value_delimiter = ',', value_name = "LIST")]
    pub(crate) tunnels: Vec<usize>,
    #[command(flatten)]
    pub(crate) effort: Effort,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct Scale {
    /// Ten seconds for each contender instead of a minute
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) rivals: Rivals,
    #[command(flatten)]
    pub(crate) effort: Effort,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Where the result goes beside the table on standard output.
#[derive(Args)]
pub(crate) struct Output {
    /// Write every sample, and what the machine is, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw SVG plots into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
}

/// Who is compared.
#[derive(Args)]
pub(crate) struct Rivals {
    /// Beside no proxy [default: all; of scale, and with --against, the engines alone]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    contenders: Option<Vec<Kind>>,
    /// The gateway to start
    #[arg(long, default_value = "target/release/sluicegate", value_name = "PROGRAM")]
    gateway: PathBuf,
    /// Its engines; options of `serve` may stand behind a name, as in 'uring --spin 0s' [default: all of them, and that
    /// one; `sockmap` for root alone]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    engines: Option<Vec<String>>,
    /// Another nginx than the system's
    #[arg(long, value_name = "PROGRAM")]
    nginx: Option<PathBuf>,
    /// Another HAProxy than the system's
    #[arg(long, value_name = "PROGRAM")]
    haproxy: Option<PathBuf>,
    /// A proxy that runs already; it is reached from the host's network, so no namespace is made
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub(crate) against: Option<SocketAddr>,
    /// NAME:PASSWORD for that one
    #[arg(long, requires = "against", value_name = "NAME:PASSWORD")]
    user: Option<String>,
    /// That one is no CONNECT proxy, but passes every connection to --target
    #[arg(long, requires = "against", requires = "target", conflicts_with = "user")]
    plain: bool,
    /// An origin of this tool that runs already (`sluicegate-bench origin`); none: one of its own
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub(crate) target: Option<SocketAddr>,
    /// Do not let the two ends of a tunnel meet in the same two threads, which is what no proxy is fastest with
    #[arg(long, conflicts_with = "target")]
    pub(crate) mixed: bool,
}

impl Rivals {
    /// The programs to start, and which of them, the engines first; `usual` unless the user says otherwise.
    pub(crate) fn programs(&self, usual: &[Kind]) -> (Programs, Vec<Kind>) {
        let usual = if self.against.is_some() { &[Kind::Engines] } else { usual };
        let mut kinds = self.contenders.clone().unwrap_or_else(|| usual.to_vec());
        kinds.sort_unstable();
        kinds.dedup();
        let programs = Programs {
            gateway: self.gateway.clone(),
            engines: self.engines.clone().unwrap_or_else(usual_engines),
            nginx: self.nginx.clone(),
            haproxy: self.haproxy.clone(),
        };
        (programs, kinds)
    }

    /// What runs already.
    pub(crate) fn running(&self) -> Option<Proxy> {
        let proxy = |address| Proxy::Connect { address, user: self.user.clone() };
        self.against.map(|address| if self.plain { Proxy::Plain(address) } else { proxy(address) })
    }
}

/// One of the engines needs capabilities to start.
pub(crate) fn usual_engines() -> Vec<String> {
    let all = ["uring", "uring --spin 0s", "splice", "sockmap", "copy"];
    let may = |engine: &&str| *engine != "sockmap" || rustix::process::geteuid().is_root();
    all.into_iter().filter(may).map(str::to_owned).collect()
}

#[derive(Args)]
pub(crate) struct Path {
    /// A CONNECT proxy; none: straight to the target
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    proxy: Option<SocketAddr>,
    /// NAME:PASSWORD for it
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Option<String>,
    /// It is no CONNECT proxy, but passes every connection to --target
    #[arg(long, requires = "proxy", requires = "target", conflicts_with = "user")]
    plain: bool,
    /// An origin of this tool that runs already; none: one of its own
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    target: Option<SocketAddr>,
    /// Do not let the two ends of a tunnel meet in the same two threads, which is what no proxy is fastest with
    #[arg(long, conflicts_with = "target")]
    mixed: bool,
}

impl Path {
    /// Measures over it.
    pub(crate) fn on(self, measure: impl FnOnce(&Way) -> io::Result<()>) -> io::Result<()> {
        let (_own, origin) = far_end(self.target, self.mixed)?;
        let proxy = self.proxy.map(|address| match self.plain {
            true => Proxy::Plain(address),
            false => Proxy::Connect { address, user: self.user },
        });
        measure(&Way { proxy, origin })
    }
}

/// The origin at `target`, or one of the bench's own, which lives as long as the process that comes with it.
pub(crate) fn far_end(target: Option<SocketAddr>, mixed: bool) -> io::Result<(Option<Process>, SocketAddr)> {
    if let Some(target) = target {
        return Ok((None, target));
    }
    let (process, address) = origin::spawn(SocketAddr::from(([127, 0, 0, 1], 0)), mixed)?;
    Ok((Some(process), address))
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Direction {
    Up,
    Down,
    Both,
}

impl Direction {
    /// What this side does then.
    pub(crate) const fn role(self) -> Role {
        match self {
            Self::Up => Role::Source,
            Self::Down => Role::Sink,
            Self::Both => Role::Both,
        }
    }
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    let mut addresses = text.to_socket_addrs().map_err(|error| error.to_string())?;
    addresses.next().ok_or_else(|| "no address".to_owned())
}
