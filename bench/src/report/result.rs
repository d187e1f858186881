//! Result of a run, as written to a file and read back.

use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::rows::Row;
use crate::scale::Point;

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

impl Report {
    /// Finds a row by its name and unit.
    #[must_use]
    pub fn row(&self, what: &str, unit: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.what == what && row.unit == unit)
    }
}
