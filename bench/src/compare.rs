//! Measures all contenders in one run, interleaved, so that what the machine does beside hits all of
//! them alike.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::contender::Contender;
use crate::flow::Role;
use crate::load::{self, Idle};
use crate::machine::{Machine, process_seconds};
use crate::stats::Samples;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds of which the median counts.
    pub rounds: usize,
    /// The length of one measurement.
    pub time: Duration,
    /// Numbers of bulk tunnels.
    pub tunnels: Vec<usize>,
    /// Idle tunnels.
    pub idle: usize,
}

/// One row of the result: a measurement, and its samples by contender.
#[derive(Debug, serde::Serialize)]
pub struct Row {
    /// What was measured, with the unit.
    pub what: String,
    /// In the order of [`Report::contenders`]; empty where it cannot be measured.
    pub samples: Vec<Samples>,
}

/// Everything that was measured.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// The names; the first is what the others are compared with.
    pub contenders: Vec<String>,
    /// The measurements.
    pub rows: Vec<Row>,
    /// The cost of an idle tunnel, for the gateways that the bench started.
    pub idle: Vec<(String, Idle)>,
}

struct Session<'a> {
    contenders: &'a [Contender],
    plan: &'a Plan,
    bar: ProgressBar,
}

/// Runs the plan.
///
/// # Errors
/// The first measurement that fails, and whose.
pub fn compare(contenders: &[Contender], plan: &Plan) -> io::Result<Report> {
    let steps = plan.rounds * contenders.len() * (plan.tunnels.len() * 2 + 2) + 2 * contenders.len();
    let session = Session { contenders, plan, bar: bar(steps) };
    for contender in contenders {
        session.step(contender, "checking the bytes", || load::verify(&contender.way, 256, 42))?;
    }
    let mut rows = Vec::new();
    for &tunnels in &plan.tunnels {
        for (role, name) in [(Role::Sink, "to client"), (Role::Source, "to origin")] {
            rows.extend(session.bulk(tunnels, role, name)?);
        }
    }
    rows.extend(session.ping()?);
    rows.extend(session.connects()?);
    let idle = session.idle()?;
    session.bar.finish_and_clear();
    let contenders = contenders.iter().map(|contender| contender.name.clone()).collect();
    Ok(Report { machine: Machine::look(), contenders, rows, idle })
}

impl Session<'_> {
    fn step<T>(&self, contender: &Contender, what: &str, measure: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.bar.set_message(format!("{}: {what}", contender.name));
        let result = measure();
        self.bar.inc(1);
        result.map_err(|error| io::Error::new(error.kind(), format!("{}, {what}: {error}", contender.name)))
    }

    /// Measures each contender once a round; the values of a measurement become rows of `names`.
    fn rows<const N: usize>(
        &self,
        names: [String; N],
        measure: impl Fn(&Contender) -> io::Result<[Option<f64>; N]>,
    ) -> io::Result<Vec<Row>> {
        let mut rows = names.map(|what| Row { what, samples: vec![Samples::default(); self.contenders.len()] });
        for round in 0..self.plan.rounds {
            // Nobody is always the first, or always behind the same one.
            for number in (0..self.contenders.len()).map(|place| (place + round) % self.contenders.len()) {
                let contender = &self.contenders[number];
                let what = rows[0].what.clone();
                let values = self.step(contender, &what, || measure(contender))?;
                for (row, value) in rows.iter_mut().zip(values) {
                    row.samples[number].0.extend(value);
                }
            }
        }
        Ok(rows.into())
    }

    fn bulk(&self, tunnels: usize, role: Role, name: &str) -> io::Result<Vec<Row>> {
        let names = [format!("{tunnels} {name}, GiB/s"), format!("{tunnels} {name}, CPU s/GiB")];
        self.rows(names, |contender| {
            let bulk = load::bulk(&contender.way, tunnels, role, self.plan.time)?;
            Ok([Some(bulk.gib_per_second), Some(bulk.cpu_per_gib)])
        })
    }

    fn ping(&self) -> io::Result<Vec<Row>> {
        self.rows(["64 B ping-pong, us p50".into(), "64 B ping-pong, us p99".into()], |contender| {
            let samples = load::ping(&contender.way, 64, self.plan.time)?;
            Ok([Some(samples.percentile(0.5)), Some(samples.percentile(0.99))])
        })
    }

    fn connects(&self) -> io::Result<Vec<Row>> {
        let names =
            ["CONNECTs/s, 4 clients", "us to the first echo, p50", "us to the first echo, p99", "gateway CPU us each"];
        self.rows(names.map(Into::into), |contender| {
            let cpu = contender.pid().map(process_seconds).transpose()?;
            let result = load::connects(&contender.way, 4, self.plan.time)?;
            let cpu = contender.pid().map(process_seconds).transpose()?.zip(cpu).map(|(after, before)| after - before);
            #[expect(clippy::cast_precision_loss, reason = "a count")]
            let each = cpu.map(|cpu| cpu * 1e6 / result.latency.0.len() as f64);
            let latency = &result.latency;
            Ok([Some(result.per_second), Some(latency.percentile(0.5)), Some(latency.percentile(0.99)), each])
        })
    }

    fn idle(&self) -> io::Result<Vec<(String, Idle)>> {
        let mut all = Vec::new();
        for contender in self.contenders {
            let Some(pid) = contender.pid() else { continue };
            let idle = self.step(contender, "idle tunnels", || load::idle(&contender.way, self.plan.idle, pid))?;
            all.push((contender.name.clone(), idle));
        }
        Ok(all)
    }
}

fn bar(steps: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} ({eta} left)");
    ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
