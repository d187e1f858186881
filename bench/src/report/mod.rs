//! Result of a run, as written to a file and read back.

mod markdown;
mod plots;
mod readme;

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::scale::Point;
use crate::stats::Samples;

pub use markdown::markdown;
pub use plots::plots;
pub use readme::readme;

/// All measurements of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Description of the machine.
    pub host: Host,
    /// Contenders; the first is the baseline of the others.
    pub contenders: Vec<Named>,
    /// Rounds of each measurement.
    pub rounds: usize,
    /// Seconds of each measurement in a round.
    pub seconds: f64,
    /// Share of the processor time stolen by the host of the virtual machine, from 0 to 1; it adds
    /// noise.
    pub stolen: f64,
    /// Measurements; none in a run of `scale` alone.
    pub rows: Vec<Row>,
    /// Cost of many tunnels; empty if not measured.
    pub scale: Vec<Point>,
}

/// A contender and its version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Named {
    /// Name in tables and plots.
    pub name: String,
    /// Version as printed by the program; empty if unknown.
    pub version: String,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Name of the measurement; unique with the unit.
    pub what: String,
    /// Unit of the samples.
    pub unit: String,
    /// Samples in the order of [`Report::contenders`]; empty if not measurable.
    pub samples: Vec<Samples>,
}

impl Report {
    /// Finds a row by its name and unit.
    #[must_use]
    pub fn row(&self, what: &str, unit: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what && row.unit == unit)
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{BESIDE_NAME, CONNECTS_NAME, IDLE_NAME, LOSS_NAME, bulk_name, ping_name};
    use crate::flow::Role;
    use crate::scale::Size;

    fn row(what: &str, unit: &str, values: [&[f64]; 2]) -> Row {
        let samples = values.map(|values| Samples(values.to_vec())).to_vec();
        Row { what: what.to_owned(), unit: unit.to_owned(), samples }
    }

    /// Report with a few rows of every kind.
    pub(crate) fn report() -> Report {
        let mut rows = vec![row(CONNECTS_NAME, unit::PER_SECOND, [&[9_000.0], &[5_000.0]])];
        for (tunnels, value) in [(1, 6.0), (4, 10.0), (64, 9.0)] {
            rows.push(row(&bulk_name(tunnels, Role::Sink), unit::RATE, [&[value], &[value * 0.9]]));
            rows.push(row(&bulk_name(tunnels, Role::Sink), unit::CPU, [&[0.2], &[0.24]]));
        }
        for (_, unit) in unit::PERCENTILES {
            rows.push(row(&ping_name(64), unit, [&[50.0], &[70.0]]));
            rows.push(row(BESIDE_NAME, unit, [&[500.0], &[1_700.0]]));
        }
        rows.push(row(LOSS_NAME, unit::PERCENT, [&[1.0], &[5.0]]));
        for (unit, value) in [(unit::KIB, 2.1), (unit::DESCRIPTORS, 2.0), (unit::THREADS, 0.0)] {
            rows.push(row(IDLE_NAME, unit, [&[], &[value]]));
        }
        let point = |open, busy| Point {
            size: Size { open, busy },
            rows: vec![row("s", unit::RATE, [&[7.0], &[6.0]]), row("s", unit::KIB, [&[], &[2.0]])],
        };
        let contenders = ["no proxy", "splice & co"];
        Report {
            host: Host::look(false).unwrap(),
            contenders: contenders.map(|name| Named { name: name.into(), version: "1".into() }).to_vec(),
            rounds: 1,
            seconds: 1.0,
            stolen: 0.0,
            rows,
            scale: vec![point(1, 1), point(64, 64), point(9_500, 0)],
        }
    }

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let text = serde_json::to_string(&report()).unwrap();
        let read: Report = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), text);
        let row = read.row(&bulk_name(4, Role::Sink), unit::RATE).unwrap();
        assert_eq!((row.median(1), row.ratio(1), row.ratio(0)), (Some(9.0), Some(0.9), None));
        assert!(read.row("what nobody measured", unit::RATE).is_none());
    }
}
