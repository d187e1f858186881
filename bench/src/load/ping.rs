//! Latency of small messages in one tunnel.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::flow::Role;
use crate::origin::byte;
use crate::socket::Way;
use crate::stats::Samples;

/// Sends `size` bytes and waits for them to come back, again and again for `time`: microseconds each.
///
/// # Errors
/// Those of the tunnel.
pub fn ping(way: &Way, size: usize, time: Duration) -> io::Result<Samples> {
    let mut stream = way.open()?;
    stream.write_all(&[byte(Role::Echo)])?;
    let (message, mut answer) = (vec![7; size], vec![0; size]);
    let mut samples = Vec::new();
    let start = Instant::now();
    while start.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut answer)?;
        samples.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Samples(samples))
}
