//! What a tunnel costs that moves nothing.

use std::io::{self, Read, Write};

use crate::flow::Role;
use crate::machine::{Process, process_family};
use crate::origin::byte;
use crate::socket::Way;

/// The cost of one idle tunnel to the proxy's processes.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Idle {
    /// KiB of memory (Pss).
    pub kib: f64,
    /// Descriptors.
    pub descriptors: f64,
    /// Threads; above 0 only if they grow with the tunnels.
    pub threads: f64,
}

/// Opens `tunnels` tunnels that each carried a byte both ways, and compares what the process `pid` and its
/// children hold with what they held before.
///
/// The first hundred are not counted: they pay for what is there once.
///
/// # Errors
/// Those of the tunnels, and of reading /proc.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
pub fn idle(way: &Way, tunnels: usize, pid: u32) -> io::Result<Idle> {
    let mut open = Vec::with_capacity(tunnels + 100);
    for _ in 0..100 {
        open.push(one(way)?);
    }
    let before = process_family(pid)?;
    for _ in 0..tunnels {
        open.push(one(way)?);
    }
    let after = process_family(pid)?;
    let each = |value: fn(&Process) -> usize| (value(&after) as f64 - value(&before) as f64) / tunnels as f64;
    Ok(Idle { kib: each(|p| p.kib), descriptors: each(|p| p.descriptors), threads: each(|p| p.threads) })
}

fn one(way: &Way) -> io::Result<std::net::TcpStream> {
    let mut stream = way.open()?;
    stream.write_all(&[byte(Role::Echo), 7])?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}
