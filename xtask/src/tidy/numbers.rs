//! Table of numbers in the README: five rows and five columns of the measured table in
//! docs/benchmarks.md.

use super::finding::Finding;
use super::generated::split;

/// Document of all measurements, between `<!-- measured -->` markers.
pub(super) const BENCHMARKS: &str = "docs/benchmarks.md";

const COLUMNS: [&str; 5] = ["no proxy", "uring", "nginx", "haproxy", "squid"];
const ROWS: [&str; 5] = [
    "1 tunnel to the client, GiB/s",
    "64 tunnels to the client, GiB/s",
    "4 tunnels, CPU seconds of the machine per GiB",
    "64-byte ping-pong alone, p50 in us",
    "tunnels opened and closed a second, 4 clients",
];

/// Table for the README.
///
/// # Errors
/// A finding if a row or column is missing in `benchmarks`.
pub(super) fn table(benchmarks: &str) -> Result<String, Finding> {
    let missing = |what: &str| {
        let rule = format!("the measured table has no {what}, which README.md shows");
        Finding::new(BENCHMARKS, 1, rule, "run cargo xtask bench and paste what its command 'readme' prints")
    };
    let (_, measured, _) = split(benchmarks, "measured").ok_or_else(|| missing("markers"))?;
    let mut rows = measured.lines().filter(|line| line.starts_with('|')).map(cells);
    let head = rows.next().ok_or_else(|| missing("head"))?;
    let rows: Vec<_> = rows.collect();
    let columns = COLUMNS.map(|name| head.iter().position(|cell| *cell == name).ok_or(name));
    let mut text = format!("| | {} |\n|---{}|\n", COLUMNS.join(" | "), "|---".repeat(COLUMNS.len()));
    for name in ROWS {
        let row = rows.iter().find(|row| row.first() == Some(&name)).ok_or_else(|| missing(name))?;
        let mut values = Vec::new();
        for column in columns {
            let column = column.map_err(missing)?;
            values.push(*row.get(column).ok_or_else(|| missing(name))?);
        }
        text.push_str(&format!("| {name} | {} |\n", values.join(" | ")));
    }
    Ok(text)
}

fn cells(line: &str) -> Vec<&str> {
    line.trim().trim_matches('|').split('|').map(str::trim).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn benchmarks(columns: &[&str]) -> String {
        let values: Vec<_> = columns.iter().map(|name| format!("v {name}")).collect();
        let rows: Vec<_> = ROWS.iter().map(|row| format!("| {row} | {} |\n", values.join(" | "))).collect();
        let head = format!("| | {} |\n|---|---|\n", columns.join(" | "));
        format!("# x\n<!-- measured -->\nwords\n\n{head}| other | 1 |\n{}\n<!-- /measured -->\n", rows.concat())
    }

    #[test]
    fn rows_and_columns_are_taken_by_name() {
        let text = table(&benchmarks(&["haproxy", "no proxy", "copy", "squid", "uring", "nginx"])).unwrap();
        assert!(text.starts_with("| | no proxy | uring | nginx | haproxy | squid |\n|---|---|---|---|---|---|\n"));
        assert_eq!(text.lines().count(), 7, "{text}");
        for row in text.lines().skip(2) {
            assert!(row.ends_with(" | v no proxy | v uring | v nginx | v haproxy | v squid |"), "{row}");
        }
    }

    #[test]
    fn a_row_or_column_that_is_missing_is_named() {
        let found = |text: &str| table(text).unwrap_err().to_string();
        assert!(found(&benchmarks(&["no proxy", "uring", "squid", "nginx"])).contains("no haproxy"));
        let lost = benchmarks(&COLUMNS).replace(ROWS[2], "gone");
        assert!(found(&lost).contains(ROWS[2]) && found("# x\n").contains("no markers"));
    }
}
