//! Busy polling before sleeping: a message that arrives within the budget need not wait for a
//! thread to be woken. For interactive workers, and only while it pays.

use std::time::{Duration, Instant};

use rustix::thread::sched_yield;

use super::backoff::ExponentialBackoff;

/// Polls per decision on continuing to busy poll.
const SAMPLE_SIZE: u32 = 16;

/// Waits without busy polling after it did not pay: initial and maximum count.
const BACKOFF: (u32, u32) = (64, 4096);

/// If sched_yield(2) takes longer than this, another thread ran: stop busy polling.
const CROWDED: Duration = Duration::from_micros(10);

/// Decision on busy polling, and its time budget.
#[derive(Debug)]
pub(super) struct BusyPoll {
    budget: Duration,
    spins: u32,
    won: u32,
    backoff: ExponentialBackoff,
}

impl BusyPoll {
    /// Creates the state. A zero budget disables busy polling.
    pub(super) const fn new(budget: Duration) -> Self {
        Self { budget, spins: 0, won: 0, backoff: ExponentialBackoff::new(BACKOFF.0, BACKOFF.1) }
    }

    /// Polls for work until the budget is used up; returns true if there was some.
    ///
    /// Between two polls the core is offered to other threads, possibly the senders of the awaited
    /// work. If another thread takes the core, sleeping is better.
    pub(super) fn until(&mut self, mut found: impl FnMut() -> bool) -> bool {
        if self.budget.is_zero() || self.backoff.skips() {
            return false;
        }
        let mut now = Instant::now();
        let end = now + self.budget;
        loop {
            if found() {
                self.ended(true);
                return true;
            }
            sched_yield();
            let before = std::mem::replace(&mut now, Instant::now());
            if now - before > CROWDED {
                self.give_up();
                return found();
            }
            if now >= end {
                self.ended(false);
                return false;
            }
        }
    }

    /// Records the end of one busy poll, with or without work.
    fn ended(&mut self, with_work: bool) {
        self.spins += 1;
        self.won += u32::from(with_work);
        if self.spins < SAMPLE_SIZE {
            return;
        }
        if self.won * 2 < self.spins {
            return self.give_up();
        }
        self.backoff.reset();
        (self.spins, self.won) = (0, 0);
    }

    /// Stops busy polling for a while.
    fn give_up(&mut self) {
        self.backoff.back_off();
        (self.spins, self.won) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Share of `waits` waits with busy polling when each poll ends `with_work` or without.
    fn share(busy_poll: &mut BusyPoll, waits: u32, with_work: bool) -> f64 {
        let mut spun = 0;
        for _ in 0..waits {
            if !busy_poll.backoff.skips() {
                busy_poll.ended(with_work);
                spun += 1;
            }
        }
        f64::from(spun) / f64::from(waits)
    }

    #[test]
    fn it_goes_on_while_it_pays_rests_when_it_does_not_and_comes_back() {
        let mut busy_poll = BusyPoll::new(Duration::from_micros(50));
        assert_eq!(share(&mut busy_poll, 10_000, true), 1.0);
        assert!(share(&mut busy_poll, 100_000, false) < 0.01);
        assert!(share(&mut busy_poll, 10_000, true) > 0.5);
    }

    #[test]
    fn a_crowded_core_is_left_to_others() {
        let mut busy_poll = BusyPoll::new(Duration::from_secs(20));
        let start = Instant::now();
        // A poll this slow looks like another thread holding the core.
        assert!(!busy_poll.until(|| {
            let look = Instant::now();
            while look.elapsed() < CROWDED * 2 {
                std::hint::spin_loop();
            }
            false
        }));
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(busy_poll.backoff.skips());
    }

    #[test]
    fn work_that_is_there_is_found_and_without_a_budget_nobody_looks() {
        assert!(BusyPoll::new(Duration::from_secs(20)).until(|| true));
        assert!(!BusyPoll::new(Duration::ZERO).until(|| unreachable!("nobody looks")));
    }
}
