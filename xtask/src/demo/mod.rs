//! `cargo xtask demo`: a complete volume migration on this machine, in one command.

mod report;
mod size;

pub use size::Size;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use crate::failure::{Context, Failure, Result};
use crate::interrupt;
use crate::migration::{Gateway, PASSWORD, Plan, Process, Route, USER, Volumes};
use crate::tools;
use report::step;

/// Seed of the contents, fixed for every demo.
const SEED: u64 = 3128;
const BENCH_DEADLINE: Duration = Duration::from_secs(120);

/// Builds, installs missing programs, migrates, verifies and cleans up.
///
/// # Errors
/// A step fails; the error has the ends of the logs of the failed part.
pub fn run(size: Size, volumes: usize) -> Result<()> {
    interrupt::catch()?;
    let missing = tools::missing(tools::MIGRATION);
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(tools::Tool::name).collect();
        println!("Installing {}.", names.join(", "));
        if let Err(failure) = tools::install(&missing) {
            println!("{failure}\n\nUntil then, the same gateway with the embedded load generator:\n");
            return generated_load();
        }
    }
    migrate(&Plan { volumes, bytes: size.0, seed: SEED })
}

fn migrate(plan: &Plan) -> Result<()> {
    println!("{}\n", report::title(plan));
    let binary = step("build", || Ok((build(&["sluicegate"])?, "sluicegate, release".to_owned())))?;
    let volumes = step("volumes", || {
        let volumes = Volumes::generate(plan)?;
        let contents = volumes.contents();
        let text = format!("{} files, {}", HumanCount(contents.files), HumanBytes(contents.bytes));
        Ok((volumes, text))
    })?;
    let route = step("path", || {
        let route = Route::open(&volumes, |dir, port| Gateway::start(&binary.join("sluicegate"), dir, port))?;
        Ok((route, "rsync > stunnel > sluicegate > haproxy > stunnel > rsyncd".to_owned()))
    })?;
    let before = route.gateway().metrics()?;
    route.probe()?;
    let transfer = copy(&route, volumes.contents().bytes)?;
    let verified = step("verify", || {
        let verified = volumes.verify()?;
        Ok((verified, report::verified(&verified)))
    })?;
    // The probe and the copy of each volume.
    let after = route.gateway().metrics_after(2 * plan.volumes)?;
    report::throughput(verified.bytes, transfer.elapsed);
    report::access_log(&route.gateway().closed_tunnels());
    report::moved(&after.changed_since(&before));
    drop(route);
    remove(volumes)
}

/// Copies with a progress bar of the bytes relayed by the gateway.
fn copy(route: &Route, bytes: u64) -> Result<crate::migration::Transfer> {
    let style = "  migrate   [{bar:32}] {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
    let style = ProgressStyle::with_template(style).map_err(|error| Failure::new(error.to_string()))?;
    let bar = ProgressBar::new(bytes).with_style(style.progress_chars("=> "));
    let transfer = route.migrate(&mut || {
        // A failed scrape leaves the bar unchanged; completeness is verified later.
        if let Ok(metrics) = route.gateway().metrics() {
            let moved = metrics.sum("sluicegate_bytes_total", &["direction=\"to_origin\""]);
            bar.set_position((moved as u64).min(bytes));
        }
    });
    bar.finish_and_clear();
    let transfer = transfer?;
    report::done("migrate", &format!("{} through the gateway", HumanBytes(bytes)), transfer.elapsed);
    Ok(transfer)
}

fn remove(volumes: Volumes) -> Result<()> {
    let dir = volumes.dir().to_owned();
    drop(volumes);
    if dir.exists() {
        return Err(Failure::new(format!("{} could not be removed", dir.display())));
    }
    println!("\nEvery process has ended and the volumes are removed.");
    Ok(())
}

/// Builds release binaries of `packages` and returns their folder.
///
/// # Errors
/// cargo fails.
pub fn build(packages: &[&str]) -> Result<PathBuf> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--quiet"]).current_dir(crate::workspace::root());
    for package in packages {
        command.args(["-p", package]);
    }
    let status = command.status().context("starting cargo")?;
    if !status.success() {
        return Err(Failure::new("the release build failed"));
    }
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| crate::workspace::root().join("target"), PathBuf::from);
    Ok(target.join("release"))
}

/// Demo without the programs of a migration: the gateway and the load generator.
fn generated_load() -> Result<()> {
    let binaries = step("build", || {
        Ok((build(&["sluicegate", "sluicegate-bench"])?, "sluicegate, sluicegate-bench, release".to_owned()))
    })?;
    let dir = tempfile::Builder::new().prefix("sluicegate-demo-").tempdir().context("temporary folder")?;
    let gateway = Gateway::start(&binaries.join("sluicegate"), dir.path(), "*")?;
    let before = gateway.metrics()?;
    let said = step("load", || {
        let output = bulk(&binaries.join("sluicegate-bench"), dir.path(), &gateway)?;
        Ok(((), output.trim().to_owned()))
    });
    said.map_err(|failure| failure.with_log("gateway", gateway.process().log()))?;
    let after = gateway.metrics_after(1)?;
    report::access_log(&gateway.closed_tunnels());
    report::moved(&after.changed_since(&before));
    Ok(())
}

fn bulk(binary: &Path, dir: &Path, gateway: &Gateway) -> Result<String> {
    let mut command = Command::new(binary);
    command.args(["bulk", "--tunnels", "4", "--seconds", "5", "--direction", "up"]);
    command.args(["--proxy", &gateway.listen().to_string(), "--user", &format!("{USER}:{PASSWORD}")]);
    let mut process = Process::spawn("sluicegate-bench", &mut command, dir)?;
    let deadline = Instant::now() + BENCH_DEADLINE;
    while Instant::now() < deadline {
        interrupt::check()?;
        match process.wait(Duration::from_millis(100))? {
            None => {}
            Some(status) if status.success() => return Ok(process.output()),
            Some(status) => return Err(process.failure(&format!("failed ({status})"))),
        }
    }
    Err(process.failure("did not end in time"))
}
