//! Scheduling and CPU affinity of threads.

use std::io;
use std::thread::available_parallelism;

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The cores this process may run on, if it may use each of them fully. Empty if a control group
/// grants it less time: pinned threads would then compete with foreign ones. Also empty for a
/// single core, which leaves no choice now but may later.
#[must_use]
pub fn unthrottled_cpus() -> Vec<usize> {
    let cores = permitted().unwrap_or_default();
    // The standard library includes the quota (cgroup-v2.rst, `cpu.max`).
    let whole = available_parallelism().is_ok_and(|parallel| parallel.get() == cores.len());
    if whole && cores.len() > 1 { cores } else { Vec::new() }
}

/// The cores the calling thread may run on.
///
/// # Errors
/// The error of sched_getaffinity(2), as from a seccomp filter.
pub fn permitted() -> io::Result<Vec<usize>> {
    let permitted = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| permitted.is_set(*core)).collect())
}

/// Restricts the calling thread, and threads it starts from now on, to these cores.
///
/// # Errors
/// The error of sched_setaffinity(2): none of the cores is permitted, or a seccomp filter refuses
/// the call.
pub fn pin_to_cpus(cores: impl IntoIterator<Item = usize>) -> io::Result<()> {
    let mut set = CpuSet::new();
    cores.into_iter().for_each(|core| set.set(core));
    Ok(sched_setaffinity(None, &set)?)
}

/// The core of the calling thread.
#[must_use]
pub fn current_cpu() -> usize {
    sched_getcpu()
}

/// Sets the calling thread to `SCHED_BATCH`: on wake-up it does not preempt another thread, so it
/// finds more work at once (sched(7); `kernel/sched/fair.c`, `check_preempt_wakeup_fair`). Its
/// share of a core stays unchanged.
///
/// # Errors
/// The error of sched_setscheduler(2), as from a seccomp filter.
pub fn set_sched_batch() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the struct, which outlives the call, and keeps no pointer; 0 is the
    // calling thread itself.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives the calling thread the smallest share of a core, nice 19: 15 parts against 1,024 of
/// another thread (`kernel/sched/core.c`, `sched_prio_to_weight`).
///
/// Not SCHED_IDLE, whose 3 parts are too few: beside workers using a whole core, a password hash of
/// a quarter of a second would take a minute and a half.
///
/// # Errors
/// The error of setpriority(2), as from a seccomp filter.
pub fn lowest_priority() -> io::Result<()> {
    // 0 is the calling thread, not its process (setpriority(2), C library/kernel differences).
    Ok(setpriority_process(None, 19)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_to_the_cores_that_it_is_given_and_is_let_off_again() {
        let cores = unthrottled_cpus();
        let thread = std::thread::spawn(move || {
            for core in &cores {
                pin_to_cpus([*core]).unwrap();
                assert_eq!((current_cpu(), permitted().unwrap()), (*core, vec![*core]));
                assert!(unthrottled_cpus().is_empty(), "a thread that is kept to one core has no choice");
            }
            pin_to_cpus(cores.clone()).unwrap();
            assert_eq!(unthrottled_cpus(), cores);
        });
        thread.join().unwrap();
    }

    #[test]
    fn a_thread_may_always_ask_for_less() {
        std::thread::spawn(|| set_sched_batch().unwrap()).join().unwrap();
    }

    #[test]
    fn one_thread_of_a_process_has_the_lowest_priority() {
        let of = || rustix::process::getpriority_process(None).unwrap();
        let before = of();
        let lowest = std::thread::spawn(move || {
            lowest_priority().unwrap();
            of()
        });
        assert_eq!((lowest.join().unwrap(), of()), (19, before));
    }
}
