//! Rows of a result: measurements by name and unit.

use serde::{Deserialize, Serialize};

use crate::flow::Role;
use crate::stats::Samples;

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Name of the measurement; unique with the unit.
    pub what: String,
    /// Unit of the samples.
    pub unit: String,
    /// Samples in the order of [`crate::report::Report::contenders`]; empty if not measurable.
    pub samples: Vec<Samples>,
}

impl Row {
    /// Median of contender `number`, if measured.
    #[must_use]
    pub fn median(&self, number: usize) -> Option<f64> {
        self.samples.get(number).map(Samples::median).filter(|median| median.is_finite())
    }

    /// Ratio to the first contender; `None` for a loss, for its ratio has no meaning.
    #[must_use]
    pub fn ratio(&self, number: usize) -> Option<f64> {
        let base = self.median(0).filter(|base| *base > 0.0 && self.unit != unit::PERCENT)?;
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
    /// Percentiles of a latency, with their shares of the samples.
    pub const PERCENTILES: [(f64, &str); 4] =
        [(0.5, "us, p50"), (0.9, "us, p90"), (0.99, "us, p99"), (0.999, "us, p99.9")];
    /// Processor time of the gateway for one tunnel.
    pub const EACH: &str = "gateway CPU us";
    /// A loss.
    pub const PERCENT: &str = "% lost";
    /// Tunnels opened one after the other.
    pub const OPENED: &str = "opened/s";
    /// Processor time of the gateway without traffic.
    pub const WAITING: &str = "gateway CPU ms/s at rest";
    /// Memory of an idle tunnel.
    pub const KIB: &str = "KiB";
    /// Descriptors of an idle tunnel.
    pub const DESCRIPTORS: &str = "descriptors";
    /// Threads of an idle tunnel.
    pub const THREADS: &str = "threads";
}

/// Formats a number of tunnels: `1 tunnel`, `4 tunnels`.
#[must_use]
pub fn tunnels(number: usize) -> String {
    if number == 1 { "1 tunnel".to_owned() } else { format!("{number} tunnels") }
}

/// Name of a bulk measurement in the table.
#[must_use]
pub fn bulk_name(number: usize, role: Role) -> String {
    let direction = match role {
        Role::Source => "to the origin",
        Role::Both => "both ways",
        Role::Sink | Role::Echo | Role::Short => "to the client",
    };
    format!("{} {direction}", tunnels(number))
}

/// Name of a ping-pong in the table.
#[must_use]
pub fn ping_name(size: usize) -> String {
    format!("ping-pong of {size} bytes alone")
}

/// Name of a ping-pong beside bulk load in the table.
pub const BESIDE_NAME: &str = "ping-pong of 64 bytes beside 4 bulk tunnels";

/// Name of the bulk load beside a ping-pong in the table.
pub const LOSS_NAME: &str = "those 4 bulk tunnels, to the ping-pong";

/// Name of opening tunnels in the table.
pub const CONNECTS_NAME: &str = "tunnels opened and closed, 4 clients";

/// Name of short tunnels in the table.
pub const SHORT_NAME: &str = "tunnels of 64 KiB each, 4 clients";

/// Name of idle tunnels in the table.
pub const IDLE_NAME: &str = "an idle tunnel";

/// Values of [`unit::PERCENTILES`].
pub(crate) fn percentiles(samples: &Samples) -> Vec<Option<f64>> {
    unit::PERCENTILES.iter().map(|(share, _)| Some(samples.percentile(*share))).collect()
}
