//! The result as a Markdown table: medians, the spread, the ratio to the first contender.

use std::fmt::Write as _;

use super::result::Report;
use crate::rows::Row;
use crate::scale;

/// Formats the whole report.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let mut text = format!(
        "{} {} rounds of {} s; median (least to most) and **ratio** to {}; {:.1} % of the processor time stolen.\n\n",
        report.host.describe(),
        report.rounds,
        report.seconds,
        report.contenders[0].name,
        report.stolen * 100.0
    );
    let names: Vec<_> = report.contenders.iter().map(|contender| contender.name.as_str()).collect();
    let _ = writeln!(text, "| | {} |", names.join(" | "));
    let _ = writeln!(text, "|---{}|", "|---".repeat(names.len()));
    for row in report.rows.iter().chain(scale::rows(&report.scale)) {
        let cells: Vec<_> = (0..names.len()).map(|number| cell(row, number)).collect();
        let _ = writeln!(text, "| {}, {} | {} |", row.what, row.unit, cells.join(" | "));
    }
    let versions = report.contenders.iter().filter(|contender| !contender.version.is_empty());
    let versions: Vec<_> = versions.map(|contender| format!("{}: {}", contender.name, contender.version)).collect();
    if !versions.is_empty() {
        let _ = writeln!(text, "\n{}.", versions.join("; "));
    }
    text
}

fn cell(row: &Row, number: usize) -> String {
    let Some(median) = row.median(number) else { return "-".into() };
    let samples = &row.samples[number];
    let mut text = short(median);
    if samples.0.len() > 1 {
        let (least, most) = samples.spread();
        let _ = write!(text, " ({} to {})", short(least), short(most));
    }
    if let Some(ratio) = row.ratio(number) {
        let _ = write!(text, " **{ratio:.2}**");
    }
    text
}

/// Formats about three digits.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        small if small >= 1.0 || small == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Samples;

    #[test]
    fn a_row_shows_medians_spreads_and_ratios() {
        let samples = vec![Samples(vec![10.0, 12.0, 11.0]), Samples(vec![5.5]), Samples::default()];
        let row = Row { what: "x".into(), unit: "y".into(), samples };
        let cells: Vec<_> = (0..3).map(|number| cell(&row, number)).collect();
        assert_eq!(cells, ["11.0 (10.0 to 12.0)", "5.50 **0.50**", "-"]);
    }
}
