//! `doctor` predicts the behaviour of `serve` in every environment.

use std::process::Command;

use rustix::process::getuid;
use serde_json::Value;
use sluicegate::server::descriptors::divide;

use crate::support::binary::{BINARY, in_clean_environment};
use crate::support::gateway::Setup;
use crate::support::process::{Outcome, raise_descriptor_limit, run, sluicegate};
use crate::support::seccomp::{DOCKER, NO_EPOLL, NO_EVENTFD, NO_SPLICE, PODMAN, Refused, refusing};
use crate::support::stranger::Stranger;

/// Engine chosen by `auto` with nothing refused, and exit code of `doctor`.
const BEST: (Option<&str>, i32) = (Some("uring"), 0);

/// Engine and exit code without io_uring.
const WITHOUT_RING: (Option<&str>, i32) = (Some("splice"), 1);

/// Engine and exit code without splice(2), the basis of every engine but this one.
const WITHOUT_SPLICE: (Option<&str>, i32) = (Some("copy"), 1);

/// The best engine, but degraded.
const DEGRADED: (Option<&str>, i32) = (BEST.0, 1);

/// No engine runs.
const NOTHING: (Option<&str>, i32) = (None, 2);

/// Environment for both commands.
#[derive(Debug, Default)]
struct Environment {
    /// Refused system calls.
    refused: &'static [Refused],
    /// A command prefix; ends by executing the command after it.
    wrapper: Vec<String>,
    /// Options for both commands.
    options: &'static [&'static str],
}

impl Environment {
    fn refusing(refused: &'static [Refused]) -> Self {
        Self { refused, ..Self::default() }
    }

    fn under(wrapper: Vec<String>) -> Self {
        Self { wrapper, ..Self::default() }
    }

    fn descriptors(limit: u32) -> Self {
        let words = ["sh", "-c", &format!("ulimit -n {limit} && exec \"$@\""), "sh"];
        Self::under(words.map(str::to_owned).to_vec())
    }

    fn options(self, options: &'static [&'static str]) -> Self {
        Self { options, ..self }
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        let words: Vec<_> = self.wrapper.iter().map(String::as_str).chain([BINARY]).collect();
        let mut command = Command::new(words[0]);
        in_clean_environment(command.args(&words[1..]).args(arguments).args(self.options));
        refusing(self.refused, || run(command, b""))
    }

    /// Report and exit code of `doctor`.
    fn asked(&self) -> (Value, Option<i32>) {
        let outcome = self.run(&["doctor", "--json"]);
        let json = serde_json::from_str(&outcome.out).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        (json, outcome.code)
    }

    /// Engine logged by `serve`, if it starts. Asserts that `serve` logs, for every failed engine,
    /// the cause reported by `doctor`.
    fn served(&self, report: &Value) -> Option<String> {
        if report["engine"].is_null() {
            let serve = ["serve", "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
            let outcome = self.run(&serve);
            assert!(matches!(outcome.code, Some(1 | 2)) && !outcome.err.contains("listening"), "{outcome:?}");
            return None;
        }
        let wrapper: Vec<_> = self.wrapper.iter().map(String::as_str).collect();
        let setup = Setup::new(&["--no-auth"]).args(self.options.iter().copied()).under(&wrapper);
        let gateway = refusing(self.refused, || setup.start());
        // `serve` tries no engine after the first working one.
        let engines = report["engines"].as_array().expect("a list").iter();
        let failed = engines.take_while(|engine| engine["passed"] == false).collect::<Vec<_>>();
        for engine in &failed {
            let line = gateway.log_line("an engine that failed", |line| {
                line.message().contains("failed its self-test") && line.text("engine") == engine["engine"]
            });
            assert_eq!(line.text("error"), engine["error"], "{}", line.raw);
        }
        let logged = gateway.log.count(|line| line.message().contains("failed its self-test"));
        assert_eq!(logged, failed.len(), "{report:#}");
        Some(gateway.log_line("listening", |line| line.message() == "listening").text("engine").to_owned())
    }

    /// Runs both and compares them with each other, with the expected result, and with one row of
    /// the report by state and detail.
    fn agrees(&self, expected: (Option<&str>, i32), row: (&str, &str, &str)) {
        let (report, code) = self.asked();
        let (check, state, found) = row;
        // The gateways of other tests share the budget; root is exempt from it.
        let is_crowded = !getuid().is_root() && check_of(&report, "pipes")["degrades"] == true;
        let expected = (expected.0, if is_crowded { expected.1.max(1) } else { expected.1 });
        assert_eq!((report["engine"].as_str(), code), (expected.0, Some(expected.1)), "{self:?}: {report:#}");
        assert_eq!(report["exit_code"], expected.1, "{self:?}");
        assert_eq!(report["because"].as_array().map(Vec::is_empty), Some(expected.1 == 0), "{report:#}");
        let row = check_of(&report, check);
        assert_eq!(row["state"], state, "{self:?}: {row:#}");
        assert!(row["found"].as_str().is_some_and(|text| text.contains(found)), "{self:?}: {row:#}");
        assert_eq!(self.served(&report).as_deref(), report["engine"].as_str(), "{self:?}: {report:#}");
    }
}

fn check_of<'a>(report: &'a Value, check: &str) -> &'a Value {
    let rows = report["checks"].as_array().expect("a list");
    rows.iter().find(|row| row["check"] == check).unwrap_or_else(|| panic!("no row {check} in {report:#}"))
}

#[test]
fn doctor_agrees_with_serve_wherever_both_run() {
    raise_descriptor_limit();
    let plain = Environment::default;
    plain().agrees(BEST, ("splice", "ok", "works"));
    plain().options(&["--engine", "copy"]).agrees((Some("copy"), 0), ("splice", "ok", "works"));
    for profile in [DOCKER, PODMAN] {
        Environment::refusing(profile).agrees(WITHOUT_RING, ("seccomp", "slow", "refused: io_uring_setup"));
        Environment::refusing(profile).agrees(WITHOUT_RING, ("splice", "ok", "works"));
    }
    let no_splice = || Environment::refusing(NO_SPLICE);
    no_splice().agrees(WITHOUT_SPLICE, ("splice", "fails", "the seccomp filter refuses splice"));
    no_splice().options(&["--engine", "splice"]).agrees(NOTHING, ("seccomp", "slow", "splice (Operation not"));
    no_splice().options(&["--engine", "copy"]).agrees((Some("copy"), 0), ("splice", "fails", "refuses splice"));
    for lacking in [NO_EPOLL, NO_EVENTFD] {
        Environment::refusing(lacking)
            .agrees(NOTHING, ("event_loop", "fails", "the seccomp filter refuses epoll_create1"));
    }
    let few = divide(None, 600, 1).expect("room for some").tunnels;
    Environment::descriptors(600).agrees(DEGRADED, ("descriptors", "slow", &format!("600: {few} tunnels")));
    for none in [300, 12] {
        Environment::descriptors(none).agrees(NOTHING, ("descriptors", "fails", ": 0 tunnels"));
    }
}

#[test]
fn doctor_agrees_with_serve_for_a_user_without_privileges() {
    raise_descriptor_limit();
    let Some(stranger) = Stranger::new() else { return };
    let bare = Environment::under(stranger.wrapper(":"));
    bare.agrees(BEST, ("pipes", "ok", "1 MiB"));
    let unlocked = Environment::under(stranger.wrapper("ulimit -l 0"));
    unlocked.agrees(WITHOUT_RING, ("io_uring", "slow", "Cannot allocate memory"));
    let Some(_held) = stranger.every_pipe() else { return };
    bare.agrees(WITHOUT_SPLICE, ("pipes", "slow", "0 of 1 MiB, then 8 KiB"));
}

#[test]
fn in_a_container_the_remedy_names_the_calls_that_its_profile_lacks() {
    let (report, _) = Environment::refusing(DOCKER).asked();
    let row = check_of(&report, "io_uring");
    let found = row["found"].as_str().unwrap_or_default();
    assert!(found.contains("Operation not permitted") && found.contains("seccomp filter"), "{row:#}");
    let fixes = row["fix"].to_string();
    assert!(fixes.contains("--security-opt seccomp=") && fixes.contains("io_uring_setup"), "{row:#}");
    let (report, _) = Environment::refusing(PODMAN).asked();
    assert!(check_of(&report, "io_uring")["found"].to_string().contains("Function not implemented"), "{report:#}");
    assert!(check_of(&report, "sockmap")["found"].to_string().contains("no map: Operation not permitted"));
}

#[test]
fn table_and_object_say_the_same_and_so_does_the_exit_code() {
    let (report, code) = Environment::descriptors(600).asked();
    let table = Environment::descriptors(600).run(&["doctor"]);
    assert_eq!((table.code, code), (Some(1), Some(1)), "{table:?}");
    assert!(table.err.starts_with("sluicegate: degraded: ") && table.err.contains("descriptors: "), "{table:?}");
    for row in report["checks"].as_array().expect("a list") {
        let (state, check) = (row["state"].as_str().unwrap_or_default(), row["check"].as_str().unwrap_or_default());
        let begins = format!("{state:7}  {check:12}  ");
        assert!(table.out.lines().any(|line| line.starts_with(&begins)), "{begins}: {}", table.out);
        for fix in row["fix"].as_array().expect("a list") {
            assert!(table.out.contains(fix.as_str().unwrap_or("none")), "{fix}: {}", table.out);
        }
    }
    let is_command = |line: &str| line.starts_with("          or  ") || line.starts_with("         fix  ");
    let wide = table.out.lines().find(|line| line.chars().count() > 100 && !is_command(line));
    assert_eq!(wide, None, "{}", table.out);
    let help = sluicegate(&["doctor", "--help"], &[]).out;
    for word in ["Exit code 0", "32 pipes of 1 MiB", "200 tunnels"] {
        assert!(help.split_whitespace().collect::<Vec<_>>().join(" ").contains(word), "{help}");
    }
}

#[test]
fn options_come_as_those_of_serve_do() {
    let outcome = sluicegate(&["doctor", "--json"], &[("SLUICEGATE_ENGINE", "copy")]);
    let report: Value = serde_json::from_str(&outcome.out).expect("an object");
    assert_eq!((report["engine"].as_str(), report["engines"].as_array().map(Vec::len)), (Some("copy"), Some(1)));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, "engine = 'copy,splice'\ncongestion-control = 'reno'\nno-auth = true\n").unwrap();
    let outcome = sluicegate(&["doctor", "--json", "--config", file.to_str().unwrap()], &[]);
    let report: Value = serde_json::from_str(&outcome.out).expect("an object");
    assert_eq!((report["engine"].as_str(), outcome.code), (Some("copy"), Some(0)), "{report:#}");
    assert!(check_of(&report, "congestion")["found"].to_string().contains("client leg reno, origin leg reno"));
    for (arguments, said) in [
        (["--engine", "warp"], "unknown engine 'warp'"),
        (["--congestion-control", "warp"], "--congestion-control: the kernel has no congestion control `warp`"),
    ] {
        let outcome = sluicegate(&[&["doctor"], &arguments[..]].concat(), &[]);
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{outcome:?}");
    }
}
