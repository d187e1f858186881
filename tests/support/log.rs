//! The log of a gateway: every line that it wrote, as it comes.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

use super::DEADLINE;

/// One line of JSON, or, as before the log is set up, of words.
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

    /// A field of words; empty when it is absent.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.json[field].as_str().unwrap_or_default()
    }

    /// A field that is a whole number.
    pub(crate) fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_else(|| panic!("no number '{field}' in {}", self.raw))
    }

    /// The status that was answered; "none" when there was no answer.
    pub(crate) fn code(&self) -> String {
        match &self.json["code"] {
            Value::Null => "none".to_owned(),
            code => code.as_u64().unwrap_or_else(|| panic!("the code is no number in {}", self.raw)).to_string(),
        }
    }

    /// A field that is a number with decimals.
    pub(crate) fn fraction(&self, field: &str) -> f64 {
        self.json[field].as_f64().unwrap_or_else(|| panic!("no number '{field}' in {}", self.raw))
    }

    /// It is about the connection of this client.
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
    /// Takes lines until there are no more; for a thread of its own.
    pub(crate) fn collect(&self, from: impl Read) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            self.lock().push(Line::new(String::from_utf8_lossy(&line).into_owned()));
            self.more.notify_all();
        }
    }

    /// How many lines there are so far.
    pub(crate) fn position(&self) -> usize {
        self.lock().len()
    }

    /// The first line of which this holds, past or to come.
    pub(crate) fn line(&self, what: &str, condition: impl Fn(&Line) -> bool) -> Line {
        self.line_from(0, what, condition)
    }

    /// The first line behind a position of which this holds.
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

    /// How many lines there are so far of which this holds.
    pub(crate) fn count(&self, condition: impl Fn(&Line) -> bool) -> usize {
        self.lock().iter().filter(|line| condition(line)).count()
    }

    /// The sum of a number over the lines so far of which this holds.
    pub(crate) fn sum(&self, field: &str, condition: impl Fn(&Line) -> bool) -> u64 {
        self.lock().iter().filter(|line| condition(line)).map(|line| line.number(field)).sum()
    }

    /// Everything so far, as it was written.
    pub(crate) fn text(&self) -> String {
        self.lock().iter().map(|line| format!("{}\n", line.raw)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
