//! Measures tunnel gateways by address: load generator, origin, comparison.

mod cli;
mod effort;
mod rated;
mod run;
mod setup;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use cli::{Cli, Task};
use sluicegate_bench::stats::Samples;
use sluicegate_bench::{interrupt, load, machine, origin, relay, report};

fn main() -> ExitCode {
    machine::raise_descriptors();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // 128 + SIGINT: the exit status of a shell for a process ended by SIGINT.
        Err(_) if interrupt::requested() => {
            eprintln!("sluicegate-bench: interrupted; every process has ended and nothing is left behind");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("sluicegate-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> io::Result<()> {
    match task {
        Task::Origin { listen, mixed } => serve(origin::start(listen, mixed)?),
        Task::Relay { listen, target } => {
            let threads = std::thread::available_parallelism()?.into();
            serve(relay::start(listen, target, threads)?)
        }
        Task::Compare(task) => run::compared(&task),
        Task::Scale(task) => run::scaled(&task),
        Task::Rates(task) => rated::rated(&task),
        Task::Readme { file, images } => {
            print!("{}", report::readme(&run::read(&file)?, images.as_deref()));
            Ok(())
        }
        Task::Plots { file, folder } => run::draw(&run::read(&file)?, &folder),
        single => {
            interrupt::catch()?;
            measure(single)
        }
    }
}

/// Prints the address and blocks until the standard input is closed.
fn serve(address: std::net::SocketAddr) -> io::Result<()> {
    println!("{address}");
    io::copy(&mut io::stdin(), &mut io::sink()).map(drop)
}

fn measure(task: Task) -> io::Result<()> {
    match task {
        Task::Bulk { path, tunnels, seconds, direction } => path.on(|route| {
            let bulk = load::bulk(route, tunnels, direction.role(), Duration::from_secs_f64(seconds))?;
            println!("{:.2} GiB/s, {:.3} CPU s/GiB, {tunnels} tunnels", bulk.gib_per_second, bulk.cpu_per_gib);
            Ok(())
        }),
        Task::Ping { path, seconds, beside: Some(tunnels), .. } => path.on(|route| {
            let beside = load::beside(route, tunnels, Duration::from_secs_f64(seconds / 2.0))?;
            let (without, with) = (beside.without, beside.with);
            println!(
                "64 bytes: {}; beside {with:.2} GiB/s, which were {without:.2} without",
                round_trips(&beside.samples)
            );
            Ok(())
        }),
        Task::Ping { path, size, seconds, beside: None } => path.on(|route| {
            println!("{size} bytes: {}", round_trips(&load::ping(route, size, Duration::from_secs_f64(seconds))?));
            Ok(())
        }),
        Task::Connects { path, clients, seconds, carry } => path.on(|route| {
            let measure = if carry { load::short } else { load::connects };
            let result = measure(route, clients, Duration::from_secs_f64(seconds))?;
            let [p50, p99] = [0.5, 0.99].map(|share| result.latency.percentile(share));
            println!("{:.0} tunnels/s, p50 {p50:.0} us, p99 {p99:.0} us, {clients} clients", result.per_second);
            Ok(())
        }),
        Task::Idle { path, tunnels, pid } => path.on(|route| {
            let idle = load::idle(route, tunnels, pid)?;
            println!("{:.2} KiB, {:.2} descriptors, {:.2} threads each", idle.kib, idle.descriptors, idle.threads);
            Ok(())
        }),
        Task::Verify { path, tunnels, mib } => path.on(|route| {
            let rate = load::verify(route, tunnels, mib << 20)?;
            println!("{mib} MiB in each of {tunnels} tunnels sent and came back unchanged, {rate:.2} GiB/s");
            Ok(())
        }),
        _ => Err(io::Error::other("this task measures nothing by itself")),
    }
}

fn round_trips(samples: &Samples) -> String {
    let [p50, p99] = [0.5, 0.99].map(|share| samples.percentile(share));
    format!("p50 {p50:.1} us, p99 {p99:.1} us, {} round trips", samples.0.len())
}
