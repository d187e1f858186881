//! Where the ends of the tunnels run: in earnest on machines of their own, here on cores of their own, which
//! nothing that is measured can change.
//!
//! Left to the scheduler, client and echo of a ping-pong share a core in one run and not in the next, and
//! its time jumps by a factor of three. So the client runs on the first core and the echo on the last; and both
//! go before the threads of the bulk load, since a busy load generator is not what delays a message in earnest.
//!
//! The threads of the bulk load are spread over the cores, those of the same number on the same core, while there
//! are as many tunnels. Without a proxy that is where the scheduler has them by itself nearly all the time; with one
//! it throws dice, and the throughput of every proxy jumps by a third. Fewer tunnels leave cores free, and finding
//! those is the scheduler's.

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

/// A thread that is kept to a core of its own, or not.
#[derive(Debug)]
pub struct Place {
    permitted: CpuSet,
    own: CpuSet,
    kept: bool,
}

impl Place {
    /// For the calling thread, whose core is that of the number, counted round.
    ///
    /// # Errors
    /// Those of sched_getaffinity(2).
    pub fn new(number: usize) -> io::Result<Self> {
        let cores = cores()?;
        let core = cores.get(number % cores.len().max(1)).ok_or(io::ErrorKind::NotFound)?;
        Ok(Self { permitted: sched_getaffinity(None)?, own: only(*core), kept: false })
    }

    /// Keeps the thread to its core from now on, or lets it go where it may.
    pub fn keep(&mut self, keep: bool) {
        if keep != self.kept {
            // Where that is refused the scheduler does what it can.
            let _ = sched_setaffinity(None, if keep { &self.own } else { &self.permitted });
            self.kept = keep;
        }
    }
}

/// Puts the calling thread where `end` runs.
///
/// # Errors
/// The kernel refuses the core. That it refuses the priority, as it does to ordinary users, is no error:
/// [`has_priority`] says so for the report.
pub fn here(end: End) -> io::Result<()> {
    let cores = cores()?;
    let core = if end == End::Client { cores.first() } else { cores.last() };
    sched_setaffinity(None, &only(*core.ok_or(io::ErrorKind::NotFound)?))?;
    let _ = setpriority_process(None, FIRST);
    Ok(())
}

/// The cores that the calling thread may run on.
fn cores() -> io::Result<Vec<usize>> {
    let permitted = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|core| permitted.is_set(*core)).collect())
}

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
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
        assert_eq!(core(|| here(End::Client)) != core(|| here(End::Origin)), cores().unwrap().len() > 1);
    }

    #[test]
    fn numbers_go_round_the_cores() {
        let all = cores().unwrap();
        let kept = |number| move || Place::new(number).map(|mut place| place.keep(true));
        let found: Vec<usize> = (0..2 * all.len()).map(|number| core(kept(number))).collect();
        assert_eq!(found, [all.clone(), all].concat());
    }

    #[test]
    fn who_is_let_go_may_go_anywhere() {
        let found = std::thread::spawn(|| {
            let mut place = Place::new(0).unwrap();
            place.keep(true);
            place.keep(false);
            cores().unwrap()
        });
        assert_eq!(found.join().unwrap(), cores().unwrap());
    }

    /// The one core that a thread is kept to by that.
    fn core(put: impl FnOnce() -> io::Result<()> + Send + 'static) -> usize {
        let found = std::thread::spawn(move || put().and_then(|()| cores())).join().unwrap().unwrap();
        assert_eq!(found.len(), 1);
        found[0]
    }
}
