//! What the machine and a process on it are and use, out of /proc (proc(5)).

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Clock ticks a second in /proc: 100 on every Linux that userspace sees (`USER_HZ`).
const TICKS: f64 = 100.0;

/// CPU seconds that the whole machine has spent on anything but waiting.
///
/// # Errors
/// /proc/stat cannot be read.
pub fn busy_seconds() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let waiting = ticks.get(3).unwrap_or(&0.0) + ticks.get(4).unwrap_or(&0.0);
    Ok((ticks.iter().sum::<f64>() - waiting) / TICKS)
}

/// CPU seconds that process `pid` has spent.
///
/// # Errors
/// There is no such process.
pub fn process_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the fields behind it are numbers.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// What a process, or several, hold.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Memory in KiB, shared pages by their share (Pss).
    pub kib: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads, those of io_uring in the kernel included.
    pub threads: usize,
}

/// What `pid` and its descendants hold.
///
/// # Errors
/// They cannot be read, as for another user's.
pub fn process_family(pid: u32) -> io::Result<Process> {
    let mut sum = Process::default();
    let mut family = vec![pid];
    while let Some(pid) = family.pop() {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        sum.kib += pss.and_then(|kib| kib.trim().trim_end_matches(" kB").parse::<usize>().ok()).unwrap_or(0);
        sum.descriptors += fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        sum.threads += fs::read_dir(format!("/proc/{pid}/task"))?.count();
    }
    Ok(sum)
}

/// Raises the descriptor limit to its hard limit.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Always permitted up to the hard limit (getrlimit(2)).
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// The machine in a line.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Cores.
    pub cores: usize,
    /// Processor model.
    pub processor: String,
    /// The default congestion control; the bench's own sockets use cubic.
    pub congestion_control: String,
}

impl Machine {
    /// Looks.
    #[must_use]
    pub fn look() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let processor = read("/proc/cpuinfo");
        let model = processor.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cores: std::thread::available_parallelism().map_or(1, Into::into),
            processor: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let me = process_family(std::process::id()).unwrap();
        assert!(me.kib > 0 && me.descriptors >= 3 && me.threads >= 1, "{me:?}");
        assert!(busy_seconds().unwrap() > 0.0);
        assert!(process_seconds(std::process::id()).is_ok());
        assert!(process_seconds(0).is_err());
    }
}
