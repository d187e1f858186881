//! The machine, or the part of it available to this process.

use super::cgroup;
use super::host::Host;
use super::row::{Row, State};

/// Recommended worker threads: with one, handshakes and bytes wait for each other, and a worker
/// cannot busy-poll.
const THREADS: usize = 2;

/// CPUs for running threads in parallel (sched_getaffinity(2), and the limit of the control group).
pub(super) fn cpus(threads: usize) -> Row {
    let row = Row::ok("cpus", format!("{threads} usable"), format!("{THREADS} or more"));
    row.unless(threads >= THREADS, |row| {
        row.costs(State::Slow, "one worker without busy-polling: messages wait behind bulk")
            .fix("give the machine, the container (podman run --cpus=2 ...) or the unit (CPUAffinity=) more")
    })
}

/// The limit of CPU time of the control group.
pub(super) fn cpu_limit(host: &Host, threads: usize) -> Row {
    let (check, needed) = ("cpu_limit", "none");
    let row = cgroup::cpus(host).map(|limit| match limit {
        None => Row::ok(check, "none", needed),
        Some(limit) => {
            let row = Row::ok(check, format!("{limit:.2} CPUs, for {threads} threads"), needed);
            row.costs(State::Slow, "once used up, every tunnel pauses for the rest of each 100 ms")
                .fix("podman run --cpus=0 ...")
                .fix("systemctl set-property UNIT CPUQuota=")
        }
    });
    Row::or_unknown(row, check, needed)
}

/// Memory for 10 Gbit/s over 50 ms, 64 pipes of 1 MiB, and the process: socket buffers
/// and pipes count against the group (`sock` and `kernel` in `memory.stat`, cgroup-v2.rst).
const MEMORY: u64 = 512 << 20;

/// The limit of memory of the control group.
pub(super) fn memory_limit(host: &Host) -> Row {
    let check = "memory_limit";
    let needed = format!("none, or {} MiB", MEMORY >> 20);
    let row = cgroup::memory(host).map(|limit| match limit {
        None => Row::ok(check, "none", &needed),
        Some(limit) => Row::ok(check, format!("{} MiB", limit >> 20), &needed).unless(limit >= MEMORY, |row| {
            row.costs(State::Slow, "socket buffers count towards it: windows shrink, then the process is killed")
                .fix("podman run --memory=1g ...")
                .fix("systemctl set-property UNIT MemoryMax=1G")
        }),
    });
    Row::or_unknown(row, check, &needed)
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
        assert_eq!((cpu_limit(&host, 2).found, memory_limit(&host).found), ("none".into(), "none".into()));
        tree.file("sys/fs/cgroup/cpu.max", "50000 100000");
        tree.file("sys/fs/cgroup/memory.max", "134217728");
        let (cpu, memory) = (cpu_limit(&host, 2), memory_limit(&host));
        assert_eq!((cpu.state, cpu.found.as_str()), (State::Slow, "0.50 CPUs, for 2 threads"));
        assert_eq!((memory.state, memory.found.as_str()), (State::Slow, "128 MiB"));
        assert_eq!(memory_limit(&Tree::new(&[]).host()).state, State::Unknown);
        assert_eq!([cpus(1).state, cpus(2).state], [State::Slow, State::Ok]);
    }
}
