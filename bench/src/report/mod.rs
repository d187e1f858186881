//! Reports of a run: its result file, and the table and plots made from it.

mod markdown;
mod plots;
mod readme;
mod result;

pub use markdown::markdown;
pub use plots::plots;
pub use readme::readme;
pub use result::{Named, Report};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Role;
    use crate::host::Host;
    use crate::rows::{BESIDE_NAME, CONNECTS_NAME, IDLE_NAME, LOSS_NAME, Row, bulk_name, ping_name, unit};
    use crate::scale::{Point, Size};
    use crate::stats::Samples;

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
