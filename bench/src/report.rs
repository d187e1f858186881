//! The result as a Markdown table: medians, the spread, the ratio to the first contender.

use std::fmt::Write as _;

use crate::compare::{Report, Row};
use crate::stats::Samples;

/// The whole report.
#[must_use]
pub fn markdown(report: &Report) -> String {
    let machine = &report.machine;
    let mut text = format!(
        "Linux {}, {} cores ({}), loopback, cubic. Median (least to most) and ratio to {}.\n\n",
        machine.kernel, machine.cores, machine.processor, report.contenders[0]
    );
    let _ = writeln!(text, "| | {} |", report.contenders.join(" | "));
    let _ = writeln!(text, "|---{}|", "|---".repeat(report.contenders.len()));
    for row in &report.rows {
        let _ = writeln!(text, "| {} | {} |", row.what, cells(row).join(" | "));
    }
    for (name, idle) in &report.idle {
        let _ = write!(
            text,
            "\nAn idle tunnel of {name}: {:.2} KiB, {:.2} descriptors, {:.2} threads.",
            idle.kib, idle.descriptors, idle.threads
        );
    }
    text.push('\n');
    text
}

fn cells(row: &Row) -> Vec<String> {
    let base = row.samples.first().map_or(f64::NAN, Samples::median);
    row.samples.iter().enumerate().map(|(number, samples)| cell(samples, (number > 0).then_some(base))).collect()
}

fn cell(samples: &Samples, base: Option<f64>) -> String {
    if samples.0.is_empty() {
        return "-".into();
    }
    let (least, most) = samples.spread();
    let median = samples.median();
    let mut text = format!("{} ({} to {})", short(median), short(least), short(most));
    if let Some(ratio) = base.map(|base| median / base).filter(|ratio| ratio.is_finite()) {
        let _ = write!(text, " **{ratio:.2}**");
    }
    text
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_medians_spreads_and_ratios() {
        let samples = vec![Samples(vec![10.0, 12.0, 11.0]), Samples(vec![5.5]), Samples::default()];
        let row = Row { what: "x".into(), samples };
        assert_eq!(cells(&row), ["11.0 (10.0 to 12.0)", "5.500 (5.500 to 5.500) **0.50**", "-"]);
    }
}
