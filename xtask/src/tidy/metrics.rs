//! Checks that code writes every metric and docs/operations.md describes it.

use super::finding::{Finding, Source};
use super::map::FOLDER;
use super::scan::{code_without_tests, positions};

/// Document of the metrics.
pub(super) const DOCUMENT: &str = "docs/operations.md";
pub(super) const TABLE: &str = "proxy/src/metrics.rs";

/// Metrics not written by any code or not described in the document.
pub(super) fn check(sources: &[Source], document: &str) -> Vec<Finding> {
    let Some(table) = sources.iter().find(|source| source.path == TABLE) else { return Vec::new() };
    let code: Vec<String> = sources
        .iter()
        .filter(|source| source.path.starts_with(FOLDER) && !source.path.ends_with("/tests.rs"))
        .map(|source| code_without_tests(&source.text))
        .collect();
    let mut findings = Vec::new();
    for (line, ident, name) in rows(&table.text) {
        // The row itself is one use.
        let uses: usize = code.iter().map(|code| positions(code, ident).len()).sum();
        if uses < 2 {
            let rule = format!("no code writes the metric {ident}");
            findings.push(Finding::new(TABLE, line, rule, "write it where it happens, or remove the row"));
        }
        let full = format!("sluicegate_{name}");
        if positions(document, &full).is_empty() {
            let rule = format!("{DOCUMENT} does not describe {full}");
            findings.push(Finding::new(TABLE, line, rule, "add a row to its table of metrics"));
        }
    }
    findings
}

/// Line, identifier and name of `IDENT: Kind::..., "name", ...`.
fn rows(table: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    table.lines().enumerate().filter_map(|(index, line)| {
        let (ident, rest) = line.trim().split_once(": Kind::")?;
        let is_ident = ident.chars().all(|c| c == '_' || c.is_ascii_uppercase() || c.is_ascii_digit());
        let name = rest.split('"').nth(1)?;
        is_ident.then_some((index + 1, ident, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_with(user: &str, document: &str) -> Vec<String> {
        let table = "metrics_table! {\n    BYTES: Kind::Counter, \"bytes_total\", [],\n        \"Bytes\";\n}";
        let source = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let sources = [source(TABLE, table), source("proxy/src/relay.rs", user)];
        check(&sources, document).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_metric_that_is_used_and_described_passes() {
        assert_eq!(check_with("metrics::BYTES.add(1)", "| `sluicegate_bytes_total` |"), Vec::<String>::new());
    }

    #[test]
    fn a_metric_that_is_not_is_named() {
        let found = check_with("// BYTES\nBYTES_OF", "`sluicegate_bytes_total_more`");
        assert!(found[0].starts_with("proxy/src/metrics.rs:2: no code writes the metric BYTES"), "{found:?}");
        assert!(found[1].contains("docs/operations.md does not describe sluicegate_bytes_total"), "{found:?}");
    }
}
