//! Privileges of the gateway once it listens.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use rustix::process::{Signal, getuid};
use sluicegate::relay::Engine;

use crate::support::gateway::engines;
use crate::support::process::replace;
use crate::support::skipped::skipped;
use crate::support::{Gateway, Origin, Setup, client, connect, connect_as};

/// User and group numbers outside every range in use.
const USER: u32 = 2_000_000_099;
const GROUP: u32 = 2_000_000_098;

fn run_as() -> String {
    format!("{USER}:{GROUP}")
}

fn is_root() -> bool {
    if !getuid().is_root() {
        skipped("to be another user needs root");
    }
    getuid().is_root()
}

/// Distinct values of a field of proc(5) over all threads.
fn of_threads(gateway: &Gateway, field: &str) -> BTreeSet<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", gateway.pid())).unwrap().flatten();
    let status = threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok());
    let value = |status: String| status.lines().find_map(|line| Some(line.strip_prefix(field)?.trim().to_owned()));
    status.map(|status| value(status).expect("a field of every thread")).collect()
}

fn all(value: &str) -> BTreeSet<String> {
    [value.to_owned()].into()
}

/// The given capabilities, limited to the ones the gateway starts with, in the format of proc(5).
fn set(numbers: &[u32]) -> BTreeSet<String> {
    let own = u64::from_str_radix(&own_status("CapPrm:"), 16).unwrap();
    all(&format!("{:016x}", numbers.iter().fold(0_u64, |set, number| set | own & 1 << number)))
}

fn own_status(field: &str) -> String {
    let own = fs::read_to_string("/proc/self/status").unwrap();
    own.lines().find_map(|line| line.strip_prefix(field)).expect("a field").trim().to_owned()
}

/// `CAP_SYS_RESOURCE`, for pipes beyond the user's budget.
const PIPES: &[u32] = &[24];

#[test]
fn every_engine_runs_as_an_unprivileged_user() {
    if !is_root() {
        return;
    }
    let origin = Origin::echo();
    for &engine in engines() {
        let mut gateway = Gateway::open(&["--engine", engine.label(), "--run-as", &run_as()]);
        let stream = connect(gateway.address, origin.address);
        client::echoes(&stream, 3 << 20);
        let kept = if matches!(engine, Engine::Uring | Engine::Splice) { PIPES } else { &[] };
        let ids = |id: u32| all(&[id; 4].map(|id| id.to_string()).join("\t"));
        assert_eq!(of_threads(&gateway, "Uid:"), ids(USER), "{engine}");
        assert_eq!(of_threads(&gateway, "Gid:"), ids(GROUP), "{engine}");
        assert_eq!(of_threads(&gateway, "Groups:"), all(&GROUP.to_string()), "{engine}");
        for field in ["CapEff:", "CapPrm:"] {
            assert_eq!(of_threads(&gateway, field), set(kept), "{engine} {field}");
        }
        for field in ["CapInh:", "CapAmb:"] {
            assert_eq!(of_threads(&gateway, field), set(&[]), "{engine} {field}");
        }
        assert_eq!(of_threads(&gateway, "NoNewPrivs:"), all("1"), "{engine}");
        // The gateway adds no seccomp filter to the filters of the tests.
        assert_eq!(of_threads(&gateway, "Seccomp:"), all(&own_status("Seccomp:")), "{engine}");
        let line = gateway.log_line("privileges", |line| line.message() == "privileges dropped");
        assert_eq!((line.number("uid"), line.number("gid")), (USER.into(), GROUP.into()));
        assert_eq!(gateway.log.count(|line| line.message().starts_with("the gateway runs as root")), 0);
        client::hang_up(&stream);
        gateway.closing_line(stream.local_addr().unwrap());
        gateway.signal(Signal::TERM);
        assert_eq!(gateway.wait().code(), Some(0), "{engine}");
    }
}

#[test]
fn root_is_warned_of_and_keeps_no_capability_that_is_not_used() {
    if !is_root() {
        return;
    }
    let gateway = Gateway::open(&["--engine", "copy"]);
    let line = gateway
        .log_line("root", |line| line.level() == "WARN" && line.message().starts_with("the gateway runs as root"));
    assert!(line.message().ends_with("set an unprivileged user with --run-as"), "{}", line.raw);
    for field in ["CapEff:", "CapPrm:"] {
        assert_eq!(of_threads(&gateway, field), set(&[]), "{field}");
    }
    assert_eq!(of_threads(&gateway, "NoNewPrivs:"), all("1"));
    let limits = fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    // The process is not dumpable, so its /proc files belong to root under any user; tested with
    // another user's process.
    let other = Gateway::open(&["--engine", "copy", "--run-as", &run_as()]);
    let memory = fs::metadata(format!("/proc/{}/mem", other.pid())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&memory), 0);
}

#[test]
fn a_user_that_cannot_be_is_refused() {
    for (user, said) in [
        ("no-such-user", "this host has no user 'no-such-user'"),
        ("root", "root keeps the privileges that --run-as is meant to drop; use another user"),
        ("2000000099", "give its group as well: 2000000099:GROUP"),
    ] {
        let outcome = Setup::bare(&["--no-auth", "--run-as", user]).refused();
        assert!(outcome.code == Some(2) && outcome.err.contains(said), "{outcome:?}");
    }
    if !is_root() {
        return;
    }
    let unprivileged = ["setpriv", "--reuid=2000000097", "--regid=2000000097", "--clear-groups"];
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("sluicegate");
    fs::copy(crate::support::binary::BINARY, &copy).unwrap();
    let mut command = Command::new(unprivileged[0]);
    command.args(&unprivileged[1..]).arg(copy).args(["serve", "--no-auth", "--run-as", &run_as()]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    crate::support::in_clean_environment(&mut command);
    let outcome = crate::support::process::run(command, b"");
    let said = format!("--run-as {}: cannot become this user: Operation not permitted", run_as());
    assert!(outcome.code == Some(2) && outcome.err.contains(&said), "{outcome:?}");
}

#[test]
fn files_are_re_read_as_that_user_or_refused_at_the_start() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let users = folder.path().join("users");
    let line = |name: &str| format!("{name}:{}\n", bcrypt::hash("one", 4).expect("a hash"));
    fs::write(&users, line("alice")).unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
    let path = users.to_str().unwrap();
    let setup = || Setup::new(&["--users-file", path, "--run-as", &run_as()]);
    let outcome = setup().refused();
    let said = format!("--run-as {}: --users-file {path} could not be reloaded: cannot be read: Permission", run_as());
    assert!(outcome.code == Some(2) && outcome.err.contains(&said), "{outcome:?}");
    // Nothing stays behind that this user could not remove, and `check` says the same.
    let socket = folder.path().join("control.sock");
    let control = socket.to_str().unwrap();
    let outcome = Setup::new(&["--users-file", path, "--run-as", &run_as(), "--control", control]).refused();
    assert!(outcome.code == Some(2) && outcome.err.contains(&said), "{outcome:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    let check = ["check", "--users-file", path, "--run-as", &run_as(), "--control", path];
    let outcome = crate::support::process::sluicegate(&check, &[]);
    assert!(outcome.code == Some(2) && outcome.err.contains(&said), "{outcome:?}");
    assert!(outcome.err.contains("the path is not a socket; remove it, or name another path"), "{outcome:?}");
    chown(&users, None, Some(GROUP)).unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o640)).unwrap();
    let gateway = setup().start();
    let origin = Origin::echo();
    client::echoes(&connect_as(gateway.address, origin.address, "alice:one"), 1_000);
    replace(&users, &line("bob"));
    gateway.log_line("re-read", |line| line.message() == "users reloaded");
    client::echoes(&connect_as(gateway.address, origin.address, "bob:one"), 1_000);
}

/// A bind mount hides the file of the sysctl in a mount namespace: changing the sysctl itself would
/// be dangerous.
#[test]
fn sockmap_is_refused_where_a_warning_ends_the_machine() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let set = folder.path().join("set");
    fs::write(&set, "1\n").unwrap();
    let script = format!("mount --bind {} /proc/sys/kernel/panic_on_warn && exec \"$@\"", set.display());
    let hidden = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let outcome = Setup::new(&["--no-auth", "--engine", "sockmap"]).under(&hidden).refused();
    if outcome.err.contains("unshare") || outcome.err.contains("mount:") {
        return skipped("a file cannot be hidden here");
    }
    assert!(outcome.code == Some(1) && outcome.err.contains("kernel.panic_on_warn: 1:"), "{outcome:?}");
    assert!(outcome.err.contains("sysctl -w kernel.panic_on_warn=0"), "{outcome:?}");
    let gateway = Setup::new(&["--no-auth", "--engine", "sockmap,copy"]).under(&hidden).start();
    let fallback = gateway.metric(&sluicegate::metrics::ENGINE_FALLBACKS, &["sockmap", "copy", "panic_on_warn"]);
    assert_eq!(fallback, 1);
}
