//! Differences between two readings of the users, for the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::user_table::{Table, Terms};
use crate::account::sanitize;

/// Names shown in a log line; the others are counted.
const MAX_NAMES: usize = 10;

/// The users of one reading.
#[derive(Clone)]
pub struct Snapshot(Option<Arc<Table>>);

/// Names of users added, removed and changed (password or policy) by a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New users.
    pub added: Vec<Arc<str>>,
    /// Removed users.
    pub removed: Vec<Arc<str>>,
    /// Users with other passwords or terms than before.
    pub changed: Vec<Arc<str>>,
}

impl Snapshot {
    pub(super) const fn new(table: Option<Arc<Table>>) -> Self {
        Self(table)
    }

    /// Returns the differences between these users and later ones.
    #[must_use]
    pub fn changes_to(&self, later: &Self) -> Changes {
        let terms = |snapshot: &'_ Self| -> BTreeMap<Arc<str>, Terms> {
            snapshot.0.as_ref().map(|table| table.terms()).unwrap_or_default()
        };
        let (before, after) = (terms(self), terms(later));
        let mut changes = Changes::default();
        for (name, terms) in &after {
            match before.get(name) {
                None => changes.added.push(Arc::clone(name)),
                Some(old) if old.differ_from(terms) => changes.changed.push(Arc::clone(name)),
                Some(_) => {}
            }
        }
        changes.removed.extend(before.into_keys().filter(|name| !after.contains_key(name)));
        changes
    }
}

/// Formats names for a log line: at most ten, and the number of the others; `None` without names.
#[must_use]
pub fn name_list(names: &[Arc<str>]) -> Option<String> {
    let shown: Vec<_> = names.iter().take(MAX_NAMES).map(|name| sanitize(name)).collect();
    let more = names.len() - shown.len();
    let text = shown.join(", ");
    (!names.is_empty()).then(|| if more == 0 { text } else { format!("{text} and {more} more") })
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_ends_with_a_number() {
        let names: Vec<Arc<str>> = (1..=12).map(|number| format!("u{number}").into()).collect();
        assert_eq!(name_list(&[]), None);
        assert_eq!(name_list(&names[..2]).as_deref(), Some("u1, u2"));
        assert_eq!(name_list(&names).as_deref(), Some("u1, u2, u3, u4, u5, u6, u7, u8, u9, u10 and 2 more"));
    }
}
