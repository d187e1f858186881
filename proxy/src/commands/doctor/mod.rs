//! `doctor`: tries the gateway's needs on this host, and reports the working engines, their speed,
//! and remedies.
//!
//! | file | content |
//! |---|---|
//! | `host` | the files of /proc and /sys, read without guessing |
//! | `cgroup` | the limits of the control groups |
//! | `refusal` | the cause of a refused system call, and the remedy |
//! | `check` | a check: found, needed, verdict, cost, fix |
//! | `kernel`, `room`, `tcp`, `connecting`, `machine` | the checks |
//! | `verdict` | the engines, tried as `serve` tries them, and the overall result |
//! | `report`, `text` | the table of checks, as an object and as text |

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::failure::{Failure, print};
use crate::config::{Engines, engines};
use crate::sys::socket::{Leg, LegOptions};

mod cgroup;
mod connecting;
mod finding;
mod host;
mod kernel;
mod machine;
mod refusal;
mod report;
mod room;

mod tcp;
mod text;
#[cfg(test)]
mod tree;
mod verdict;

use host::Host;
use report::Report;
use tcp::Chosen;
use verdict::Outcome;

/// The options of `doctor`.
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub json: bool,

    /// Configuration file of `serve`
    ///
    /// Its settings engine and congestion-control are used.
    #[arg(long, env = "SLUICEGATE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Engines to try, as for `serve`
    ///
    /// uring, splice, copy or sockmap, separated by commas; auto is uring,splice,copy.
    #[arg(long, env = "SLUICEGATE_ENGINE", value_name = "ENGINE", default_value = "auto", value_delimiter = ';', value_parser = engines)]
    pub engine: Vec<Engines>,

    /// TCP congestion control of `serve`
    #[arg(long, env = "SLUICEGATE_CONGESTION_CONTROL", value_name = "NAME", value_delimiter = ';')]
    pub congestion_control: Vec<String>,
}

impl Doctor {
    /// Prints the report.
    ///
    /// # Errors
    /// A congestion control refused by `serve` as well (2); a verdict below the best, after the
    /// report is printed (1 or 2).
    pub fn run(&self) -> Result<(), Failure> {
        let report = Report::new(&Host::this(), Engines::of(&self.engine), &self.chosen()?);
        let text = if self.json {
            serde_json::to_string_pretty(&report).map_err(|error| Failure::Work(error.to_string()))?
        } else {
            text::text(&report)
        };
        print(Ok::<_, Failure>(text))?;
        let because = report.because.join("; ");
        match report.verdict {
            Outcome::Best => Ok(()),
            Outcome::Degraded => Err(Failure::Work(format!("degraded: {because}"))),
            Outcome::CannotRun => Err(Failure::Host(format!("cannot run here: {because}"))),
        }
    }

    fn chosen(&self) -> Result<Chosen, Failure> {
        let leg = |leg, values: &[String]| LegOptions::new(leg, values, Duration::ZERO);
        let values = self.congestion_control.iter().flat_map(|value| value.split(',')).map(str::to_owned);
        let values = values.collect::<Vec<_>>();
        let of = |which| match leg(which, &values) {
            Ok(options) => Ok(options.congestion_control),
            Err(error) => Err(Failure::Usage(format!("--congestion-control: {error}"))),
        };
        let legs = [of(Leg::Client)?, of(Leg::Origin)?];
        Ok(Chosen { legs, no_cubic: leg(Leg::Client, &["cubic".to_owned()]).err().map(|error| error.to_string()) })
    }
}
