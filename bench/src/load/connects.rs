//! How fast tunnels can be opened and closed.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::flow::Role;
use crate::origin::byte;
use crate::socket::Way;
use crate::stats::Samples;

/// What opening tunnels gave.
#[derive(Clone, Debug)]
pub struct Connects {
    /// Tunnels a second, of all clients together.
    pub per_second: f64,
    /// Microseconds from connect to the first byte that came back.
    pub latency: Samples,
}

/// Lets `clients` open a tunnel, send a byte, get it back and close, again and again for `time`.
///
/// # Errors
/// Those of any tunnel.
pub fn connects(way: &Way, clients: usize, time: Duration) -> io::Result<Connects> {
    let start = Instant::now();
    let latency = thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(|| client(way, start, time))).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().map_err(|_| io::Error::other("a client panicked"))?);
        results.collect::<io::Result<Vec<_>>>()
    })?
    .concat();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let per_second = latency.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Connects { per_second, latency: Samples(latency) })
}

fn client(way: &Way, start: Instant, time: Duration) -> io::Result<Vec<f64>> {
    let mut latencies = Vec::new();
    while start.elapsed() < time {
        let opened = Instant::now();
        let mut stream = way.open()?;
        stream.write_all(&[byte(Role::Echo), 7])?;
        stream.read_exact(&mut [0])?;
        latencies.push(opened.elapsed().as_secs_f64() * 1e6);
    }
    Ok(latencies)
}
