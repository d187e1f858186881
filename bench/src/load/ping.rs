//! Latency of small messages in one tunnel, alone and beside bulk load.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::flow::Role;
use crate::load::bulk::{Bulk, Load, pause};
use crate::origin::PING;
use crate::place::{self, End};
use crate::socket::Way;
use crate::stats::Samples;

/// Sends `size` bytes and waits for them to come back, again and again for `time`: microseconds each. The
/// first tenth is not counted.
///
/// # Errors
/// Those of the tunnel.
pub fn ping(way: &Way, size: usize, time: Duration) -> io::Result<Samples> {
    // A thread of its own, since it is put on a core.
    let result = thread::scope(|scope| scope.spawn(|| round_trips(way, size, time)).join());
    result.map_err(|_| io::Error::other("the client of the ping-pong panicked"))?.map(Samples)
}

fn round_trips(way: &Way, size: usize, time: Duration) -> io::Result<Vec<f64>> {
    place::here(End::Client)?;
    let mut stream = way.open()?;
    stream.write_all(&[PING])?;
    let (message, mut answer) = (vec![7; size], vec![0; size]);
    let mut samples = Vec::with_capacity(1 << 16);
    let start = Instant::now();
    loop {
        let sent = Instant::now();
        let since = sent - start;
        if since >= time + time / 10 {
            return Ok(samples);
        }
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        if since >= time / 10 {
            samples.push(sent.elapsed().as_secs_f64() * 1e6);
        }
    }
}

/// A ping-pong beside bulk load.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The bulk load by itself.
    pub without: Bulk,
    /// The bulk load with the ping-pong beside it.
    pub with: Bulk,
    /// The round trips beside the load, microseconds.
    pub samples: Samples,
}

/// Measures `tunnels` bulk tunnels to the client for `time`, then for as long again with a ping-pong of 64
/// bytes in a further tunnel.
///
/// # Errors
/// Those of the tunnels.
pub fn beside(way: &Way, tunnels: usize, time: Duration) -> io::Result<Beside> {
    let load = Load::start(way, tunnels, Role::Sink)?;
    pause(time / 5);
    let (without, ()) = load.during(|| Ok(pause(time)))?;
    let (with, samples) = load.during(|| ping(way, 64, time))?;
    Ok(Beside { without, with, samples })
}
