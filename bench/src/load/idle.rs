//! Cost of an idle tunnel.

use std::io;
use std::net::TcpStream;

use super::connects::touch;
use crate::machine::{Process, process_family};
use crate::socket::Route;

/// Tunnels opened before the measurement, to pay for one-time allocations.
const WARM_UP_TUNNELS: usize = 100;

/// The cost of one idle tunnel to the proxy's processes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Idle {
    /// KiB of memory (Pss).
    pub kib: f64,
    /// Descriptors.
    pub descriptors: f64,
    /// Threads; above 0 only if their number grows with the tunnels.
    pub threads: f64,
}

impl Idle {
    /// Cost of each of `tunnels` tunnels, from the totals before and after.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    pub fn between(before: Process, after: Process, tunnels: usize) -> Self {
        let each = |value: fn(&Process) -> usize| (value(&after) as f64 - value(&before) as f64) / tunnels as f64;
        Self { kib: each(|p| p.kib), descriptors: each(|p| p.descriptors), threads: each(|p| p.threads) }
    }
}

/// Opens `tunnels` tunnels, echoes one byte through each, and compares the resources of the process
/// `pid` and its children with those before.
///
/// # Errors
/// Errors of the tunnels, and of reading /proc.
pub fn idle(route: &Route, tunnels: usize, pid: u32) -> io::Result<Idle> {
    let first = open(route, WARM_UP_TUNNELS)?;
    let before = process_family(pid)?;
    let rest = open(route, tunnels)?;
    let idle = Idle::between(before, process_family(pid)?, tunnels);
    drop((first, rest));
    Ok(idle)
}

/// Opens `tunnels` tunnels and echoes one byte through each.
///
/// # Errors
/// Errors of the tunnels.
pub fn open(route: &Route, tunnels: usize) -> io::Result<Vec<TcpStream>> {
    (0..tunnels).map(|_| touch(route)).collect()
}
