//! Runs over several contenders: start, measure, report.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum as _;

use crate::cli::{Compare, ContenderOptions, Output, Scale};
use crate::setup::far_end;
use sluicegate_bench::contender::{Contender, Kind};
use sluicegate_bench::host::Host;
use sluicegate_bench::machine::Cpu;
use sluicegate_bench::process::Process;
use sluicegate_bench::report::{self, Named, Report};
use sluicegate_bench::{compare, interrupt, namespace, scale};

/// Compares and, except in a quick run, scales.
pub(crate) fn compared(task: &Compare) -> io::Result<()> {
    let mut field = Field::start(&task.rivals, Kind::value_variants())?;
    let mut plan = if task.quick { compare::Plan::quick } else { compare::Plan::full }(task.tunnels.clone());
    task.effort.change(&mut plan.time, &mut plan.rounds);
    let mut report = field.report(plan.rounds, plan.time)?;
    report.rows = compare::compare(&mut field.contenders, &plan)?;
    if !task.quick {
        let mut plan = scale::Plan::full();
        task.effort.change(&mut plan.time, &mut plan.rounds);
        report.scale = scale::scale(field.engines(), &plan)?;
    }
    field.finish(report, &task.output)
}

/// Measures the scaling.
pub(crate) fn scaled(task: &Scale) -> io::Result<()> {
    let mut field = Field::start(&task.rivals, &[Kind::Engines])?;
    let mut plan = if task.quick { scale::Plan::quick() } else { scale::Plan::full() };
    task.effort.change(&mut plan.time, &mut plan.rounds);
    let mut report = field.report(plan.rounds, plan.time)?;
    report.scale = scale::scale(&mut field.contenders, &plan)?;
    field.finish(report, &task.output)
}

/// Reads a result from a file.
pub(crate) fn read(file: &Path) -> io::Result<Report> {
    let named = |error: &dyn std::fmt::Display| io::Error::other(format!("{}: {error}", file.display()));
    let text = fs::read(file).map_err(|error| named(&error))?;
    serde_json::from_slice(&text).map_err(|error| named(&error))
}

/// Draws the plots and prints their paths.
pub(crate) fn draw(report: &Report, folder: &Path) -> io::Result<()> {
    for path in report::plots(report, folder)? {
        eprintln!("{}", path.display());
    }
    Ok(())
}

/// Contenders and origin, dropped in this order.
struct Field {
    contenders: Vec<Contender>,
    /// Number of contenders without other proxies: no proxy, the running one, and the engines.
    own: usize,
    began: Cpu,
    mixed: bool,
    _origin: Option<Process>,
}

impl Field {
    /// Starts the origin and all contenders.
    fn start(rivals: &ContenderOptions, usual: &[Kind]) -> io::Result<Self> {
        // A running proxy is not reachable from a new namespace.
        if rivals.against.is_none() && rivals.target.is_none() {
            namespace::enter()?;
        }
        interrupt::catch()?;
        let (process, origin) = far_end(rivals.target, rivals.mixed)?;
        let mut contenders = vec![Contender::direct(origin)];
        let running = rivals.against.map(|address| Contender::running(&address.to_string(), rivals.running(), origin));
        contenders.extend(running);
        let (programs, kinds) = rivals.programs(usual);
        let mut own = contenders.len();
        for kind in kinds {
            contenders.extend(programs.start(kind, origin)?);
            own = if kind == Kind::Engines { contenders.len() } else { own };
        }
        Ok(Self { contenders, own, began: Cpu::now()?, mixed: rivals.mixed, _origin: process })
    }

    /// Contenders of the scaling.
    fn engines(&mut self) -> &mut [Contender] {
        &mut self.contenders[..self.own]
    }

    /// Report without results.
    fn report(&self, rounds: usize, time: Duration) -> io::Result<Report> {
        let named = |contender: &Contender| Named { name: contender.name.clone(), version: contender.version.clone() };
        Ok(Report {
            host: Host::look(self.mixed)?,
            contenders: self.contenders.iter().map(named).collect(),
            rounds,
            seconds: time.as_secs_f64(),
            stolen: 0.0,
            rows: Vec::new(),
            scale: Vec::new(),
        })
    }

    /// Ends all contenders and writes the result.
    fn finish(self, mut report: Report, output: &Output) -> io::Result<()> {
        report.stolen = Cpu::now()?.stolen_since(&self.began);
        drop(self);
        print!("{}", report::markdown(&report));
        if let Some(file) = &output.json {
            file.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(file, serde_json::to_vec_pretty(&report)?)?;
            eprintln!("{}", file.display());
        }
        output.plots.as_ref().map_or(Ok(()), |folder| draw(&report, folder))
    }
}
