//! Output of the demo.

use std::cmp::Reverse;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount};
use serde_json::Value;

use crate::failure::Result;
use crate::migration::{Plan, Verified};

/// Maximum number of access-log lines shown.
const LINES: usize = 4;

pub(super) fn title(plan: &Plan) -> String {
    let each = HumanBytes(plan.bytes);
    match plan.volumes {
        1 => format!("One volume of {each} migrates through the gateway, on this machine."),
        n => format!("{n} volumes of {each} migrate through the gateway at once, on this machine."),
    }
}

/// Runs a step and prints its line, in progress and when done.
pub(super) fn step<T>(name: &str, work: impl FnOnce() -> Result<(T, String)>) -> Result<T> {
    let terminal = io::stdout().is_terminal();
    if terminal {
        print!("  {name:<9} ...");
        // A closed terminal is reported by the important lines.
        let _ = io::stdout().flush();
    }
    let start = Instant::now();
    let result = work();
    if terminal {
        print!("\r");
    }
    match result {
        Ok((value, text)) => {
            done(name, &text, start.elapsed());
            Ok(value)
        }
        Err(failure) => {
            println!("  {name:<9} failed");
            Err(failure)
        }
    }
}

/// Line of a successful step.
pub(super) fn done(name: &str, text: &str, elapsed: Duration) {
    println!("  {name:<9} {text:<62} {:>6.1} s", elapsed.as_secs_f64());
}

pub(super) fn verified(verified: &Verified) -> String {
    format!(
        "{} files, {} by SHA-256; {} links, {} sparse",
        HumanCount(verified.files),
        HumanBytes(verified.bytes),
        verified.symlinks + verified.hard_links,
        verified.sparse
    )
}

pub(super) fn throughput(bytes: u64, elapsed: Duration) {
    let rate = HumanBytes((bytes as f64 / elapsed.as_secs_f64()) as u64);
    println!("\n  {rate}/s from rsync to rsyncd: both encrypt, hash and write on this machine too.");
}

/// Shows the tunnels with the most bytes first: the copies, then the probes.
pub(super) fn access_log(closed: &[Value]) {
    let mut closed: Vec<&Value> = closed.iter().collect();
    closed.sort_by_key(|line| Reverse(line["to_origin"].as_u64()));
    println!("\nThe access log (probes before a copy leave without a byte of payload):");
    for line in closed.iter().take(LINES) {
        println!("  {line}");
    }
    if closed.len() > LINES {
        println!("  and {} more", closed.len() - LINES);
    }
}

pub(super) fn moved(changes: &[(&str, f64, f64)]) {
    println!("\nThe metrics that moved:");
    let width = changes.iter().map(|(series, ..)| series.len()).max().unwrap_or(0);
    for (series, was, now) in changes {
        println!("  {series:<width$}  {}", amount(now - was));
    }
}

fn amount(change: f64) -> String {
    let sign = if change < 0.0 { '-' } else { '+' };
    let size = change.abs();
    if size.fract() == 0.0 { format!("{sign}{}", HumanCount(size as u64)) } else { format!("{sign}{size:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_counts_or_seconds() {
        assert_eq!(amount(1_074_000.0), "+1,074,000");
        assert_eq!(amount(0.0123), "+0.012");
        assert_eq!(amount(-2.0), "-2");
    }
}
