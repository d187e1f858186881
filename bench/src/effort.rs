//! Amount of measurement.

use std::time::Duration;

use clap::Args;

/// Options that override the plan's amount of measurement.
#[derive(Args)]
pub(crate) struct Effort {
    /// Seconds of each measurement
    #[arg(long)]
    seconds: Option<f64>,
    /// Rounds; the median counts
    #[arg(long)]
    rounds: Option<usize>,
}

impl Effort {
    /// Overrides the values of a plan with the given options.
    pub(crate) fn change(&self, time: &mut Duration, rounds: &mut usize) {
        *time = self.seconds.map_or(*time, Duration::from_secs_f64);
        *rounds = self.rounds.unwrap_or(*rounds);
    }
}
