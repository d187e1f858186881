//! Placement of the ends of the tunnels. In production they run on machines of their own; here they
//! run on cores of their own, out of reach of the contenders.
//!
//! Left to the scheduler, client and echo of a ping-pong share a core in some runs only, and the
//! latency jumps by a factor of three. So the client runs on the first core and the echo on the
//! last. Both have priority over the threads of the bulk load: in production, a busy load generator
//! does not delay a message.
//!
//! Threads of the bulk load are spread over the cores, threads of the same number on the same core,
//! while there are at least as many tunnels as threads. Without a proxy the scheduler places them
//! like this nearly always. With a proxy its placement is random, and the throughput of every proxy
//! jumps by a third. Fewer tunnels leave cores free, for the scheduler to find.

use std::io;

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The highest priority of ordinary threads (sched(7)).
const HIGHEST_PRIORITY: i32 = -20;

/// End of a ping-pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Client, on the first core.
    Client,
    /// Origin, on the last core.
    Origin,
}

/// CPU affinity of a thread: pinned to one core, or free.
#[derive(Debug)]
pub struct CpuAffinity {
    permitted: CpuSet,
    own: CpuSet,
    pinned: bool,
}

impl CpuAffinity {
    /// Affinity of the calling thread. Its core is `number` modulo the number of cores.
    ///
    /// # Errors
    /// Errors of sched_getaffinity(2).
    pub fn new(number: usize) -> io::Result<Self> {
        let cores = cores()?;
        let core = cores.get(number % cores.len().max(1)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { permitted: sched_getaffinity(None)?, own: only(*core), pinned: false })
    }

    /// Pins the thread to its core, or restores its original affinity.
    pub fn set_pinned(&mut self, pinned: bool) {
        if pinned != self.pinned {
            // Best effort: if refused, the scheduler places the thread.
            let _ = sched_setaffinity(None, if pinned { &self.own } else { &self.permitted });
            self.pinned = pinned;
        }
    }
}

/// Moves the calling thread to the core of `end`.
///
/// # Errors
/// The kernel refuses the core. A refused priority, as for ordinary users, is no error:
/// [`has_priority`] reports it.
pub fn pin_to_core_of(end: End) -> io::Result<()> {
    let cores = cores()?;
    let core = if end == End::Client { cores.first() } else { cores.last() };
    sched_setaffinity(None, &only(*core.ok_or(io::ErrorKind::NotFound)?))?;
    let _ = setpriority_process(None, HIGHEST_PRIORITY);
    Ok(())
}

/// Cores permitted for the calling thread.
fn cores() -> io::Result<Vec<usize>> {
    let permitted = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| permitted.is_set(*core)).collect())
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

/// Tests on a thread of its own if the ends of a ping-pong can get priority over the load.
#[must_use]
pub fn has_priority() -> bool {
    std::thread::spawn(|| setpriority_process(None, HIGHEST_PRIORITY).is_ok()).join().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_are_on_one_core_each() {
        assert_eq!(
            core(|| pin_to_core_of(End::Client)) != core(|| pin_to_core_of(End::Origin)),
            cores().unwrap().len() > 1
        );
    }

    #[test]
    fn numbers_go_round_the_cores() {
        let all = cores().unwrap();
        let pinned = |number| move || CpuAffinity::new(number).map(|mut affinity| affinity.set_pinned(true));
        let found: Vec<usize> = (0..2 * all.len()).map(|number| core(pinned(number))).collect();
        assert_eq!(found, [all.clone(), all].concat());
    }

    #[test]
    fn who_is_let_go_may_go_anywhere() {
        let found = std::thread::spawn(|| {
            let mut affinity = CpuAffinity::new(0).unwrap();
            affinity.set_pinned(true);
            affinity.set_pinned(false);
            cores().unwrap()
        });
        assert_eq!(found.join().unwrap(), cores().unwrap());
    }

    /// The core of a thread pinned by `put`.
    fn core(put: impl FnOnce() -> io::Result<()> + Send + 'static) -> usize {
        let found = std::thread::spawn(move || put().and_then(|()| cores())).join().unwrap().unwrap();
        assert_eq!(found.len(), 1);
        found[0]
    }
}
