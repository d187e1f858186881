//! Throughput of many tunnels at once.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::flow::{Flow, Role};
use crate::machine::busy_seconds;
use crate::origin::byte;
use crate::socket::Way;

/// What a bulk measurement gave.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Bulk {
    /// GiB per second, all tunnels together; with [`Role::Both`], what this side received.
    pub gib_per_second: f64,
    /// CPU seconds of the whole machine per GiB.
    pub cpu_per_gib: f64,
}

/// Moves bytes through `tunnels` tunnels for `time`, after a warm-up of a fifth of it. `role` is what
/// this side does.
///
/// # Errors
/// A tunnel that cannot be opened, or no byte at all.
pub fn bulk(way: &Way, tunnels: usize, role: Role, time: Duration) -> io::Result<Bulk> {
    let flow = Flow::start(thread::available_parallelism().map_or(2, Into::into))?;
    let answers = match role {
        Role::Sink => Role::Source,
        Role::Source => Role::Sink,
        other => other,
    };
    for _ in 0..tunnels {
        let mut stream = way.open()?;
        stream.write_all(&[byte(answers)])?;
        flow.add(stream, role)?;
    }
    // What this side sends it counts when the kernel takes it: the buffers on the way are filled in
    // the warm-up.
    thread::park_timeout(time / 5);
    let (before, cpu, start) = (flow.moved(role), busy_seconds()?, Instant::now());
    thread::park_timeout(time);
    let (after, cpu, took) = (flow.moved(role), busy_seconds()? - cpu, start.elapsed());
    if after == before {
        return Err(io::Error::other("no byte arrived"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let gib = (after - before) as f64 / f64::from(1 << 30);
    Ok(Bulk { gib_per_second: gib / took.as_secs_f64(), cpu_per_gib: cpu / gib })
}
