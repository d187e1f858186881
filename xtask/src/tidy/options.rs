//! The options table of the README is what the program itself prints.

use super::Finding;

const README: &str = "README.md";
const OPEN: &str = "<!-- options -->\n";
const CLOSE: &str = "<!-- /options -->";

/// The README with `table` between its markers; a finding when the markers are missing.
pub(super) fn rewrite(readme: &str, table: &str) -> Result<String, Finding> {
    let missing = || {
        Finding::new(README, 1, "the options table stands between markers", format!("add {} and {CLOSE}", OPEN.trim()))
    };
    let (before, rest) = readme.split_once(OPEN).ok_or_else(missing)?;
    let (_, after) = rest.split_once(CLOSE).ok_or_else(missing)?;
    Ok(format!("{before}{OPEN}{}\n{CLOSE}{after}", table.trim_end()))
}

/// The first line at which the README's table is not the program's.
pub(super) fn check(readme: &str, table: &str) -> Vec<Finding> {
    let right = match rewrite(readme, table) {
        Ok(right) => right,
        Err(finding) => return vec![finding],
    };
    let (mut is, mut should) = (readme.lines(), right.lines());
    let mut number = 0;
    loop {
        number += 1;
        match (is.next(), should.next()) {
            (None, None) => return Vec::new(),
            (is, should) if is == should => {}
            (_, should) => {
                let rule =
                    format!("the options table is not the program's; here it says: {}", should.unwrap_or("nothing"));
                return vec![Finding::new(README, number, rule, "run cargo xtask tidy --fix")];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| option |\n|---|\n| `--listen` |\n";

    #[test]
    fn a_table_is_checked_and_rewritten() {
        let stale = "# x\n<!-- options -->\n| option |\n|---|\n| `--gone` |\n<!-- /options -->\nrest\n";
        let found = check(stale, TABLE);
        assert!(found[0].to_string().starts_with("README.md:5: "), "{found:?}");
        let fixed = rewrite(stale, TABLE).unwrap();
        assert_eq!(check(&fixed, TABLE), Vec::new());
        assert!(fixed.starts_with("# x\n") && fixed.ends_with("\nrest\n") && !fixed.contains("--gone"));
        assert_eq!(rewrite(&fixed, TABLE).unwrap(), fixed);
    }

    #[test]
    fn missing_markers_are_a_finding() {
        assert!(check("# x\n", TABLE)[0].to_string().contains("between markers"));
    }
}
