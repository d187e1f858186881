//! Input and output of the checks.

use std::fmt;

/// A file of the workspace: path from the root, and text.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: String,
    pub(super) text: String,
}

/// A violated rule: place, rule, and remedy.
#[derive(Debug, PartialEq)]
pub(super) struct Finding {
    path: String,
    line: usize,
    rule: String,
    remedy: String,
}

impl Finding {
    pub(super) fn new(path: &str, line: usize, rule: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, rule: rule.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path, self.line, self.rule, self.remedy)
    }
}
