//! The command line.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::effort::Effort;
use crate::rated::Rates;
use crate::setup::{far_end, usual_engines};
use sluicegate_bench::contender::{Kind, Programs};
use sluicegate_bench::flow::Role;
use sluicegate_bench::socket::{Proxy, Route};

/// Measures tunnel gateways against no proxy at all
#[derive(Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Task,
}

#[derive(Subcommand)]
pub(crate) enum Task {
    /// Compare throughput, latency and cost of no proxy, the engines, other proxies, and a running
    /// proxy
    Compare(Compare),
    /// Measure the cost of 1 to 10,000 tunnels, with no proxy and with the engines
    Scale(Scale),
    /// Measure the accuracy of `--rate` and `--rate-per-user`
    Rates(Rates),
    /// Print the measured block of docs/benchmarks.md from a result file
    Readme {
        /// Result file, written by --json
        file: PathBuf,
        /// Show the plots from this folder
        #[arg(long, value_name = "DIR")]
        images: Option<String>,
    },
    /// Draw the plots of a result file
    Plots {
        /// Result file, written by --json
        file: PathBuf,
        /// Folder for the SVG files
        folder: PathBuf,
    },
    /// Measure throughput
    Bulk {
        #[command(flatten)]
        path: Path,
        /// Concurrent tunnels
        #[arg(long, default_value_t = 4)]
        tunnels: usize,
        /// Length of the measurement
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Direction of the bytes
        #[arg(long, default_value = "down")]
        direction: Direction,
    },
    /// Measure the latency of small messages
    Ping {
        #[command(flatten)]
        path: Path,
        /// Message size in bytes
        #[arg(long, default_value_t = 64)]
        size: usize,
        /// Length of the measurement
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Bulk tunnels to the client beside the ping-pong; messages have 64 bytes
        #[arg(long, value_name = "TUNNELS", conflicts_with = "size")]
        beside: Option<usize>,
    },
    /// Measure tunnels opened and closed per second
    Connects {
        #[command(flatten)]
        path: Path,
        /// Concurrent clients
        #[arg(long, default_value_t = 4)]
        clients: usize,
        /// Length of the measurement
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// Carry 64 KiB to the client in each tunnel
        #[arg(long)]
        carry: bool,
    },
    /// Measure the cost of idle tunnels to the proxy's process and its children
    Idle {
        #[command(flatten)]
        path: Path,
        /// Number of idle tunnels
        #[arg(long, default_value_t = 2_000)]
        tunnels: usize,
        /// Process id of the proxy
        #[arg(long)]
        pid: u32,
    },
    /// Send random bytes to an echo and compare the received bytes
    Verify {
        #[command(flatten)]
        path: Path,
        /// Concurrent tunnels
        #[arg(long, default_value_t = 1)]
        tunnels: usize,
        /// MiB to send through each tunnel
        #[arg(long, default_value_t = 256)]
        mib: u64,
    },
    /// Serve as the origin; prints its address, and exits when its standard input closes
    Origin {
        /// Listen address
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Distribute the sockets of each client thread over all threads
        #[arg(long)]
        mixed: bool,
    },
    /// Relay to a fixed target with tokio-uring; prints its address, and exits when its standard
    /// input closes
    Relay {
        /// Listen address
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
        /// Target address
        #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
        target: SocketAddr,
    },
}

#[derive(Args)]
pub(crate) struct Compare {
    /// Take two minutes instead of twenty: less of everything, and no scaling
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) rivals: ContenderOptions,
    /// Numbers of bulk tunnels to measure
    #[arg(long, default_value = "1,4,64", value_delimiter = ',', value_name = "LIST")]
    pub(crate) tunnels: Vec<usize>,
    #[command(flatten)]
    pub(crate) effort: Effort,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args)]
pub(crate) struct Scale {
    /// Take ten seconds for each contender instead of a minute
    #[arg(long)]
    pub(crate) quick: bool,
    #[command(flatten)]
    pub(crate) rivals: ContenderOptions,
    #[command(flatten)]
    pub(crate) effort: Effort,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Destinations of the result, beside the table on standard output.
#[derive(Args)]
pub(crate) struct Output {
    /// Write every sample, and a description of the machine, to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Draw SVG plots into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) plots: Option<PathBuf>,
}

/// Contenders to compare.
#[derive(Args)]
pub(crate) struct ContenderOptions {
    /// Contenders beside no proxy [default: all; engines alone for scale and with --against]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    contenders: Option<Vec<Kind>>,
    /// Path of the gateway to start
    #[arg(long, default_value = "target/release/sluicegate", value_name = "PROGRAM")]
    gateway: PathBuf,
    /// Engines of the gateway, each optionally followed by options of `serve`, as in 'uring --spin
    /// 0s' [default: all engines, and this example; `sockmap` only as root]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    engines: Option<Vec<String>>,
    /// Path of nginx, instead of the system's
    #[arg(long, value_name = "PROGRAM")]
    nginx: Option<PathBuf>,
    /// Path of HAProxy, instead of the system's
    #[arg(long, value_name = "PROGRAM")]
    haproxy: Option<PathBuf>,
    /// Address of a running proxy, reached from the host's network: the bench makes no namespace
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub(crate) against: Option<SocketAddr>,
    /// Credentials for the running proxy
    #[arg(long, requires = "against", value_name = "NAME:PASSWORD")]
    user: Option<String>,
    /// The running proxy is a TCP proxy with --target as its fixed upstream, not a CONNECT proxy
    #[arg(long, requires = "against", requires = "target", conflicts_with = "user")]
    plain: bool,
    /// Address of a running origin (`sluicegate-bench origin`) [default: start one]
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    pub(crate) target: Option<SocketAddr>,
    /// Do not pair the two ends of a tunnel on the same two threads, the fastest case without a
    /// proxy
    #[arg(long, conflicts_with = "target")]
    pub(crate) mixed: bool,
}

impl ContenderOptions {
    /// Programs to start, and their kinds with the engines first: `usual` unless overridden.
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

    /// The running proxy, if given.
    pub(crate) fn running(&self) -> Option<Proxy> {
        let proxy = |address| Proxy::Connect { address, user: self.user.clone() };
        self.against.map(|address| if self.plain { Proxy::Plain(address) } else { proxy(address) })
    }
}

#[derive(Args)]
pub(crate) struct Path {
    /// Address of a CONNECT proxy [default: connect straight to the target]
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    proxy: Option<SocketAddr>,
    /// Credentials for the proxy
    #[arg(long, value_name = "NAME:PASSWORD")]
    user: Option<String>,
    /// The proxy is a TCP proxy with --target as its fixed upstream, not a CONNECT proxy
    #[arg(long, requires = "proxy", requires = "target", conflicts_with = "user")]
    plain: bool,
    /// Address of a running origin (`sluicegate-bench origin`) [default: start one]
    #[arg(long, value_name = "HOST:PORT", value_parser = resolve)]
    target: Option<SocketAddr>,
    /// Do not pair the two ends of a tunnel on the same two threads, the fastest case without a
    /// proxy
    #[arg(long, conflicts_with = "target")]
    mixed: bool,
}

impl Path {
    /// Runs `measure` over this path.
    pub(crate) fn on(self, measure: impl FnOnce(&Route) -> io::Result<()>) -> io::Result<()> {
        let (_own, origin) = far_end(self.target, self.mixed)?;
        let proxy = self.proxy.map(|address| match self.plain {
            true => Proxy::Plain(address),
            false => Proxy::Connect { address, user: self.user },
        });
        measure(&Route { proxy, origin })
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Direction {
    Up,
    Down,
    Both,
}

impl Direction {
    /// Role of the client for this direction.
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
