//! The machine, or the part of it available to this process.

use super::cgroup;
use super::check::{Check, State};
use super::host::Host;

/// Recommended worker threads: with one, handshakes and bytes wait for each other, and a worker
/// cannot busy-poll.
const THREADS: usize = 2;

/// CPUs for running threads in parallel (sched_getaffinity(2), and the limit of the control group).
pub(super) fn cpus(threads: usize) -> Check {
    let row = Check::ok("cpus", format!("{threads} usable"), format!("{THREADS} or more"));
    row.unless(threads >= THREADS, |row| {
        row.costs(State::Slow, "one worker without busy-polling: messages wait behind bulk")
            .fix("give the machine, the container (podman run --cpus=2 ...) or the unit (CPUAffinity=) more")
    })
}

/// The limit of CPU time of the control group.
pub(super) fn cpu_limit(host: &Host, threads: usize) -> Check {
    let (check, needed) = ("cpu_limit", "none");
    let row = cgroup::cpus(host).map(|limit| match limit {
        None => Check::ok(check, "none", needed),
        Some(limit) => {
            let row = Check::ok(check, format!("{limit:.2} CPUs, for {threads} threads"), needed);
            row.costs(State::Slow, "once used up, every tunnel pauses for the rest of each 100 ms")
                .fix("podman run --cpus=0 ...")
                .fix("systemctl set-property UNIT CPUQuota=")
        }
    });
    Check::or_unknown(row, check, needed)
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
        assert_eq!(cpu_limit(&host, 2).found, "none");
        tree.file("sys/fs/cgroup/cpu.max", "50000 100000");
        let cpu = cpu_limit(&host, 2);
        assert_eq!((cpu.state, cpu.found.as_str()), (State::Slow, "0.50 CPUs, for 2 threads"));
        assert_eq!(cpu_limit(&Tree::new(&[]).host(), 2).state, State::Unknown);
        assert_eq!([cpus(1).state, cpus(2).state], [State::Slow, State::Ok]);
    }
}
