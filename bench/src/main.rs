//! Measures tunnel gateways by their address alone: load generator, origin, comparison.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use sluicegate_bench::compare::{self, Plan};
use sluicegate_bench::contender::Contender;
use sluicegate_bench::flow::Role;
use sluicegate_bench::socket::Way;
use sluicegate_bench::{load, machine, origin, report};

/// Measures CONNECT gateways against no proxy at all
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Serve as the far end; prints its address, and ends with its standard input
    Origin {
        /// Where.
        #[arg(long, default_value = "127.0.0.1:0")]
        listen: SocketAddr,
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
    },
    /// The cost of idle tunnels to a process of the proxy
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
        /// MiB to send
        #[arg(long, default_value_t = 256)]
        mib: usize,
    },
    /// Everything, over no proxy, the engines of a gateway, and one that runs already
    Compare {
        /// Seconds instead of minutes
        #[arg(long)]
        quick: bool,
        /// The gateway to start
        #[arg(long, default_value = "target/release/sluicegate")]
        gateway: PathBuf,
        /// Its engines
        #[arg(long, default_value = "splice,copy", value_delimiter = ',')]
        engines: Vec<String>,
        /// A CONNECT proxy that runs already
        #[arg(long, value_name = "HOST:PORT")]
        against: Option<SocketAddr>,
        /// NAME:PASSWORD for that one
        #[arg(long)]
        user: Option<String>,
        /// Numbers of bulk tunnels
        #[arg(long, default_value = "1,4,64", value_delimiter = ',')]
        tunnels: Vec<usize>,
        /// Write every sample to this file
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

#[derive(Args)]
struct Path {
    /// A CONNECT proxy; none: straight to the target
    #[arg(long, value_name = "HOST:PORT")]
    proxy: Option<SocketAddr>,
    /// NAME:PASSWORD for it
    #[arg(long)]
    user: Option<String>,
    /// An origin of this tool that runs already; none: one of its own
    #[arg(long, value_name = "HOST:PORT")]
    target: Option<SocketAddr>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Direction {
    Up,
    Down,
    Both,
}

fn main() -> ExitCode {
    machine::raise_descriptors();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluicegate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> io::Result<()> {
    match task {
        Task::Origin { listen } => {
            println!("{}", origin::start(listen)?);
            io::copy(&mut io::stdin(), &mut io::sink()).map(|_| ())
        }
        Task::Bulk { path, tunnels, seconds, direction } => path.on(|way| {
            let role = match direction {
                Direction::Up => Role::Source,
                Direction::Down => Role::Sink,
                Direction::Both => Role::Both,
            };
            let bulk = load::bulk(way, tunnels, role, Duration::from_secs_f64(seconds))?;
            println!("{:.2} GiB/s, {:.3} CPU s/GiB, {tunnels} tunnels", bulk.gib_per_second, bulk.cpu_per_gib);
            Ok(())
        }),
        Task::Ping { path, size, seconds } => path.on(|way| {
            let samples = load::ping(way, size, Duration::from_secs_f64(seconds))?;
            let [p50, p99] = [0.5, 0.99].map(|share| samples.percentile(share));
            println!("{size} bytes: p50 {p50:.1} us, p99 {p99:.1} us, {} round trips", samples.0.len());
            Ok(())
        }),
        Task::Connects { path, clients, seconds } => path.on(|way| {
            let result = load::connects(way, clients, Duration::from_secs_f64(seconds))?;
            let [p50, p99] = [0.5, 0.99].map(|share| result.latency.percentile(share));
            println!("{:.0} tunnels/s, p50 {p50:.0} us, p99 {p99:.0} us, {clients} clients", result.per_second);
            Ok(())
        }),
        Task::Idle { path, tunnels, pid } => path.on(|way| {
            let idle = load::idle(way, tunnels, pid)?;
            println!("{:.2} KiB, {:.2} descriptors, {:.2} threads each", idle.kib, idle.descriptors, idle.threads);
            Ok(())
        }),
        Task::Verify { path, mib } => path.on(|way| {
            load::verify(way, mib * 16, 42)?;
            println!("{mib} MiB sent and came back unchanged");
            Ok(())
        }),
        Task::Compare { quick, gateway, engines, against, user, tunnels, json } => {
            let origin = OwnOrigin::start()?;
            let mut contenders = vec![Contender::direct(origin.address)];
            contenders.extend(against.map(|proxy| Contender::running(proxy, user, origin.address)));
            for engine in engines {
                contenders.push(Contender::gateway(&gateway, &engine, origin.address)?);
            }
            let (rounds, seconds, idle) = if quick { (3, 0.7, 500) } else { (7, 3.0, 2_000) };
            let plan = Plan { rounds, time: Duration::from_secs_f64(seconds), tunnels, idle };
            let report = compare::compare(&contenders, &plan)?;
            print!("{}", report::markdown(&report));
            json.map_or(Ok(()), |file| std::fs::write(file, serde_json::to_vec_pretty(&report)?))
        }
    }
}

impl Path {
    fn on(self, measure: impl FnOnce(&Way) -> io::Result<()>) -> io::Result<()> {
        let own = if self.target.is_none() { Some(OwnOrigin::start()?) } else { None };
        let origin = self.target.or(own.as_ref().map(|own| own.address));
        let origin = origin.ok_or_else(|| io::Error::other("no origin"))?;
        measure(&Way { proxy: self.proxy, user: self.user, origin })
    }
}

/// An origin in a process of its own, as a peer is.
struct OwnOrigin {
    address: SocketAddr,
    process: Child,
}

impl OwnOrigin {
    fn start() -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg("origin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let mut said = io::BufReader::new(process.stdout.take().expect("piped"));
        io::BufRead::read_line(&mut said, &mut line)?;
        let address =
            line.trim().parse().map_err(|_| io::Error::other(format!("the origin said '{}'", line.trim())))?;
        Ok(Self { address, process })
    }
}

impl Drop for OwnOrigin {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
