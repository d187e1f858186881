//! `cargo xtask test`: all checks of a change, the fastest to fail first.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::failure::{Context, Failure, Result};
use crate::subprocess::succeed;
use crate::workspace::root;
use crate::{ebpf, tidy, tools};

/// Seconds for each parser: 70 s in all.
const FUZZ_SECONDS: u32 = 10;

/// Installs missing tools, then runs every check.
///
/// # Errors
/// The first failing step, by name.
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
    // Last, so that the test results are at the end of the output.
    step("tests", || {
        let mut tests = cargo_in_root(&["test", "--workspace"]);
        // Loads the program built from source into the kernel, not only the committed one.
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

/// Checks the dependencies against the RustSec database, if fetched by `cargo deny fetch db`;
/// deny.toml explains its absence from this repository.
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
    // The previous step downloaded the dependencies.
    cargo(&["deny", "--log-level", "error", "--offline", "check", "advisories"])
}

/// Tests if a database folder of `cargo deny` contains a database.
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

/// Fuzzed parsers.
const FUZZED: [&str; 7] = ["request", "proxy_protocol", "content", "answer", "rules", "credentials", "config"];

/// Runs the fuzzer on each parser for `seconds`, starting from the committed seeds. New inputs go
/// to a corpus outside version control.
///
/// # Errors
/// An input breaks a parser, or the fuzzer cannot run.
pub fn fuzz(seconds: u32) -> Result<()> {
    FUZZED.iter().try_for_each(|parser| fuzz_one(parser, seconds))
}

fn fuzz_one(parser: &str, seconds: u32) -> Result<()> {
    let folder = root().join("proxy/fuzz");
    let (corpus, seeds) = (format!("corpus/{parser}"), format!("seeds/{parser}"));
    std::fs::create_dir_all(folder.join(&corpus)).context(&corpus)?;
    let limit = format!("-max_total_time={seconds}");
    let mut command = Command::new("cargo");
    command.args(["fuzz", "run", "--sanitizer", "none", parser, &corpus, &seeds]);
    // Coverage for libFuzzer needs an unstable flag of rustc.
    command.args(["--", &limit, "-print_final_stats=1"]).env("RUSTC_BOOTSTRAP", "1").current_dir(folder);
    succeed(&mut command)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    succeed(&mut cargo_in_root(arguments))
}

fn cargo_in_root(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(root());
    command
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
        let folder = root().join("proxy/fuzz");
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
