//! Tests that cannot run here.

use std::io::Write as _;
use std::thread;

/// Prints the reason for a skipped test, even if the harness captures the output of passing tests.
pub(crate) fn skipped(why: &str) {
    let test = thread::current();
    let _ = writeln!(std::io::stderr(), "skipped in {}: {why}", test.name().unwrap_or("a test"));
}
