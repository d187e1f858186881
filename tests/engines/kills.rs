//! Tunnels killed by an operator at any moment leave nothing behind.

use std::collections::HashMap;
use std::fs;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use rustix::process::Pid;
use sluicegate::metrics;
use sluicegate::relay::Engine;

use super::rig::{self, Ends, Rig};
use crate::support::gateway::engines;
use crate::support::noise::End;
use crate::support::process::sees_descriptors;
use crate::support::{Noise, admin, eventually};

const TUNNELS: u64 = 1_000;

/// Receives on both sides until the end of the tunnel; most sides also send.
fn live(ends: &Ends, seed: u64) {
    let sides = [(&ends.client, 2 * seed, 2 * seed + 1), (&ends.origin, 2 * seed + 1, 2 * seed)];
    thread::scope(|scope| {
        for (side, (stream, own, other)) in sides.into_iter().enumerate() {
            let sends = !(seed >> side).is_multiple_of(4);
            if sends {
                // Sends until the write fails.
                scope.spawn(move || Noise::new(own).send(stream, usize::MAX));
            }
            scope.spawn(move || {
                let (_, end) = Noise::new(other).expect(stream);
                // The kernel reports an error once, to the first call.
                assert!(sends || end == End::Reset, "seed {seed}");
            });
        }
    });
}

/// Shuts down both sides if nobody kills their tunnel, so that a failing test ends too.
struct Cut<'a>(&'a Ends);

impl Drop for Cut<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            for side in [&self.0.client, &self.0.origin] {
                let _ = side.shutdown(Shutdown::Both);
            }
        }
    }
}

fn kill(rig: &Rig, ends: &Ends, seed: u64) {
    let id = rig
        .gateway
        .log
        .line_from(ends.position, "its number", |line| line.message() == "tunnel established" && line.is_of(ends.from));
    let mut random = Noise::new(seed);
    // At a random moment from the start of the tunnel to the middle of a transfer; no condition to
    // wait for.
    thread::park_timeout(Duration::from_micros(random.below(8_000)));
    let answer = admin::delete(&rig.gateway.control, &format!("/api/tunnels/{}", id.number("id")));
    assert_eq!(answer.status, 204, "seed {seed}");
}

/// The descriptors of a process and their targets.
fn descriptors(pid: Pid) -> Vec<(String, String)> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours").flatten();
    let links = links.filter_map(|link| Some((link.file_name(), fs::read_link(link.path()).ok()?)));
    links.map(|(name, to)| (name.to_string_lossy().into_owned(), to.to_string_lossy().into_owned())).collect()
}

/// Number of sockets of a process, connected or not, except listeners (`/proc/PID/net/tcp`, state
/// 0A) and Unix sockets.
fn sockets(pid: Pid) -> usize {
    let table = |name: &str| fs::read_to_string(format!("/proc/{pid}/net/{name}")).unwrap_or_default();
    let column = |text: &str, column: usize| {
        text.lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(column))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let listening = ["tcp", "tcp6"].map(|name| {
        let text = table(name);
        let states = column(&text, 3);
        column(&text, 9)
            .into_iter()
            .zip(states)
            .filter(|(_, state)| state == "0A")
            .map(|(inode, _)| inode)
            .collect::<Vec<_>>()
    });
    let own = column(&table("unix"), 6);
    let of = |inode: &str| listening.iter().flatten().chain(&own).any(|known| known == inode);
    let inodes = descriptors(pid).into_iter();
    let inodes = inodes.filter_map(|(_, to)| Some(to.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()));
    inodes.filter(|inode| !of(inode)).count()
}

/// Active polls of each io_uring of a process (`/proc/PID/fdinfo`, `io_uring/fdinfo.c`).
fn polls(pid: Pid) -> Vec<usize> {
    let rings = descriptors(pid).into_iter().filter(|(_, to)| to.ends_with("anon_inode:[io_uring]"));
    let info = rings.map(|(ring, _)| fs::read_to_string(format!("/proc/{pid}/fdinfo/{ring}")).expect("its state"));
    info.map(|info| info.matches("  op=6, ").count()).collect()
}

/// Number of pipes with both ends in one process.
fn pipes(pid: Pid) -> usize {
    let mut ends = HashMap::new();
    for (_, to) in descriptors(pid).into_iter().filter(|(_, to)| to.starts_with("pipe:")) {
        *ends.entry(to).or_insert(0) += 1;
    }
    ends.values().filter(|count| **count == 2).count()
}

fn killed_at_any_moment(engine: Engine) {
    if !sees_descriptors() {
        return;
    }
    let rig = Rig::new(engine);
    let pid = rig.gateway.pid();
    // The self-test's tunnel may be closing.
    eventually("each ring polls what wakes it, and nothing else", || {
        let polls = polls(pid);
        polls.iter().sum::<usize>() == polls.len()
    });
    eventually("no socket of it is left", || sockets(pid) == 0);
    let idle_polls = polls(pid);
    assert_eq!(idle_polls.is_empty(), engine != Engine::Uring);
    rig::crowd(TUNNELS, |origin, seed| {
        let ends = rig.tunnel_to(origin, b"");
        thread::scope(|scope| {
            scope.spawn(|| live(&ends, seed));
            let _unless_killed = Cut(&ends);
            kill(&rig, &ends, seed);
        });
        let line = rig.closing_line(&ends);
        assert_eq!(line.text("outcome"), "killed", "{}", line.raw);
    });
    assert_eq!(rig.gateway.metric(&metrics::TUNNELS, &[engine.label(), "killed"]), TUNNELS);
    assert_eq!(rig.gateway.metric(&metrics::TUNNELS_ACTIVE, &[engine.label()]), 0);
    eventually("no socket is left", || sockets(pid) == 0);
    eventually("no poll is left", || polls(pid) == idle_polls);
    let megabytes = || usize::try_from(rig.gateway.metric(&metrics::PIPE_BYTES, &[]) >> 20).expect("few");
    eventually("every pipe is in somebody's stock", || megabytes() == pipes(pid));
}

#[test]
fn uring_leaves_nothing_of_a_thousand_killed_tunnels() {
    killed_at_any_moment(Engine::Uring);
}

#[test]
fn sockmap_leaves_nothing_of_a_thousand_killed_tunnels() {
    if engines().contains(&Engine::Sockmap) {
        killed_at_any_moment(Engine::Sockmap);
    }
}

#[test]
fn splice_leaves_nothing_of_a_thousand_killed_tunnels() {
    killed_at_any_moment(Engine::Splice);
}
