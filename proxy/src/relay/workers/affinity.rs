//! CPU placement of bulk workers: on the core that receives most of the worker's bytes, if there is
//! one.
//!
//! The core that received a byte touched it last; a worker on another core first fetches every page
//! and every segment from there. For sixty-four tunnels on two cores the difference is 15 GiB/s
//! instead of 21. The scheduler does not see it, and a busy worker sleeps so seldom that it stays
//! where it happened to start. A busy worker therefore samples its sockets (`SO_INCOMING_CPU`,
//! socket(7)) and moves to the core they name. This is a move and no binding: the load balancer may
//! move the thread on. A worker that sleeps leaves room on its core, and the scheduler places it at
//! each wake-up; such a worker is not moved. Neither is a worker whose cores were chosen by taskset
//! or a cpuset.

use std::io;
use std::net::TcpStream;

use rustix::net::sockopt::socket_incoming_cpu;
use rustix::thread::CpuSet;

use super::backoff::ExponentialBackoff;
use super::traffic_class::Class;
use crate::sys::thread::{current_cpu, permitted, pin_to_cpus};

/// One in this many events is sampled.
const ONE_IN: u32 = 16;

/// Samples per decision.
const SAMPLE_SIZE: u32 = 64;

/// Sleeps per decision above which a worker is not busy: one sleep per sixteen events.
const SLEEPS: u32 = SAMPLE_SIZE;

/// Decisions ignored after a move: initial and maximum count. A worker moved back again and again
/// gives up. The count resets after [`CALM_DECISIONS`] decisions without a move.
const BACKOFF: (u32, u32) = (1, 1 << 10);

/// Decisions without a move after which [`BACKOFF`] resets.
const CALM_DECISIONS: u32 = 64;

/// Samples and state for the placement of one worker.
#[derive(Debug)]
pub(super) struct CpuAffinity {
    /// The worker is a bulk worker, and the kernel permits the move.
    may_move: bool,
    events: u32,
    answers: u32,
    /// A core and its lead in answers over all others: at the end, the majority's core if there is
    /// a majority (Boyer and Moore's majority vote).
    ahead: (usize, u32),
    sleeps: u32,
    backoff: ExponentialBackoff,
    calm: u32,
}

impl CpuAffinity {
    /// Creates the state for the calling thread. Tries a move at once: a seccomp filter that kills
    /// for it should do so before there are tunnels.
    pub(super) fn new(class: Class) -> Self {
        let may_move = class == Class::Bulk && move_to(current_cpu()).is_ok();
        Self { may_move, ..Self::still() }
    }

    const fn still() -> Self {
        let backoff = ExponentialBackoff::new(BACKOFF.0, BACKOFF.1);
        Self { may_move: false, events: 0, answers: 0, ahead: (0, 0), sleeps: 0, backoff, calm: 0 }
    }

    /// Takes note of an event of a socket, and moves the calling thread when it is time.
    pub(super) fn sample(&mut self, socket: &TcpStream) {
        self.events = (self.events + 1) % ONE_IN;
        if self.events != 0 || !self.may_move {
            return;
        }
        // The kernel's "none yet" is a number of no existing core.
        let Ok(core) = socket_incoming_cpu(socket) else { return };
        if let Some(core) = self.count(core as usize, current_cpu()) {
            // Moving only adds speed: if refused, the worker stays.
            let _ = move_to(core);
        }
    }

    /// Counts one sleep of the worker.
    pub(super) const fn slept(&mut self) {
        self.sleeps = self.sleeps.saturating_add(1);
    }

    /// Counts one answer. Returns the core to move to when a decision is reached and the core is
    /// not `here`.
    fn count(&mut self, core: usize, here: usize) -> Option<usize> {
        let (first, lead) = self.ahead;
        self.ahead = match lead {
            0 => (core, 1),
            lead if first == core => (core, lead + 1),
            lead => (first, lead - 1),
        };
        self.answers += 1;
        if self.answers < SAMPLE_SIZE {
            return None;
        }
        let (core, lead) = std::mem::take(&mut self.ahead);
        let busy = std::mem::take(&mut self.sleeps) <= SLEEPS;
        self.answers = 0;
        // A lead of a quarter of the answers: five of eight.
        self.decide((busy && lead >= SAMPLE_SIZE / 4 && core != here).then_some(core))
    }

    fn decide(&mut self, elsewhere: Option<usize>) -> Option<usize> {
        if self.backoff.skips() {
            return None;
        }
        if elsewhere.is_none() {
            self.calm += 1;
            if self.calm >= CALM_DECISIONS {
                self.calm = 0;
                self.backoff.reset();
            }
            return None;
        }
        self.calm = 0;
        self.backoff.back_off();
        elsewhere
    }
}

/// Moves the calling thread to `core` and then restores its affinity, if it may run on every core.
///
/// The restored mask names every possible core: the kernel intersects it with the cpuset, now and
/// whenever the cpuset changes (`kernel/sched/syscalls.c`, `__sched_setaffinity`).
fn move_to(core: usize) -> io::Result<()> {
    let permitted = permitted()?;
    if !permitted.contains(&core) || permitted.len() < online()? {
        return Ok(());
    }
    pin_to_cpus([core])?;
    pin_to_cpus(0..CpuSet::MAX_CPU)
}

/// Number of online cores (`Documentation/admin-guide/cputopology.rst`: "0-3,7").
fn online() -> io::Result<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online")?;
    in_list(text.trim()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn in_list(list: &str) -> Option<usize> {
    let length = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
    };
    list.split(',').map(length).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Moves proposed to a worker on core 0 when `of_eight` of eight answers name core 1.
    fn moves(of_eight: u32, answers: u32) -> Vec<usize> {
        let mut affinity = CpuAffinity::still();
        (0..answers).filter_map(|answer| affinity.count(usize::from(answer % 8 < of_eight), 0)).collect()
    }

    #[test]
    fn a_loop_goes_where_most_of_its_bytes_come_in_and_nowhere_else() {
        assert_eq!(moves(8, SAMPLE_SIZE), [1]);
        assert_eq!(moves(6, SAMPLE_SIZE), [1]);
        assert!(moves(4, 100 * SAMPLE_SIZE).is_empty());
        assert!(moves(0, 100 * SAMPLE_SIZE).is_empty());
    }

    #[test]
    fn one_that_sleeps_is_left_to_the_scheduler() {
        let mut affinity = CpuAffinity::still();
        let goes = (0..100 * SAMPLE_SIZE).any(|_| {
            affinity.slept();
            affinity.slept();
            affinity.count(1, 0).is_some()
        });
        assert!(!goes);
    }

    #[test]
    fn one_that_is_moved_back_each_time_gives_it_up_and_tries_anew_after_a_while() {
        assert!(moves(8, 1000 * SAMPLE_SIZE).len() <= 10);
        let mut affinity = CpuAffinity::still();
        let mut verdicts =
            |core: usize, number: u32| (0..number * SAMPLE_SIZE).filter_map(|_| affinity.count(core, 0)).count();
        assert_eq!(verdicts(1, 4), 2);
        assert_eq!(verdicts(0, CALM_DECISIONS + 4), 0);
        assert_eq!(verdicts(1, 1), 1);
    }

    #[test]
    fn a_move_is_no_binding_and_a_binding_is_respected() {
        let before = permitted().unwrap();
        for core in &before {
            move_to(*core).unwrap();
            assert_eq!(permitted().unwrap(), before);
        }
        move_to(CpuSet::MAX_CPU).unwrap();
        assert_eq!(permitted().unwrap(), before);
        let bound = [before[0]];
        pin_to_cpus(bound).unwrap();
        before.iter().for_each(|core| move_to(*core).unwrap());
        assert_eq!(permitted().unwrap(), bound);
    }

    #[test]
    fn a_list_of_cores_is_counted() {
        assert_eq!(in_list("0"), Some(1));
        assert_eq!(in_list("0-3,7,9-10"), Some(7));
        assert_eq!((in_list(""), in_list("3-1"), in_list("x")), (None, None, None));
    }
}
