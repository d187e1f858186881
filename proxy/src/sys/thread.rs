//! How the kernel schedules a thread.

use std::io;

/// Has the scheduler take the calling thread for one that computes: when it is woken it does not push
/// another thread off its core, so that it finds more to do at once (`SCHED_BATCH`, sched(7);
/// `kernel/sched/fair.c`, `check_preempt_wakeup_fair`). Its share of a core stays the same.
///
/// # Errors
/// That of sched_setscheduler(2), as where a seccomp filter refuses it.
pub fn never_push_in() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the struct, which outlives the call, and keeps no pointer; 0 is the calling
    // thread itself.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_always_ask_for_less() {
        std::thread::spawn(|| never_push_in().unwrap()).join().unwrap();
    }
}
