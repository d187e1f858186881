//! The table for people, 100 columns wide.

use std::fmt::Write as _;

use super::finding::{Finding, State};
use super::report::Report;
use super::verdict::{Outcome, Tried};

/// The columns and their widths, two spaces between them: 100 in all.
const COLUMNS: [(&str, usize); 5] = [("STATE", 7), ("CHECK", 12), ("FOUND", 31), ("NEEDED", 20), ("COSTS", 22)];

/// Indent of the details below a line, in columns.
const INDENT: usize = 9;

/// The whole width.
const WIDTH: usize = 100;

/// Formats the report, the verdict last: readers look there first.
pub(super) fn text(report: &Report) -> String {
    let mut text = format!("sluicegate {} on Linux {}\n\n", report.version, report.kernel);
    line(&mut text, &COLUMNS.map(|(name, _)| name));
    report.checks.iter().for_each(|check| row(&mut text, check));
    text.push_str("\nENGINE   SELF-TEST\n");
    report.engines.iter().for_each(|tried| engine(&mut text, tried));
    text.push('\n');
    verdict(&mut text, report);
    text
}

fn row(text: &mut String, row: &Finding) {
    line(text, &[row.state.label(), row.check, &row.found, &row.needed, &row.costs]);
    fixes(text, &row.fix);
}

/// Commands are not wrapped: they are there to be copied.
fn fixes(text: &mut String, fixes: &[String]) {
    for (number, fix) in fixes.iter().enumerate() {
        let _ = writeln!(text, "{:INDENT$}{}  {fix}", "", if number == 0 { "fix" } else { " or" });
    }
}

/// One row of the table, on several lines if a cell is long.
fn line(text: &mut String, cells: &[&str; COLUMNS.len()]) {
    let cells: Vec<Vec<String>> = cells.iter().zip(COLUMNS).map(|(cell, (_, width))| wrap(cell, width)).collect();
    for number in 0..cells.iter().map(Vec::len).max().unwrap_or(0) {
        let mut whole = String::new();
        for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
            let part = cell.get(number).map_or("", String::as_str);
            let _ = write!(whole, "{part:width$}  ");
        }
        let _ = writeln!(text, "{}", whole.trim_end());
    }
}

/// Breaks between words; a word longer than the width stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is one from the start");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            let _ = write!(last, " {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn engine(text: &mut String, tried: &Tried) {
    let said = match (&tried.error, &tried.cause) {
        (None, _) if tried.passed.is_none() => "not tried: no tunnel fits in the descriptor limit".to_owned(),
        (None, _) => "passed".to_owned(),
        (Some(error), None) => format!("failed: {error}"),
        (Some(error), Some(cause)) => format!("failed: {error}; {cause}"),
    };
    indented(text, tried.engine.label(), &said);
    fixes(text, &tried.fix);
}

fn indented(text: &mut String, first: &str, rest: &str) {
    let mut first = first;
    for part in wrap(rest, WIDTH - INDENT) {
        let _ = writeln!(text, "{first:INDENT$}{part}");
        first = "";
    }
}

fn verdict(text: &mut String, report: &Report) {
    let asked = report.engines.iter().map(|tried| tried.engine.label()).collect::<Vec<_>>().join(", ");
    let engine = report.engine.unwrap_or("no engine");
    let said = match report.verdict {
        Outcome::Best => format!("{engine} will run, the best of {asked}."),
        Outcome::Degraded => format!("{engine} will run (of {asked}), but degraded:"),
        Outcome::CannotRun => format!("The gateway cannot run here (of {asked}):"),
    };
    indented(text, "VERDICT", &said);
    report.because.iter().for_each(|because| indented(text, "", &format!("- {because}")));
    if report.checks.iter().any(|row| row.state == State::Slow) {
        indented(text, "", "Checks that are slow are worth their fix; only those that degrade change the exit code.");
    }
    if report.checks.iter().any(|row| row.fix.iter().any(|fix| fix.starts_with("sysctl"))) {
        indented(text, "", "A sysctl lasts until the next boot: write it to a file in /etc/sysctl.d as well.");
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Found;
    use super::*;
    use crate::relay::Engine;

    fn report() -> Report {
        let fix = "sysctl -w net.ipv4.tcp_wmem=\"4096 16384 16777216\"".to_owned();
        let found = Found::ok("4096 16384 4194304: about 570 Mbit/s a tunnel");
        let found = found.costs(State::Slow, "a tunnel over a long leg is held to that").fix(fix);
        let row = Finding::new("tcp_wmem", "1 Gbit/s".into(), found);
        let passed = Tried { engine: Engine::Copy, passed: Some(true), error: None, cause: None, fix: Vec::new() };
        let failed = Tried {
            engine: Engine::Splice,
            passed: Some(false),
            error: Some("Operation not permitted (os error 1)".to_owned()),
            cause: Some("a filter".to_owned()),
            fix: vec!["one".to_owned(), "two".to_owned()],
        };
        Report {
            version: "1.2.3",
            kernel: "6.18".to_owned(),
            verdict: Outcome::Degraded,
            exit_code: 1,
            engine: Some("copy"),
            because: vec!["splice failed".to_owned()],
            engines: vec![failed, passed],
            checks: vec![row],
        }
    }

    #[test]
    fn the_table_wraps_within_its_columns_and_keeps_commands_whole() {
        let expected = "\
sluicegate 1.2.3 on Linux 6.18

STATE    CHECK         FOUND                            NEEDED                COSTS
slow     tcp_wmem      4096 16384 4194304: about 570    1 Gbit/s              a tunnel over a long
                       Mbit/s a tunnel                                        leg is held to that
         fix  sysctl -w net.ipv4.tcp_wmem=\"4096 16384 16777216\"

ENGINE   SELF-TEST
splice   failed: Operation not permitted (os error 1); a filter
         fix  one
          or  two
copy     passed

VERDICT  copy will run (of splice, copy), but degraded:
         - splice failed
         Checks that are slow are worth their fix; only those that degrade change the exit code.
         A sysctl lasts until the next boot: write it to a file in /etc/sysctl.d as well.
";
        assert_eq!(text(&report()), expected);
        assert_eq!(COLUMNS.iter().map(|(_, width)| width).sum::<usize>() + 2 * (COLUMNS.len() - 1), WIDTH);
    }

    #[test]
    fn a_word_that_is_too_long_stays_whole() {
        assert_eq!(wrap("a bcdefgh ij k", 4), ["a", "bcdefgh", "ij k"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
