//! The machine, or the part of it available to this process.

use super::cgroup;
use super::finding::{Found, State};
use super::host::{Host, HostError};

/// Recommended worker threads: with one, handshakes and bytes wait for each other, and a worker
/// cannot busy-poll.
pub(super) const THREADS: usize = 2;

/// CPUs for running threads in parallel (sched_getaffinity(2), and the limit of the control group).
pub(super) fn cpus(threads: usize) -> Found {
    Found::ok(format!("{threads} usable")).unless(threads >= THREADS, |found| {
        found
            .costs(State::Slow, "one worker without busy-polling: messages wait behind bulk")
            .fix("give the machine, the container (podman run --cpus=2 ...) or the unit (CPUAffinity=) more")
    })
}

/// The limit of CPU time of the control group.
pub(super) fn cpu_limit(host: &Host, threads: usize) -> Result<Found, HostError> {
    let Some(limit) = cgroup::cpus(host)? else { return Ok(Found::ok("none")) };
    Ok(Found::ok(format!("{limit:.2} CPUs, for {threads} threads"))
        .costs(State::Slow, "once used up, every tunnel pauses for the rest of each 100 ms")
        .fix("podman run --cpus=0 ...")
        .fix("systemctl set-property UNIT CPUQuota="))
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn limits_of_the_group_are_told() {
        let tree = Tree::new(&[
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", "30 22 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
        ]);
        let host = tree.host();
        assert_eq!(cpu_limit(&host, 2).unwrap().found, "none");
        tree.file("sys/fs/cgroup/cpu.max", "50000 100000");
        let cpu = cpu_limit(&host, 2).unwrap();
        assert_eq!((cpu.state, cpu.found.as_str()), (State::Slow, "0.50 CPUs, for 2 threads"));
        assert!(cpu_limit(&Tree::new(&[]).host(), 2).is_err());
        assert_eq!([cpus(1).state, cpus(2).state], [State::Slow, State::Ok]);
    }
}
