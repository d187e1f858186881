//! Cost of a tunnel by the number of tunnels: 1 to 64 busy ones, 1,000 with 50 of them busy, and up
//! to 9,500 idle ones.

use std::io;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::flow::Role;
use crate::load::{self, Idle, Load, pause};
use crate::machine::{self, process_family, threads_seconds};
use crate::rounds::Rounds;
use crate::rows::{Row, percentiles, tunnels, unit};
use crate::stats::Samples;

/// Minimum number of tunnels for memory per tunnel: below, one-time allocations dominate.
const MIN_TUNNELS_FOR_MEMORY: usize = 1_000;

/// Tunnels opened before measuring the memory of idle ones.
const WARM_UP_TUNNELS: usize = 100;

/// Descriptors of a gateway beside two per tunnel: pipes, listeners, rings.
const RESERVED_DESCRIPTORS: u64 = 1_000;

/// Number of tunnels, open and busy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Open tunnels.
    pub open: usize,
    /// Tunnels that move bytes to the client.
    pub busy: usize,
}

/// Measurements of one size.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// Number of tunnels.
    pub size: Size,
    /// The measurements.
    pub rows: Vec<Row>,
}

/// Amount of measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds per measurement; the median counts.
    pub rounds: usize,
    /// The length of one measurement.
    pub time: Duration,
    /// Sizes, in order of measurement.
    pub sizes: Vec<Size>,
}

impl Plan {
    /// Plan of ten seconds for each contender.
    #[must_use]
    pub fn quick() -> Self {
        Self { rounds: 1, time: Duration::from_millis(500), sizes: sizes(&[1, 4, 16, 64], &[1_000], &[9_500]) }
    }

    /// Plan with more sizes and rounds.
    #[must_use]
    pub fn full() -> Self {
        let sizes = sizes(&[1, 2, 4, 8, 16, 32, 64], &[100, 300, 1_000], &[1_000, 3_000, 9_500]);
        Self { rounds: 3, time: Duration::from_millis(700), sizes }
    }
}

fn sizes(busy: &[usize], mixed: &[usize], idle: &[usize]) -> Vec<Size> {
    let room = machine::descriptors().saturating_sub(RESERVED_DESCRIPTORS) / 2;
    let room = usize::try_from(room).unwrap_or(usize::MAX);
    let busy = busy.iter().map(|&number| Size { open: number, busy: number });
    let mixed = mixed.iter().map(|&open| Size { open: open.min(room), busy: 50 });
    let idle = idle.iter().map(|&open| Size { open: open.min(room), busy: 0 });
    let mut sizes: Vec<Size> = busy.chain(mixed).chain(idle).collect();
    sizes.dedup();
    sizes
}

/// Runs the plan.
///
/// # Errors
/// The first failed measurement, with the name of its contender.
pub fn scale(contenders: &mut [Contender], plan: &Plan) -> io::Result<Vec<Point>> {
    let steps = plan.rounds * plan.sizes.len() * contenders.len();
    let mut all = Rounds::new(contenders, steps);
    let mut points = Vec::new();
    for &size in &plan.sizes {
        let name = name(size);
        let units = units();
        let names: Vec<(&str, &str)> = units.iter().map(|unit| (name.as_str(), *unit)).collect();
        let mut rows = all.rounds(plan.rounds, &names, |contender| measure(contender, size, plan.time))?;
        rows.retain(|row| row.samples.iter().any(|samples| !samples.0.is_empty()));
        points.push(Point { size, rows });
    }
    Ok(points)
}

/// Name of a size in the table.
#[must_use]
pub fn name(size: Size) -> String {
    match size.busy {
        0 => format!("{} idle", tunnels(size.open)),
        busy if busy == size.open => format!("{} busy", tunnels(busy)),
        busy => format!("{}, {busy} of them busy", tunnels(size.open)),
    }
}

fn units() -> Vec<&'static str> {
    let mut units = vec![unit::RATE, unit::CPU];
    units.extend(unit::PERCENTILES.map(|(_, unit)| unit));
    units.extend([unit::OPENED, unit::KIB, unit::DESCRIPTORS, unit::THREADS, unit::WAITING]);
    units
}

/// Values of [`units`].
fn measure(contender: &Contender, size: Size, time: Duration) -> io::Result<Vec<Option<f64>>> {
    let fresh = if size.busy == 0 { contender.fresh()? } else { None };
    let contender = fresh.as_ref().unwrap_or(contender);
    let quiet = size.open - size.busy;
    let first = load::open(&contender.route, WARM_UP_TUNNELS.min(quiet))?;
    let before = contender.pid().map(process_family).transpose()?;
    let (start, counted) = (Instant::now(), quiet - first.len());
    let rest = load::open(&contender.route, counted)?;
    let took = start.elapsed();
    let idle = before.filter(|_| size.busy == 0 && size.open >= MIN_TUNNELS_FOR_MEMORY).zip(contender.pid());
    let idle = idle.map(|(before, pid)| Ok::<_, io::Error>(Idle::between(before, process_family(pid)?, counted)));
    let idle = idle.transpose()?;
    let (mut values, latency) = if size.busy == 0 {
        (vec![None, None], load::paced(&contender.route, time)?)
    } else {
        let load = Load::start(&contender.route, size.busy, Role::Sink)?;
        let (bulk, latency) = load.during(|| load::paced(&contender.route, time))?;
        (vec![Some(bulk.gib_per_second), Some(bulk.cpu_per_gib)], latency)
    };
    values.extend(percentiles(&latency));
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    values.push((counted > 0).then(|| counted as f64 / took.as_secs_f64()));
    let each: [fn(&Idle) -> f64; 3] = [|idle| idle.kib, |idle| idle.descriptors, |idle| idle.threads];
    values.extend(each.map(|each| idle.as_ref().map(each)));
    values.push(if size.busy == 0 { waiting(contender, time)? } else { None });
    drop((first, rest));
    Ok(values)
}

/// Processor time of the gateway for idle tunnels, in milliseconds per second.
fn waiting(contender: &Contender, time: Duration) -> io::Result<Option<f64>> {
    let Some(pid) = contender.pid() else { return Ok(None) };
    let (before, start) = (threads_seconds(pid)?, Instant::now());
    pause(time);
    Ok(Some((threads_seconds(pid)? - before) * 1e3 / start.elapsed().as_secs_f64()))
}

/// Rows of all points.
pub fn rows(points: &[Point]) -> impl Iterator<Item = &Row> {
    points.iter().flat_map(|point| &point.rows)
}

/// Medians of contender `number` over the sizes selected by `wanted`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a number of tunnels")]
pub fn curve(points: &[Point], unit: &str, number: usize, wanted: impl Fn(Size) -> bool) -> Vec<(f64, f64)> {
    let points = points.iter().filter(|point| wanted(point.size));
    let median = |point: &Point| {
        let row = point.rows.iter().find(|row| row.unit == unit)?;
        let median = row.samples.get(number).map(Samples::median).filter(|median| median.is_finite())?;
        Some((point.size.open as f64, median))
    };
    points.filter_map(median).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_named_by_what_its_tunnels_do() {
        let name = |open, busy| name(Size { open, busy });
        assert_eq!(name(1, 1), "1 tunnel busy");
        assert_eq!(name(1_000, 50), "1000 tunnels, 50 of them busy");
        assert_eq!(name(9_500, 0), "9500 tunnels idle");
    }

    #[test]
    fn a_curve_holds_what_was_measured() {
        let row = |values: &[f64]| Row {
            what: String::new(),
            unit: unit::RATE.into(),
            samples: vec![Samples(values.to_vec()), Samples::default()],
        };
        let point = |open, busy, values: &[f64]| Point { size: Size { open, busy }, rows: vec![row(values)] };
        let points = [point(1, 1, &[3.0, 9.0, 4.0]), point(4, 4, &[]), point(9, 0, &[2.0])];
        assert_eq!(curve(&points, unit::RATE, 0, |size| size.busy > 0), [(1.0, 4.0)]);
        assert_eq!(curve(&points, unit::RATE, 1, |_| true), []);
        assert_eq!(curve(&points, unit::CPU, 0, |_| true), []);
    }
}
