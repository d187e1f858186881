//! All findings, in the order of the output.

use std::io;
use std::thread::available_parallelism;

use serde::Serialize;

use super::connecting;
use super::host::Host;
use super::kernel;
use super::machine;
use super::refusal::Trials;
use super::room::{self, Limit, Pipes};
use super::row::Row;
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
    pub(super) checks: Vec<Row>,
}

impl Report {
    /// Looks at this host.
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
        let mut checks = calls(host, &trials);
        checks.push(kernel::event_loop(host, control.as_ref().err()));
        drop(control);
        checks.push(room::pipes(host, &pipes, engine_of(&tried)));
        checks.extend([room::process(limit), room::machine(host, limit)]);
        checks.extend(network(host, chosen));
        checks.extend([machine::cpus(threads), machine::cpu_limit(host, threads), machine::memory_limit(host)]);
        checks.push(kernel::sockmap(host, &probe::sockhash()));
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

fn calls(host: &Host, trials: &Trials) -> Vec<Row> {
    vec![
        kernel::version(host),
        kernel::seccomp(host, trials),
        kernel::io_uring(host, &trials.ring),
        kernel::splice(host, &trials.splice),
    ]
}

fn network(host: &Host, chosen: &Chosen) -> [Row; 8] {
    [
        tcp::congestion(host, chosen),
        tcp::receive_buffer(host),
        tcp::send_buffer(host),
        tcp::memory(host),
        connecting::accept_queue(host),
        connecting::half_open(host),
        connecting::ports(host),
        connecting::conntrack(host, connecting::tracked(host)),
    ]
}
