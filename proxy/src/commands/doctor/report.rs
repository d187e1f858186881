//! All findings, in the order of the output.

use std::io;
use std::thread::available_parallelism;

use serde::Serialize;

use super::connecting;
use super::finding::{Finding, Found, State};
use super::host::{Host, HostError};
use super::kernel;
use super::machine;
use super::refusal::Trials;
use super::room::{self, Limit, Pipes};
use super::tcp::{self, Chosen};
use super::verdict::{Outcome, Tried, Verdict, engine_of, try_engines};
use crate::commands::log::Lines;
use crate::relay::{Engine, Options};
use crate::server::Control;
use crate::sys::capabilities::with_only;
use crate::sys::probe;
use crate::sys::thread::unthrottled_cpus;

/// The object printed by `--json`; its keys are an interface.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Of the gateway.
    pub(super) version: &'static str,
    /// Of the kernel.
    pub(super) kernel: String,
    /// `best`, `degraded` or `cannot-run`.
    pub(super) verdict: Outcome,
    /// The exit code for the verdict.
    pub(super) exit_code: u8,
    /// The engine `serve` would run; `null` if it would not start.
    pub(super) engine: Option<&'static str>,
    /// Why the verdict is not better.
    pub(super) because: Vec<String>,
    /// The requested engines, in their order.
    pub(super) engines: Vec<Tried>,
    /// The rows of the table.
    pub(super) checks: Vec<Finding>,
}

impl Report {
    /// Inspects this host.
    pub(super) fn new(host: &Host, engines: Vec<Engine>, chosen: &Chosen) -> Self {
        let limit = Limit::raised();
        let threads = available_parallelism().map_or(1, Into::into);
        let options = Options { engines, threads, ..Options::default() };
        // Before the engines, because their workers may hold pipes for a moment after they were
        // stopped.
        let pipes = with_only(options.capabilities(), Pipes::tried).unwrap_or_else(|_| Pipes::tried());
        let trials = Trials::made();
        // Held while the engines are tried, since `serve` has them by then: threads may be few.
        let control = Control::new(unthrottled_cpus()).and_then(|control| Ok((control, Lines::start(io::sink())?)));
        let tried = try_engines(host, &options, &trials, control.is_ok() && limit.has_room());
        let event_loop = kernel::event_loop(host, control.as_ref().err());
        drop(control);
        let sockhash = probe::sockhash();
        let send_buffer = options.send_buffer() as u64;
        let engine = engine_of(&tried);
        let seen =
            Inspection { host, chosen, limit, threads, pipes, trials, event_loop, sockhash, send_buffer, engine };
        let checks: Vec<_> =
            CHECKS.iter().filter(|check| (check.applies)(&seen)).map(|check| check.run(&seen)).collect();
        let Verdict { engine, outcome, because } = Verdict::new(&tried, &checks);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            kernel: host.sysctl("kernel.osrelease").unwrap_or_else(|unread| unread.to_string()),
            verdict: outcome,
            exit_code: outcome.code(),
            engine: engine.map(Engine::label),
            because,
            engines: tried,
            checks,
        }
    }
}

/// Parts of the host that the checks judge, each read or tried once.
struct Inspection<'a> {
    host: &'a Host,
    chosen: &'a Chosen,
    limit: Limit,
    threads: usize,
    pipes: Pipes,
    trials: Trials,
    /// Made while the threads of `serve` were there.
    event_loop: Found,
    sockhash: io::Result<()>,
    /// Size of the send buffers that the engine sockmap needs; 0 if it is not requested.
    send_buffer: u64,
    /// The engine that runs, if any.
    engine: Option<Engine>,
}

/// A check of the host.
struct Check {
    /// Name, a stable word.
    name: &'static str,
    /// Tests whether the gateway as requested depends on it.
    applies: fn(&Inspection<'_>) -> bool,
    /// The value needed.
    needed: fn(&Inspection<'_>) -> String,
    /// Reads the value, and judges it: the verdict, the cost of the difference, and the fix.
    read: fn(&Inspection<'_>) -> Result<Found, HostError>,
}

impl Check {
    const fn new(
        name: &'static str,
        needed: fn(&Inspection<'_>) -> String,
        read: fn(&Inspection<'_>) -> Result<Found, HostError>,
    ) -> Self {
        Self { name, applies: |_| true, needed, read }
    }

    /// The row of the output; a value that cannot be read is unknown.
    fn run(&self, seen: &Inspection<'_>) -> Finding {
        let found = (self.read)(seen);
        let found = found.unwrap_or_else(|unread| Found::ok(unread.to_string()).costs(State::Unknown, ""));
        Finding::new(self.name, (self.needed)(seen), found)
    }
}

/// Value needed by the engine sockmap.
const FOR_SOCKMAP: &str = "all of it for --engine sockmap, which is slower than splice for bulk, equal for messages, \
                           and works on while the gateway is stopped; nothing for other engines";

/// The checks, in the order of the output.
const CHECKS: [Check; 17] = [
    Check::new("kernel", |_| "6.15 or later".into(), |seen| kernel::version(seen.host)),
    Check::new(
        "seccomp",
        |_| "no filter, or one that permits io_uring and splice".into(),
        |seen| kernel::seccomp(seen.host, &seen.trials),
    ),
    Check::new(
        "io_uring",
        |_| "a ring can be set up".into(),
        |seen| Ok(kernel::io_uring(seen.host, &seen.trials.ring)),
    ),
    Check::new(
        "splice",
        |_| "a byte goes from socket to socket".into(),
        |seen| Ok(kernel::splice(seen.host, &seen.trials.splice)),
    ),
    Check::new(
        "event_loop",
        |_| "epoll, an eventfd and a thread for the log".into(),
        |seen| Ok(seen.event_loop.clone()),
    ),
    Check::new(
        "pipes",
        |_| format!("{} of 1 MiB", room::ENOUGH),
        |seen| Ok(room::pipes(seen.host, &seen.pipes, seen.engine)),
    ),
    Check::new(
        "descriptors",
        |_| format!("room for {} tunnels, a migration's burst", room::BURST),
        |seen| Ok(room::process(seen.limit)),
    ),
    Check::new("open_files", |_| "free for this process's limit".into(), |seen| room::machine(seen.host, seen.limit)),
    Check::new("congestion", |_| "cubic on short legs".into(), |seen| tcp::congestion(seen.host, seen.chosen)),
    Check::new("tcp_rmem", |_| window(), |seen| tcp::receive_buffer(seen.host)),
    Check::new("tcp_wmem", |_| window(), |seen| tcp::send_buffer(seen.host)),
    Check::new("somaxconn", |_| connecting::BACKLOG.to_string(), |seen| connecting::accept_queue(seen.host)),
    Check::new(
        "ports",
        |_| format!("{} for each target address", connecting::PORTS),
        |seen| connecting::ports(seen.host),
    ),
    Check::new("cpus", |_| format!("{} or more", machine::THREADS), |seen| Ok(machine::cpus(seen.threads))),
    Check::new("cpu_limit", |_| "none".into(), |seen| machine::cpu_limit(seen.host, seen.threads)),
    Check::new("sockmap", |_| FOR_SOCKMAP.into(), |seen| Ok(kernel::sockmap(seen.host, &seen.sockhash))),
    Check {
        name: "send_buffers",
        applies: |seen| seen.send_buffer > 0,
        needed: |seen| format!("{} KiB, twice the backlog", seen.send_buffer >> 11),
        read: |seen| tcp::send_buffers(seen.host, seen.send_buffer),
    },
];

/// Value needed of the largest socket buffers.
fn window() -> String {
    format!("a maximum for 1 Gbit/s at {} ms", tcp::ROUND_TRIP_MS)
}
