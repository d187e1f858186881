//! Plots as SVG, on a light background of their own: legible on a dark page too.

mod bars;
mod canvas;
mod lines;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use self::lines::{Axis, Panel, Series};
use super::result::Report;
use crate::flow::Role;
use crate::rows::{BESIDE_NAME, Row, bulk_name, ping_name, unit};
use crate::scale::{self, Size};

/// Files of the plots, with their titles.
pub(super) const FILES: [(&str, &str); 4] = [
    ("throughput.svg", "Throughput over the number of tunnels"),
    ("cpu.svg", "Processor time per GiB"),
    ("latency.svg", "Latency of a ping-pong, alone and beside bulk load"),
    ("scale.svg", "Cost over the number of tunnels"),
];

/// Draws the plots of `report` into `folder` and returns the written files.
///
/// # Errors
/// The folder cannot be written.
pub fn plots(report: &Report, folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(folder)?;
    let drawn = [throughput(report)?, cpu(report)?, latency(report)?, scaling(report)?];
    let files = FILES.iter().zip(drawn).filter_map(|((name, _), svg)| Some((folder.join(name), svg?)));
    files.map(|(path, svg)| fs::write(&path, svg).map(|()| path)).collect()
}

/// A series for each contender with `points`.
fn series(report: &Report, points: impl Fn(usize) -> Vec<(f64, f64)>) -> Vec<Series> {
    let named = report.contenders.iter().enumerate();
    let series =
        named.map(|(number, contender)| Series { name: contender.name.clone(), number, points: points(number) });
    series.filter(|series| !series.points.is_empty()).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a number of tunnels")]
fn throughput(report: &Report) -> io::Result<Option<String>> {
    let measured =
        |role| (1..=10_000).filter(move |number| report.row(&bulk_name(*number, role), unit::RATE).is_some());
    let panel = |role, title: &str| {
        let numbers: Vec<usize> = measured(role).collect();
        let points = |contender| {
            let of = |number: &usize| {
                let median = report.row(&bulk_name(*number, role), unit::RATE)?.median(contender)?;
                Some((*number as f64, median))
            };
            numbers.iter().filter_map(of).collect()
        };
        let ticks = numbers.iter().map(|number| *number as f64).collect();
        Panel {
            title: title.to_owned(),
            x: Axis::log("tunnels", ticks),
            y: Axis::linear("GiB/s"),
            series: series(report, points),
        }
    };
    let panels = [panel(Role::Sink, "Throughput to the client"), panel(Role::Source, "Throughput to the origin")];
    let panels: Vec<_> = panels.into_iter().filter(|panel| !panel.series.is_empty()).collect();
    lines::figure(&panels, panels.len())
}

fn cpu(report: &Report) -> io::Result<Option<String>> {
    let row = [4, 64, 1].iter().find_map(|number| {
        let name = bulk_name(*number, Role::Sink);
        report.row(&name, unit::CPU).map(|row| (name, row))
    });
    let Some((name, row)) = row else { return Ok(None) };
    let bars = report.contenders.iter().enumerate();
    let bars = bars.filter_map(|(number, contender)| Some((contender.name.as_str(), number, row.median(number)?)));
    bars::figure(&format!("CPU seconds of the whole machine per GiB, {name}"), &bars.collect::<Vec<_>>())
}

#[expect(clippy::cast_precision_loss, reason = "a place on the axis")]
fn latency(report: &Report) -> io::Result<Option<String>> {
    let panel = |what: &str, title: &str| {
        let rows: Vec<Option<&Row>> = unit::PERCENTILES.iter().map(|(_, unit)| report.row(what, unit)).collect();
        let points = |number| {
            let places = rows.iter().enumerate();
            places.filter_map(|(place, row)| Some((place as f64, row.as_ref()?.median(number)?))).collect()
        };
        let labels = unit::PERCENTILES.iter().map(|(_, unit)| unit.trim_start_matches("us, ").to_owned()).collect();
        Panel {
            title: title.to_owned(),
            x: Axis::places("percentile of the round trips", labels),
            y: Axis::log("us", Vec::new()),
            series: series(report, points),
        }
    };
    let panels = [
        panel(&ping_name(64), "64-byte ping-pong alone"),
        panel(BESIDE_NAME, "64-byte ping-pong beside 4 bulk tunnels"),
    ];
    let panels: Vec<_> = panels.into_iter().filter(|panel| !panel.series.is_empty()).collect();
    lines::figure(&panels, panels.len())
}

fn scaling(report: &Report) -> io::Result<Option<String>> {
    let panel = |title: &str, what: &str, logarithmic: bool, unit: &str, wanted: fn(Size) -> bool| {
        let series = series(report, |number| scale::curve(&report.scale, unit, number, wanted));
        let mut ticks: Vec<f64> = series.iter().flat_map(|series| series.points.iter().map(|point| point.0)).collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let y = if logarithmic { Axis::log(what, Vec::new()) } else { Axis::linear(what) };
        Panel { title: title.to_owned(), x: Axis::log("tunnels", ticks), y, series }
    };
    let [_, _, (_, p99), _] = unit::PERCENTILES;
    let panels = [
        panel("Throughput, all busy", "GiB/s", false, unit::RATE, |size| size.busy == size.open),
        panel("CPU of the machine, all busy", "s/GiB", false, unit::CPU, |size| size.busy == size.open),
        panel("Throughput, 50 of them busy", "GiB/s", false, unit::RATE, |size| size.busy < size.open),
        panel("p99 of a ping-pong beside, all busy", "us", true, p99, |size| size.busy == size.open),
        panel("p99 of a ping-pong beside, all idle", "us", true, p99, |size| size.busy == 0),
        panel("Memory of a tunnel, all idle", "KiB", false, unit::KIB, |size| size.busy == 0),
    ];
    let panels: Vec<_> = panels.into_iter().filter(|panel| !panel.series.is_empty()).collect();
    lines::figure(&panels, 2.min(panels.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn every_plot_is_well_formed_and_names_every_contender() {
        let folder = crate::process::folder().unwrap();
        let files = plots(&report(), folder.path()).unwrap();
        assert_eq!(files.len(), FILES.len());
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            assert_eq!(balance(&text), Ok(()), "{}", file.display());
            for name in ["no proxy", "splice &amp; co"] {
                assert!(text.contains(name), "{}: no {name}", file.display());
            }
        }
    }

    #[test]
    fn what_was_not_measured_is_not_drawn() {
        let folder = crate::process::folder().unwrap();
        let mut report = report();
        report.scale.clear();
        report.rows.clear();
        assert_eq!(plots(&report, folder.path()).unwrap(), Vec::<PathBuf>::new());
    }

    /// Checks that elements are closed in the reverse order of opening.
    fn balance(text: &str) -> Result<(), String> {
        let mut open = Vec::new();
        for piece in text.split('<').skip(1) {
            let (tag, _) = piece.split_once('>').ok_or(piece)?;
            let name = tag.trim_start_matches('/').split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or("");
            match tag {
                closing if closing.starts_with('/') => {
                    if open.pop() != Some(name) {
                        return Err(format!("</{name}> closes nothing"));
                    }
                }
                whole if whole.ends_with('/') || whole.starts_with(['?', '!']) => {}
                _ => open.push(name),
            }
        }
        if open.is_empty() { Ok(()) } else { Err(format!("{open:?} is not closed")) }
    }
}
