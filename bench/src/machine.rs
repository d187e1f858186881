//! Resources of the machine and of processes, from /proc (proc(5)).

use std::fs;
use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Clock ticks per second in /proc: 100 on every Linux seen by userspace (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of all cores since boot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Time spent on anything but waiting.
    pub busy: f64,
    /// Time stolen by the host of a virtual machine for other guests.
    pub stolen: f64,
    /// Total time, including idle.
    pub all: f64,
}

impl Cpu {
    /// Reads the current values.
    ///
    /// # Errors
    /// /proc/stat cannot be read.
    pub fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; later fields are contained in
        // these.
        let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
        let [_, _, _, idle, iowait, _, _, steal] = ticks[..] else { return Err(io::ErrorKind::InvalidData.into()) };
        let all: f64 = ticks.iter().sum();
        Ok(Self {
            busy: (all - idle - iowait - steal) / TICKS_PER_SECOND,
            stolen: steal / TICKS_PER_SECOND,
            all: all / TICKS_PER_SECOND,
        })
    }

    /// Share of the total time since `then` stolen by the host, from 0 to 1.
    #[must_use]
    pub fn stolen_since(&self, then: &Self) -> f64 {
        (self.stolen - then.stolen) / (self.all - then.all).max(f64::EPSILON)
    }
}

/// CPU seconds spent by `pid` and its descendants.
///
/// # Errors
/// There is no such process.
pub fn family_seconds(pid: u32) -> io::Result<f64> {
    Ok(of_family(pid, process_seconds)?.into_iter().sum())
}

/// CPU seconds spent by the living threads of `pid` and its descendants, to the nanosecond
/// ([`family_seconds`] counts ticks). The time of an exited thread is lost.
///
/// # Errors
/// There is no such process, or the kernel keeps no schedstat.
pub fn threads_seconds(pid: u32) -> io::Result<f64> {
    Ok(of_family(pid, threads)?.into_iter().flatten().sum())
}

/// CPU seconds of each living thread.
fn threads(pid: u32) -> io::Result<Vec<f64>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    let spent = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("schedstat"))?;
        let nanoseconds = stat.split(' ').next().and_then(|field| field.parse::<f64>().ok());
        Ok(nanoseconds.unwrap_or(0.0) / 1e9)
    };
    // A thread may exit between the list and the read; a kernel without schedstat fails for every
    // thread.
    let all: Vec<io::Result<f64>> = tasks.flatten().map(spent).collect();
    if all.iter().all(Result::is_err) { all.into_iter().collect() } else { Ok(all.into_iter().flatten().collect()) }
}

/// Applies `look` to `pid` and to its descendants, except those that exit meanwhile.
fn of_family<T>(pid: u32, look: impl Fn(u32) -> io::Result<T>) -> io::Result<Vec<T>> {
    let first = look(pid)?;
    let seen = family(pid).into_iter().skip(1).map(look).filter(|seen| !seen.as_ref().is_err_and(is_gone));
    std::iter::once(Ok(first)).chain(seen).collect()
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

fn process_seconds(pid: u32) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may contain anything; the fields behind it are numbers.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Vec<f64> = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(ticks.iter().sum::<f64>() / TICKS_PER_SECOND)
}

/// Returns `pid` and its descendants, started from any thread.
fn family(pid: u32) -> Vec<u32> {
    let mut family = vec![pid];
    let mut seen = 0;
    while let Some(pid) = family.get(seen) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
        let children: Vec<String> = children.collect();
        family.extend(children.iter().flat_map(|ids| ids.split_whitespace()).filter_map(|id| id.parse::<u32>().ok()));
        seen += 1;
    }
    family
}

/// Resources of one or more processes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process {
    /// Memory in KiB, shared pages counted proportionally (Pss).
    pub kib: usize,
    /// Open descriptors.
    pub descriptors: usize,
    /// Threads, including those of io_uring in the kernel.
    pub threads: usize,
}

/// Resources of `pid` and its descendants.
///
/// # Errors
/// They cannot be read, for example for a process of another user.
pub fn process_family(pid: u32) -> io::Result<Process> {
    let all = of_family(pid, process)?;
    let sum = |value: fn(&Process) -> usize| all.iter().map(value).sum();
    Ok(Process { kib: sum(|p| p.kib), descriptors: sum(|p| p.descriptors), threads: sum(|p| p.threads) })
}

fn process(pid: u32) -> io::Result<Process> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    Ok(Process {
        kib: pss.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0),
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        threads: fs::read_dir(format!("/proc/{pid}/task"))?.count(),
    })
}

/// Maximum of descriptors of a process after raising the limit.
#[must_use]
pub fn descriptors() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Raises the descriptor limit to its hard limit.
pub fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    // Always permitted up to the hard limit (getrlimit(2)).
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_and_its_children_are_seen() {
        let before = process_family(std::process::id()).unwrap();
        assert!(before.kib > 0 && before.descriptors >= 3 && before.threads >= 1, "{before:?}");
        assert!(family_seconds(std::process::id()).is_ok() && family_seconds(0).is_err());
        assert!(threads_seconds(std::process::id()).unwrap() > 0.0);
        // Started from a thread other than the first.
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let family = family(std::process::id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(family.contains(&child.id()), "{family:?}");
    }

    #[test]
    fn the_parts_of_the_processor_time_are_parts() {
        let cpu = Cpu::now().unwrap();
        assert!(cpu.busy > 0.0 && cpu.stolen >= 0.0 && cpu.busy + cpu.stolen <= cpu.all, "{cpu:?}");
    }
}
