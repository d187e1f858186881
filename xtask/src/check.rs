//! `cargo xtask test`: what a change has to pass, in the order in which it fails soonest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::{ebpf, tidy, tools};

/// For each parser: 70 s in all.
const FUZZ_SECONDS: u32 = 10;

/// Installs what is missing, then runs every check.
///
/// # Errors
/// At the first step that fails, naming it.
pub fn test() -> Result<()> {
    let start = Instant::now();
    step("tools", install)?;
    step("format", || cargo(&["fmt", "--all", "--check"]))?;
    step("clippy", || cargo(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    step("licences", || cargo(&["deny", "--log-level", "error", "check", "bans", "licenses", "sources"]))?;
    step("advisories", advisories)?;
    step("tidy", || tidy::run(false))?;
    let program = step("kernel program", ebpf::check)?;
    step("fuzz", || fuzz(FUZZ_SECONDS))?;
    // Last, so that the results of the tests are what is read first.
    step("tests", || {
        let mut tests = cargo_in_root(&["test", "--workspace"]);
        // The kernel gets what the source gives, and not only what was committed.
        succeed(tests.env("SLUICEGATE_TEST_FULL", "1").env("SLUICEGATE_EBPF_OBJECT", program))
    })?;
    println!("xtask: all passed in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn install() -> Result<()> {
    let missing = tools::missing(tools::TESTS);
    if !missing.is_empty() {
        println!("{}", tools::apt_line(&missing));
        tools::install(&missing)?;
    }
    tools::cargo_subcommand("deny")?;
    tools::cargo_subcommand("fuzz")
}

/// Compares the dependencies with the RustSec database, where `cargo deny fetch db` has brought it; deny.toml says why
/// it is not part of this repository.
fn advisories() -> Result<()> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let databases = home.map(|home| home.join("advisory-dbs")).unwrap_or_default();
    if !has_database(&databases) {
        println!(
            "xtask: no advisory database in {}: not checked; `cargo deny fetch db` brings it",
            databases.display()
        );
        return Ok(());
    }
    // What is compared was downloaded by the step before.
    cargo(&["deny", "--log-level", "error", "--offline", "check", "advisories"])
}

/// A folder that `cargo deny` keeps databases in has one.
fn has_database(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path().join(".git")).any(|repository| repository.exists())
}

fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("xtask: {name}");
    let start = Instant::now();
    let made = work().map_err(|failure| Failure::new(format!("step '{name}' failed: {failure}")))?;
    println!("xtask: {name} passed in {:.1} s", start.elapsed().as_secs_f64());
    Ok(made)
}

/// What is fuzzed.
const FUZZED: [&str; 7] = ["request", "proxy_protocol", "content", "answer", "rules", "credentials", "config"];

/// Runs the fuzzer on each parser for so long, starting from the seeds that are committed. What it finds
/// itself goes to a corpus that is not.
///
/// # Errors
/// When it finds an input that breaks a parser, or cannot run.
pub fn fuzz(seconds: u32) -> Result<()> {
    FUZZED.iter().try_for_each(|parser| fuzz_one(parser, seconds))
}

fn fuzz_one(parser: &str, seconds: u32) -> Result<()> {
    let folder = crate::root().join("proxy/fuzz");
    let (corpus, seeds) = (format!("corpus/{parser}"), format!("seeds/{parser}"));
    std::fs::create_dir_all(folder.join(&corpus)).context(&corpus)?;
    let limit = format!("-max_total_time={seconds}");
    let mut command = Command::new("cargo");
    command.args(["fuzz", "run", "--sanitizer", "none", parser, &corpus, &seeds]);
    // The coverage that libFuzzer steers by is an unstable flag of rustc.
    command.args(["--", &limit, "-print_final_stats=1"]).env("RUSTC_BOOTSTRAP", "1").current_dir(folder);
    succeed(&mut command)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    succeed(&mut cargo_in_root(arguments))
}

fn cargo_in_root(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(crate::root());
    command
}

/// Runs `command` to its end.
///
/// # Errors
/// It cannot be started, or fails.
pub(crate) fn succeed(command: &mut Command) -> Result<()> {
    let program = Path::new(command.get_program()).display().to_string();
    let status = command.status().context(format!("starting {program}"))?;
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let line = || format!("'{program} {}' ended with {status}", arguments.join(" "));
    if status.success() { Ok(()) } else { Err(Failure::new(line())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_a_repository_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!has_database(&folder.path().join("none")) && !has_database(folder.path()));
        std::fs::create_dir_all(folder.path().join("advisory-db-1/.git")).unwrap();
        assert!(has_database(folder.path()));
    }

    #[test]
    fn every_parser_that_is_fuzzed_has_a_target_and_seeds() {
        let folder = crate::root().join("proxy/fuzz");
        for parser in FUZZED {
            assert!(folder.join(format!("fuzz_targets/{parser}.rs")).is_file(), "{parser}");
            let seeds = std::fs::read_dir(folder.join(format!("seeds/{parser}"))).unwrap();
            assert!(seeds.count() >= 4, "{parser}");
        }
        let targets = std::fs::read_dir(folder.join("fuzz_targets")).unwrap();
        assert_eq!(targets.count(), FUZZED.len());
    }

    #[test]
    fn a_step_that_fails_is_named_with_its_command() {
        let error = step("shell", || succeed(Command::new("sh").args(["-c", "exit 3"]))).unwrap_err();
        assert_eq!(error.to_string(), "step 'shell' failed: 'sh -c exit 3' ended with exit status: 3");
        assert!(step("shell", || succeed(&mut Command::new("true"))).is_ok());
    }
}
