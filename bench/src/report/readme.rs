//! Measured block of docs/benchmarks.md: the measurements with goals, in few words.

use std::fmt::Write as _;

use super::markdown::short;
use super::result::Report;
use crate::flow::Role;
use crate::rows::{BESIDE_NAME, CONNECTS_NAME, IDLE_NAME, LOSS_NAME, Row, bulk_name, ping_name, unit};

/// Formats the block. `images`: folder of the plots as linked from the document; `None` leaves them
/// out.
#[must_use]
pub fn readme(report: &Report, images: Option<&str>) -> String {
    let mut text = format!(
        "{} Medians of {} interleaved rounds, in parentheses the ratio to {}; ratios hold better than figures.\n\n",
        report.host.describe(),
        report.rounds,
        report.contenders[0].name
    );
    let names: Vec<_> = report.contenders.iter().map(|contender| contender.name.as_str()).collect();
    let _ = writeln!(text, "| | {} |", names.join(" | "));
    let _ = writeln!(text, "|---{}|", "|---".repeat(names.len()));
    for (label, row) in rows(report) {
        let cells: Vec<_> = (0..names.len()).map(|number| cell(row, number)).collect();
        let _ = writeln!(text, "| {label} | {} |", cells.join(" | "));
    }
    let idle: Vec<_> = (0..names.len()).map(|number| idle(report, number)).collect();
    if idle.iter().any(Option::is_some) {
        let cells: Vec<_> = idle.into_iter().map(|cell| cell.unwrap_or_else(|| "-".into())).collect();
        let _ = writeln!(text, "| an idle tunnel: KiB, descriptors, threads | {} |", cells.join(" | "));
    }
    if let Some(folder) = images {
        let drawn = super::plots::FILES.iter().filter(|(file, _)| *file != "scale.svg" || !report.scale.is_empty());
        drawn.for_each(|(file, what)| text.push_str(&format!("\n![{what}]({folder}/{file})\n")));
    }
    let versions = report.contenders.iter().filter(|contender| !contender.version.is_empty());
    let versions: Vec<_> = versions.map(|contender| format!("{}: {}", contender.name, contender.version)).collect();
    let _ = writeln!(text, "\n{}.", versions.join("; "));
    text
}

/// Measured rows, with their labels.
fn rows(report: &Report) -> Vec<(String, &Row)> {
    let mut rows = Vec::new();
    let mut add = |what: &str, unit: &str, label: String| {
        rows.extend(report.row(what, unit).map(|row| (label, row)));
    };
    let throughput = report.rows.iter().filter(|row| row.unit == unit::RATE && row.what != BESIDE_NAME);
    for row in throughput {
        add(&row.what, unit::RATE, format!("{}, GiB/s", row.what));
    }
    add(&bulk_name(4, Role::Sink), unit::CPU, "4 tunnels, CPU seconds of the machine per GiB".into());
    let [(_, p50), _, (_, p99), _] = unit::PERCENTILES;
    add(&ping_name(64), p50, "64-byte ping-pong alone, p50 in us".into());
    add(BESIDE_NAME, p99, "beside 4 bulk tunnels, p99 in us".into());
    add(LOSS_NAME, unit::PERCENT, "what those lose to it, %".into());
    add(CONNECTS_NAME, unit::PER_SECOND, "tunnels opened and closed a second, 4 clients".into());
    add(CONNECTS_NAME, unit::EACH, "CPU of the proxy for each, us".into());
    rows
}

fn cell(row: &Row, number: usize) -> String {
    let Some(median) = row.median(number) else { return "-".into() };
    row.ratio(number).map_or_else(|| short(median), |ratio| format!("{} ({ratio:.2})", short(median)))
}

fn idle(report: &Report, number: usize) -> Option<String> {
    let units = [unit::KIB, unit::DESCRIPTORS, unit::THREADS];
    let values = units.map(|unit| report.row(IDLE_NAME, unit).and_then(|row| row.median(number)));
    let [kib, descriptors, threads] = values;
    Some(format!("{:.1}, {:.0}, {:.0}", kib?, descriptors?, threads?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn the_block_holds_what_goals_are_set_for() {
        let text = readme(&report(), Some("docs"));
        assert!(text.contains("| 4 tunnels to the client, GiB/s | 10.0 | 9.00 (0.90) |"), "{text}");
        assert!(text.contains("| 4 tunnels, CPU seconds of the machine per GiB | 0.200 | 0.240 (1.20) |"), "{text}");
        assert!(text.contains("| an idle tunnel: KiB, descriptors, threads | - | 2.1, 2, 0 |"), "{text}");
        assert!(text.contains("| what those lose to it, % | 1.00 | 5.00 |"), "{text}");
        assert!(text.contains("(docs/throughput.svg)") && !readme(&report(), None).contains(".svg"));
    }
}
