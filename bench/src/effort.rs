//! How much is measured.

use std::time::Duration;

use clap::Args;

/// How much is measured, where that is not left to the plan.
#[derive(Args)]
pub(crate) struct Effort {
    /// Seconds of each measurement
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds, of which the median counts
    #[arg(long)]
    rounds: Option<usize>,
}

impl Effort {
    /// Puts what was given in the place of what a plan has.
    pub(crate) fn change(&self, time: &mut Duration, rounds: &mut usize) {
        *time = self.seconds.map_or(*time, Duration::from_secs_f64);
        *rounds = self.rounds.unwrap_or(*rounds);
    }
}
