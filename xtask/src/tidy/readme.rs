//! Checks that the README is short.

use super::finding::Finding;

pub(super) const README: &str = "README.md";
const MAX_LINES: usize = 120;
const MAX_COLUMNS: usize = 120;

/// Findings about the number of lines and their length.
pub(super) fn check(readme: &str) -> Vec<Finding> {
    let long = readme.lines().enumerate().filter(|(_, line)| line.chars().count() > MAX_COLUMNS);
    let mut findings: Vec<_> = long
        .map(|(index, line)| {
            let rule = format!("{} columns are more than {MAX_COLUMNS}", line.chars().count());
            Finding::new(README, index + 1, rule, "break the line")
        })
        .collect();
    let lines = readme.lines().count();
    if lines > MAX_LINES {
        let rule = format!("{lines} lines are more than {MAX_LINES}");
        findings.push(Finding::new(README, lines, rule, "move detail to docs/"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn length_is_limited_both_ways() {
        let full = format!("{}\n", "\u{2500}".repeat(MAX_COLUMNS)).repeat(MAX_LINES);
        assert_eq!(check(&full), Vec::new());
        let found = check(&format!("{full}x{}\n", "y".repeat(MAX_COLUMNS)));
        assert_eq!(found.len(), 2);
        assert!(found[0].to_string().starts_with("README.md:121: 121 columns"), "{found:?}");
        assert!(found[1].to_string().contains("121 lines"), "{found:?}");
    }
}
