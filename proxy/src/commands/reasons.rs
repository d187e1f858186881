//! The reasons why connections end, as the table of docs/troubleshooting.md.

use std::fmt::Write as _;

use crate::reason::{ClientSees, Reason};

/// A Markdown table of every reason, in the order of the enum.
pub(super) fn markdown() -> String {
    let mut table = String::from("| reason | the client sees | meaning | what to do |\n|---|---|---|---|\n");
    for reason in Reason::ALL {
        let sees = match reason.client_sees() {
            ClientSees::Answer(status) => format!("{} {}", status.0, status.title()),
            ClientSees::Event(words) => words.to_owned(),
        };
        let (label, meaning, remedy) = (reason.label(), reason.meaning(), reason.remedy());
        let _ = writeln!(table, "| `{label}` | {sees} | {meaning} | {remedy} |");
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_row() {
        let table = markdown();
        assert_eq!(table.lines().count(), Reason::ALL.len() + 2);
        assert!(table.lines().all(|row| row.matches('|').count() == 5), "{table}");
        assert!(table.contains("| `auth_failed` | 407 Proxy Authentication Required | The user name "), "{table}");
        assert!(table.contains("| `killed` | a reset | "), "{table}");
    }
}
