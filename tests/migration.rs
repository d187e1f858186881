//! A Direct Volume Migration with the programs of a real one: four volumes at once, each with its
//! own rsync and stunnel, through the gateway and an SNI router into rsyncd.

use std::fs;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use sluicegate_xtask::migration::{Gateway, PASSWORD, Parent, Plan, Route, USER, Volumes};
use sluicegate_xtask::tools::{self, Tool};

use crate::support::eventually;
use crate::support::process::replace;

const VOLUMES: usize = 4;
const BYTES: u64 = 12 << 20;

/// Returns false with an installation hint if a program is missing; a failure where everything has
/// to run (`cargo xtask test`).
fn installed() -> bool {
    all_installed(tools::MIGRATION)
}

fn all_installed(wanted: &[Tool]) -> bool {
    let missing = tools::missing(wanted);
    if missing.is_empty() {
        return true;
    }
    let line = tools::apt_line(&missing);
    assert!(std::env::var_os("SLUICEGATE_TEST_FULL").is_none(), "a migration needs: {line}");
    eprintln!("skipped: a migration needs: {line}");
    false
}

fn open(volumes: &Volumes) -> Route {
    let binary = Path::new(env!("CARGO_BIN_EXE_sluicegate"));
    Route::open(volumes, |dir, port| Gateway::start(binary, dir, port)).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn four_volumes_arrive_at_once() {
    if !installed() {
        return;
    }
    let volumes = Volumes::generate(&Plan { volumes: VOLUMES, bytes: BYTES, seed: 1 }).unwrap();
    let route = open(&volumes);
    route.probe().unwrap();
    route.migrate(&mut || ()).unwrap_or_else(|failure| panic!("{failure}"));

    let verified = volumes.verify().unwrap();
    assert_eq!((verified.files, verified.bytes), (volumes.contents().files, VOLUMES as u64 * BYTES));
    assert_eq!(verified.sparse, VOLUMES as u64, "a file system that keeps no holes cannot run this test: set TMPDIR");

    // One probe and one copy for each volume; the gateway sees both as tunnels.
    let metrics = route.gateway().metrics_after(2 * VOLUMES).unwrap();
    let established = metrics.sum("sluicegate_connect_requests_total", &["code=\"200\""]);
    assert_eq!(established as usize, 2 * VOLUMES);
    assert_eq!(metrics.sum("sluicegate_connect_requests_total", &[]) as usize, 2 * VOLUMES, "none refused");
    counts_agree(&route, &metrics);
    password_stays_secret(route.gateway());
}

/// Asserts that the log lines of the tunnels add up to the counters, and cover every volume.
fn counts_agree(route: &Route, metrics: &sluicegate_xtask::migration::Metrics) {
    let closed = route.gateway().closed_tunnels();
    let copies: Vec<_> = closed.iter().filter(|line| line["to_origin"].as_u64() >= Some(BYTES)).collect();
    assert_eq!(copies.len(), VOLUMES, "{closed:?}");
    for line in copies {
        assert_eq!(line["user"], USER);
        // A stunnel closing before it has read the peer's close_notify causes a TCP reset: the copy
        // is verified, and no other reason for the end is right.
        let ends = ["client_closed", "origin_closed", "client_reset", "origin_reset"];
        assert!(ends.contains(&line["outcome"].as_str().unwrap()), "{line}");
    }
    for direction in ["to_origin", "to_client"] {
        let logged: u64 = closed.iter().filter_map(|line| line[direction].as_u64()).sum();
        let counted = metrics.sum("sluicegate_bytes_total", &[&format!("direction=\"{direction}\"")]);
        assert_eq!(logged, counted as u64, "{direction}");
    }
}

fn password_stays_secret(gateway: &Gateway) {
    let proc = |name: &str| fs::read(format!("/proc/{}/{name}", gateway.process().id())).unwrap();
    let cmdline = String::from_utf8(proc("cmdline")).unwrap();
    assert!(cmdline.contains("--listen") && !cmdline.contains("s3cret"), "{cmdline}");
    assert!(!gateway.process().output().contains(PASSWORD));
}

/// The target is behind a second proxy; the MigrationController cannot be configured for it, and
/// the gateway can.
#[test]
fn two_volumes_through_a_parent_with_a_user_of_its_own() {
    if !all_installed(&[tools::MIGRATION, &[tools::SQUID]].concat()) {
        return;
    }
    let volumes = Volumes::generate(&Plan { volumes: 2, bytes: BYTES, seed: 3 }).unwrap();
    let parent = Parent::start(volumes.dir()).unwrap_or_else(|failure| panic!("{failure}"));
    let binary = Path::new(env!("CARGO_BIN_EXE_sluicegate"));
    let entry = format!("{} for 127.0.0.0/8:*", parent.url());
    let variables = [("SLUICEGATE_PARENT", entry.as_str())];
    let route = Route::open(&volumes, |dir, port| Gateway::start_with(binary, dir, port, &variables));
    let route = route.unwrap_or_else(|failure| panic!("{failure}"));
    route.migrate(&mut || ()).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(volumes.verify().unwrap().bytes, 2 * BYTES);
    let metrics = route.gateway().metrics_after(2).unwrap();
    assert_eq!(metrics.sum("sluicegate_parent_requests_total", &["outcome=\"established\""]) as usize, 2);
    for line in route.gateway().closed_tunnels() {
        assert_eq!(line["parent"], parent.url().split_once('@').unwrap().1, "{line}");
    }
    eventually("Squid logs both tunnels of its user", || {
        let tunnels = parent.tunnels();
        tunnels.len() == 2 && tunnels.iter().all(|line| line.contains("TCP_TUNNEL/200") && line.contains(" onward "))
    });
}

/// A user policy for a migration is sufficient, and grants nothing after its expiry.
#[test]
fn two_volumes_of_a_user_with_terms() {
    if !installed() {
        return;
    }
    let volumes = Volumes::generate(&Plan { volumes: 2, bytes: BYTES, seed: 4 }).unwrap();
    let file = volumes.dir().join("sluicegate.toml");
    let terms = |expires: &str, port| {
        format!(
            "[users.{USER}]\nallow = ['127.0.0.1:{port}']\nfrom = ['127.0.0.1']\nexpires = {expires}\n\
             max-tunnels = 2\nrate = '400MiB'\n"
        )
    };
    let (binary, mut target) = (Path::new(env!("CARGO_BIN_EXE_sluicegate")), 0);
    let route = Route::open(&volumes, |dir, port| {
        target = port;
        fs::write(&file, terms("2126-01-01T00:00:00Z", port)).unwrap();
        Gateway::start_with(binary, dir, port, &[("SLUICEGATE_CONFIG", file.to_str().unwrap())])
    });
    let route = route.unwrap_or_else(|failure| panic!("{failure}"));
    route.migrate(&mut || ()).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(volumes.verify().unwrap().bytes, 2 * BYTES);
    let metrics = route.gateway().metrics_after(2).unwrap();
    let bytes = |family| metrics.sum(family, &[]);
    assert_eq!(bytes("sluicegate_user_bytes_total"), bytes("sluicegate_bytes_total"));
    for line in route.gateway().closed_tunnels() {
        let rate = line["rate"].as_u64();
        assert!([400 << 20, 200 << 20].map(Some).contains(&rate), "all of it, or his half: {line}");
    }

    replace(&file, &terms("2026-01-01T00:00:00Z", target));
    let log = |message: &str| route.gateway().log().iter().any(|line| line["message"] == message);
    eventually("his terms count", || log("users reloaded"));
    route.probe().unwrap();
    eventually("both are refused for that", || {
        let metrics = route.gateway().metrics().unwrap();
        metrics.sum("sluicegate_connect_requests_total", &["reason=\"user_expired\""]) as usize == 2
    });
}

#[test]
fn a_second_run_sends_only_what_changed() {
    if !installed() {
        return;
    }
    let volumes = Volumes::generate(&Plan { volumes: 1, bytes: BYTES, seed: 2 }).unwrap();
    let route = open(&volumes);
    route.migrate(&mut || ()).unwrap_or_else(|failure| panic!("{failure}"));
    let first = route.gateway().metrics_after(1).unwrap().sum("sluicegate_bytes_total", &[]);

    let tree = volumes.source(0).join("tree");
    fs::write(tree.join("late arrival"), "written after the first run").unwrap();
    for path in [tree.join("late arrival"), tree] {
        // In the past, since rsync skips a time correct to the second.
        fs::File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1_100_000_000)).unwrap();
    }
    let error = volumes.verify().unwrap_err().to_string();
    assert!(error.contains("late arrival\" is missing in the copy"), "{error}");
    route.migrate(&mut || ()).unwrap_or_else(|failure| panic!("{failure}"));
    volumes.verify().unwrap();
    let second = route.gateway().metrics_after(2).unwrap().sum("sluicegate_bytes_total", &[]) - first;
    assert!(first > BYTES as f64 && second < BYTES as f64 / 20.0, "{first} bytes, then {second}");
}
