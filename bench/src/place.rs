//! Where the two ends of a ping-pong run.
//!
//! Left to the scheduler, client and echo of a ping-pong share a core in one run and not in the next, and
//! its time jumps by a factor of three. In earnest they are different machines. So the client runs on the
//! first core and the echo on the last, which no measurement of a gateway can change; and both go before
//! the threads of the bulk load, since a busy load generator is not what delays a message in earnest.

use std::io;

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The highest priority of ordinary threads (sched(7)).
const FIRST: i32 = -20;

/// An end of a ping-pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// On the first core.
    Client,
    /// On the last core.
    Origin,
}

/// Puts the calling thread where `end` runs.
///
/// # Errors
/// The kernel refuses the core. That it refuses the priority, as it does to ordinary users, is no error:
/// [`has_priority`] says so for the report.
pub fn here(end: End) -> io::Result<()> {
    let permitted = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|core| permitted.is_set(*core));
    let core = if end == End::Client { cores.next() } else { cores.next_back() };
    let mut chosen = CpuSet::new();
    chosen.set(core.ok_or(io::ErrorKind::NotFound)?);
    sched_setaffinity(None, &chosen)?;
    let _ = setpriority_process(None, FIRST);
    Ok(())
}

/// Whether the ends of a ping-pong may go before the load; asked on a thread of its own.
#[must_use]
pub fn has_priority() -> bool {
    std::thread::spawn(|| setpriority_process(None, FIRST).is_ok()).join().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_on_one_core_each() {
        let core = |end| {
            let set = std::thread::spawn(move || here(end).and_then(|()| Ok(sched_getaffinity(None)?)));
            let set = set.join().unwrap().unwrap();
            let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
            assert_eq!(cores.len(), 1, "{end:?}");
            cores[0]
        };
        let several = sched_getaffinity(None).unwrap().count() > 1;
        assert_eq!(core(End::Client) != core(End::Origin), several);
    }
}
