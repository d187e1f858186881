//! The result of a run, as it is written to a file and read again.

mod markdown;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::stats::Samples;

pub use markdown::markdown;

/// Everything that was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where.
    pub host: Host,
    /// Who; the first is what the others are compared with.
    pub contenders: Vec<Named>,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Seconds of each measurement in a round.
    pub seconds: f64,
    /// Share of the processor time that the host of the virtual machine kept: what it kept is noise.
    pub stolen: f64,
    /// The measurements.
    pub rows: Vec<Row>,
}

/// A contender and its version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// What tables and plots call it.
    pub name: String,
    /// What it says of itself; empty where it cannot be asked.
    pub version: String,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What was measured; with the unit it is unique.
    pub what: String,
    /// In what.
    pub unit: String,
    /// In the order of [`Report::contenders`]; empty where it cannot be measured.
    pub samples: Vec<Samples>,
}

impl Report {
    /// The row of that name.
    #[must_use]
    pub fn row(&self, what: &str, unit: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what && row.unit == unit)
    }
}

impl Row {
    /// The median of contender `number`, where there is one.
    #[must_use]
    pub fn median(&self, number: usize) -> Option<f64> {
        self.samples.get(number).map(Samples::median).filter(|median| median.is_finite())
    }

    /// Its ratio to the first contender.
    #[must_use]
    pub fn ratio(&self, number: usize) -> Option<f64> {
        let base = self.median(0).filter(|base| *base > 0.0)?;
        self.median(number).filter(|_| number > 0).map(|median| median / base)
    }
}

/// Units of the rows.
pub mod unit {
    /// Throughput.
    pub const RATE: &str = "GiB/s";
    /// Processor time of the whole machine.
    pub const CPU: &str = "CPU s/GiB";
    /// Tunnels.
    pub const PER_SECOND: &str = "/s";
    /// Percentiles of a latency, with the share of the samples below.
    pub const PERCENTILES: [(f64, &str); 4] =
        [(0.5, "us, p50"), (0.9, "us, p90"), (0.99, "us, p99"), (0.999, "us, p99.9")];
    /// Processor time of the gateway for one tunnel.
    pub const EACH: &str = "gateway CPU us";
    /// A loss.
    pub const PERCENT: &str = "% lost";
    /// Memory of an idle tunnel.
    pub const KIB: &str = "KiB";
    /// Descriptors of an idle tunnel.
    pub const DESCRIPTORS: &str = "descriptors";
    /// Threads of an idle tunnel.
    pub const THREADS: &str = "threads";
}

/// `1 tunnel`, `4 tunnels`.
#[must_use]
pub fn tunnels(number: usize) -> String {
    if number == 1 { "1 tunnel".to_owned() } else { format!("{number} tunnels") }
}
