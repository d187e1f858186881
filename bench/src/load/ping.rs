//! Latency of small messages in one tunnel, alone and beside bulk load.

use std::io::{self, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::affinity::{self, End};
use crate::flow::Role;
use crate::load::bulk::{Bulk, Load, pause};
use crate::origin::PING;
use crate::socket::Route;
use crate::stats::Samples;

/// Interval between messages beside bulk load. Back-to-back messages would be a load of their own,
/// growing with the speed of the answers: bulk tunnels would lose most beside the fastest gateway.
const PACED_INTERVAL: Duration = Duration::from_millis(1);

/// Sends `size` bytes and waits for their echo, repeatedly for `time`. Returns microseconds of each
/// round trip, without the first tenth.
///
/// # Errors
/// Errors of the tunnel.
pub fn ping(route: &Route, size: usize, time: Duration) -> io::Result<Samples> {
    apart(|| round_trips(route, size, time, Duration::ZERO))
}

/// Runs `work` on a thread placed as the client of a ping-pong.
fn apart(work: impl FnOnce() -> io::Result<Vec<f64>> + Send) -> io::Result<Samples> {
    let placed = || affinity::pin_to_core_of(End::Client).and_then(|()| work());
    let result = thread::scope(|scope| scope.spawn(placed).join());
    result.map_err(|_| io::Error::other("the client of the ping-pong panicked"))?.map(Samples)
}

fn round_trips(route: &Route, size: usize, time: Duration, every: Duration) -> io::Result<Vec<f64>> {
    let mut stream = route.open()?;
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
        let took = sent.elapsed();
        if since >= time / 10 {
            samples.push(took.as_secs_f64() * 1e6);
        }
        pause(every.saturating_sub(took));
    }
}

/// Result of a ping-pong beside bulk load.
#[derive(Clone, Debug)]
pub struct PingBesideLoad {
    /// GiB per second of the bulk load alone.
    pub without: f64,
    /// GiB per second of the bulk load beside the ping-pong.
    pub with: f64,
    /// Round trips beside the load, in microseconds.
    pub samples: Samples,
}

/// Measures `tunnels` bulk tunnels to the client for `time`, and again for `time` with a ping-pong
/// of 64 bytes a thousand times a second in another tunnel. The two alternate, so that a drift
/// affects both.
///
/// # Errors
/// Errors of the tunnels.
pub fn beside(route: &Route, tunnels: usize, time: Duration) -> io::Result<PingBesideLoad> {
    let load = Load::start(route, tunnels, Role::Sink)?;
    let mut rounds = Vec::new();
    let mut samples = Vec::new();
    for _ in 0..2 {
        let without = load.alone(time / 2)?;
        let (with, more) = load.during(|| paced(route, time / 2))?;
        rounds.push((without, with));
        samples.extend(more.0);
    }
    let mean = |rate: fn(&(Bulk, Bulk)) -> f64| f64::midpoint(rate(&rounds[0]), rate(&rounds[1]));
    Ok(PingBesideLoad {
        without: mean(|round| round.0.gib_per_second),
        with: mean(|round| round.1.gib_per_second),
        samples: Samples(samples),
    })
}

/// Measures round trips of a ping-pong of 64 bytes a thousand times a second, for `time`.
///
/// # Errors
/// Errors of the tunnel.
pub fn paced(route: &Route, time: Duration) -> io::Result<Samples> {
    apart(|| round_trips(route, 64, time, PACED_INTERVAL))
}
