//! The log of a gateway, collected line by line.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::deadline::DEADLINE;

/// One log line: JSON, or plain text before the log is set up.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) raw: String,
    json: Value,
}

impl Line {
    fn new(raw: String) -> Self {
        let json = serde_json::from_str(&raw).unwrap_or(Value::Null);
        Self { raw, json }
    }

    /// `INFO`, `WARN` and so on.
    pub(crate) fn level(&self) -> &str {
        self.json["level"].as_str().unwrap_or_default()
    }

    pub(crate) fn message(&self) -> &str {
        self.text("message")
    }

    /// A string field; empty if absent.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    /// An integer field.
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_else(|| panic!("no number '{field}' in {}", self.raw))
    }

    /// HTTP status of the answer; "none" without an answer.
    pub(crate) fn code(&self) -> String {
        match &self.json["code"] {
            Value::Null => "none".to_owned(),
            code => code.as_u64().unwrap_or_else(|| panic!("the code is no number in {}", self.raw)).to_string(),
        }
    }

    /// A decimal field.
    pub(crate) fn fraction(&self, field: &str) -> f64 {
        self.json[field].as_f64().unwrap_or_else(|| panic!("no number '{field}' in {}", self.raw))
    }

    /// Returns true for a line about this client's connection.
    pub(crate) fn is_of(&self, client: std::net::SocketAddr) -> bool {
        self.text("client") == client.to_string()
    }
}

/// All lines so far.
#[derive(Debug, Default)]
pub(crate) struct Log {
    lines: Mutex<Vec<Line>>,
    more: Condvar,
}

impl Log {
    /// Collects lines until the end of the stream; runs in its own thread.
    pub(crate) fn collect(&self, from: impl Read) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            self.lock().push(Line::new(String::from_utf8_lossy(&line).into_owned()));
            self.more.notify_all();
        }
    }

    /// Number of lines so far.
    pub(crate) fn position(&self) -> usize {
        self.lock().len()
    }

    /// Waits for the first line matching the condition, from the start of the log.
    pub(crate) fn line(&self, what: &str, condition: impl Fn(&Line) -> bool) -> Line {
        self.line_from(0, what, condition)
    }

    /// Waits for the first line at or after `position` matching the condition.
    pub(crate) fn line_from(&self, position: usize, what: &str, condition: impl Fn(&Line) -> bool) -> Line {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = self.lock();
        let mut seen = position;
        loop {
            if let Some(found) = lines[seen..].iter().find(|line| condition(line)) {
                return found.clone();
            }
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line within {DEADLINE:?}: {what}");
            (lines, _) = self.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Number of lines so far matching the condition.
    pub(crate) fn count(&self, condition: impl Fn(&Line) -> bool) -> usize {
        self.lock().iter().filter(|line| condition(line)).count()
    }

    /// Sums a field over the lines so far matching the condition.
    pub(crate) fn sum(&self, field: &str, condition: impl Fn(&Line) -> bool) -> u64 {
        self.lock().iter().filter(|line| condition(line)).map(|line| line.number(field)).sum()
    }

    /// All lines so far, as written.
    pub(crate) fn text(&self) -> String {
        self.lock().iter().map(|line| format!("{}\n", line.raw)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
