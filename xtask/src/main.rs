//! `cargo xtask`: all commands of developers and CI.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use sluicegate_xtask::demo::{self, Size};
use sluicegate_xtask::{bench, check, ebpf, interrupt, tidy};

/// All commands of developers and CI
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_version_flag = true)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Migrate a generated volume by rsync in stunnel through the gateway, and verify it
    Demo {
        /// Bytes of each volume
        #[arg(long, default_value = "1GiB", value_name = "BYTES")]
        size: Size,
        /// Concurrent volumes
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
        volumes: u16,
    },
    /// Format, lints, licences, tidy, every test, and the fuzzer for 10 s a parser
    Test,
    /// Check the code against its map, and the documents against the code
    Tidy {
        /// Rewrite the generated tables of the documents first
        #[arg(long)]
        fix: bool,
    },
    /// Fuzz each parser with libFuzzer
    Fuzz {
        /// Seconds for each parser
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// Build the kernel program of the engine sockmap, committed as ebpf/redirect.o
    Ebpf {
        /// Only check that the committed object matches its source
        #[arg(long)]
        check: bool,
    },
    /// Compare throughput, latency and cost over no proxy, the engines and other proxies
    Bench {
        /// Passed on to `sluicegate-bench compare`, or to another of its commands, named first
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Task::Demo { size, volumes } => demo::run(size, volumes.into()),
        Task::Test => check::test(),
        Task::Tidy { fix } => tidy::run(fix),
        Task::Fuzz { seconds } => check::fuzz(seconds),
        Task::Ebpf { check: false } => ebpf::build(),
        Task::Ebpf { check: true } => ebpf::check().map(drop),
        Task::Bench { arguments } => bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // 128 + SIGINT: the exit status of a shell for a process ended by SIGINT.
        Err(_) if interrupt::requested() => {
            eprintln!("\ninterrupted; every process has ended and nothing is left behind");
            ExitCode::from(130)
        }
        Err(failure) => {
            eprintln!("\nxtask: {failure}");
            ExitCode::FAILURE
        }
    }
}
