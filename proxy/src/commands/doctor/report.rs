//! All findings, in the order of the output.

use std::io;
use std::thread::available_parallelism;

use serde::Serialize;

use super::check::Check;
use super::connecting;
use super::host::Host;
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
    pub(super) checks: Vec<Check>,
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
        let seen =
            Inspection { host, chosen, limit, threads, pipes, trials, event_loop, sockhash, engine: engine_of(&tried) };
        let mut checks: Vec<_> = CHECKS.iter().map(|check| check(&seen)).collect();
        if options.engines.contains(&Engine::Sockmap) {
            checks.push(tcp::send_buffers(host, options.send_buffer() as u64));
        }
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
    event_loop: Check,
    sockhash: io::Result<()>,
    /// The engine that runs, if any.
    engine: Option<Engine>,
}

/// The checks of every host, in the order of the table.
const CHECKS: [fn(&Inspection<'_>) -> Check; 16] = [
    |seen| kernel::version(seen.host),
    |seen| kernel::seccomp(seen.host, &seen.trials),
    |seen| kernel::io_uring(seen.host, &seen.trials.ring),
    |seen| kernel::splice(seen.host, &seen.trials.splice),
    |seen| seen.event_loop.clone(),
    |seen| room::pipes(seen.host, &seen.pipes, seen.engine),
    |seen| room::process(seen.limit),
    |seen| room::machine(seen.host, seen.limit),
    |seen| tcp::congestion(seen.host, seen.chosen),
    |seen| tcp::receive_buffer(seen.host),
    |seen| tcp::send_buffer(seen.host),
    |seen| connecting::accept_queue(seen.host),
    |seen| connecting::ports(seen.host),
    |seen| machine::cpus(seen.threads),
    |seen| machine::cpu_limit(seen.host, seen.threads),
    |seen| kernel::sockmap(seen.host, &seen.sockhash),
];
