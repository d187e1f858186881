//! What a tunnel costs that moves nothing.

use std::io;
use std::net::TcpStream;

use crate::load::touch;
use crate::machine::{Process, process_family};
use crate::socket::Way;

/// Tunnels that are not counted: they pay for what is there once.
const FIRST: usize = 100;

/// The cost of one idle tunnel to the proxy's processes.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Idle {
    /// KiB of memory (Pss).
    pub kib: f64,
    /// Descriptors.
    pub descriptors: f64,
    /// Threads; above 0 only if they grow with the tunnels.
    pub threads: f64,
}

impl Idle {
    /// What each of `tunnels` tunnels added.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    pub fn between(before: Process, after: Process, tunnels: usize) -> Self {
        let each = |value: fn(&Process) -> usize| (value(&after) as f64 - value(&before) as f64) / tunnels as f64;
        Self { kib: each(|p| p.kib), descriptors: each(|p| p.descriptors), threads: each(|p| p.threads) }
    }
}

/// Opens `tunnels` tunnels that each carried a byte both ways, and compares what the process `pid` and its
/// children hold with what they held before.
///
/// # Errors
/// Those of the tunnels, and of reading /proc.
pub fn idle(way: &Way, tunnels: usize, pid: u32) -> io::Result<Idle> {
    let first = open(way, FIRST)?;
    let before = process_family(pid)?;
    let rest = open(way, tunnels)?;
    let idle = Idle::between(before, process_family(pid)?, tunnels);
    drop((first, rest));
    Ok(idle)
}

/// Opens `tunnels` tunnels, each of which carries a byte both ways and then nothing.
///
/// # Errors
/// Those of the tunnels.
pub fn open(way: &Way, tunnels: usize) -> io::Result<Vec<TcpStream>> {
    (0..tunnels).map(|_| touch(way)).collect()
}
