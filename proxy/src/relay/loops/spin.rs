//! Looking for work for a moment before sleeping: a message that comes back within that moment does not
//! wait for a thread to be woken. It is for interactive loops, and only while it pays.

use std::time::Duration;

/// Spins of which is judged whether they pay.
const JURY: u32 = 16;

/// Waits without a spin after spins that did not pay; doubled each time, up to the second number.
const REST: (u32, u32) = (64, 4096);

/// Whether to spin.
#[derive(Debug)]
pub(super) struct Spin {
    budget: Duration,
    spins: u32,
    won: u32,
    resting: u32,
    rest: u32,
}

impl Spin {
    /// A budget of zero is no spinning.
    pub(super) const fn new(budget: Duration) -> Self {
        Self { budget, spins: 0, won: 0, resting: 0, rest: REST.0 }
    }

    /// How long to spin before the wait that comes now, if at all.
    pub(super) fn budget(&mut self) -> Option<Duration> {
        if self.budget.is_zero() {
            return None;
        }
        if self.resting > 0 {
            self.resting -= 1;
            return None;
        }
        Some(self.budget)
    }

    /// How the spin ended: with work, or with its time.
    pub(super) fn ended(&mut self, found_work: bool) {
        self.spins += 1;
        self.won += u32::from(found_work);
        if self.spins < JURY {
            return;
        }
        if self.won * 2 < self.spins {
            self.resting = self.rest;
            self.rest = (self.rest * 2).min(REST.1);
        } else {
            self.rest = REST.0;
        }
        (self.spins, self.won) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of so many waits that is spun before, where each spin ends like this.
    fn share(spin: &mut Spin, waits: u32, found_work: bool) -> f64 {
        let mut spun = 0;
        for _ in 0..waits {
            if spin.budget().is_some() {
                spin.ended(found_work);
                spun += 1;
            }
        }
        f64::from(spun) / f64::from(waits)
    }

    #[test]
    fn it_goes_on_while_it_pays_rests_when_it_does_not_and_comes_back() {
        let mut spin = Spin::new(Duration::from_micros(50));
        assert_eq!(share(&mut spin, 10_000, true), 1.0);
        assert!(share(&mut spin, 100_000, false) < 0.01);
        assert!(share(&mut spin, 10_000, true) > 0.5);
    }

    #[test]
    fn without_a_budget_there_is_none() {
        assert_eq!(Spin::new(Duration::ZERO).budget(), None);
    }
}
