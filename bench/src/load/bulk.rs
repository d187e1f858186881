//! Throughput of many tunnels at once.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::flow::{Flow, Role, threads};
use crate::machine::Cpu;
use crate::origin::encode_request;
use crate::socket::Route;

/// Warm-up for windows to grow, the scheduler to spread the threads over the cores, and the buffers
/// on the path to fill: the sending side counts bytes accepted by the kernel.
const WARM_UP: Duration = Duration::from_millis(250);

/// Result of a bulk measurement.
#[derive(Clone, Copy, Debug)]
pub struct Bulk {
    /// GiB per second, all tunnels together; with [`Role::Both`], both directions together.
    pub gib_per_second: f64,
    /// CPU seconds of the whole machine per GiB.
    pub cpu_per_gib: f64,
}

/// Open tunnels under load. Dropping the load closes them.
#[derive(Debug)]
pub struct Load(Flow);

impl Load {
    /// Opens `tunnels` tunnels, starts the transfer and warms up. `role`: role of the client.
    ///
    /// # Errors
    /// A tunnel cannot be opened.
    pub fn start(route: &Route, tunnels: usize, role: Role) -> io::Result<Self> {
        let flow = Flow::start(threads(), false)?;
        let answers = match role {
            Role::Sink => Role::Source,
            Role::Source => Role::Sink,
            other => other,
        };
        for thread in 0..tunnels {
            let mut stream = route.open()?;
            stream.write_all(&[encode_request(answers, thread)])?;
            flow.add(stream, role, thread)?;
        }
        pause(WARM_UP);
        Ok(Self(flow))
    }

    /// Bytes received by this side so far, plus bytes written to the kernel.
    #[must_use]
    pub fn moved(&self) -> u64 {
        self.0.moved()
    }

    /// Measures the throughput for `time`.
    ///
    /// # Errors
    /// No byte arrives.
    pub fn alone(&self, time: Duration) -> io::Result<Bulk> {
        let wait = || {
            pause(time);
            Ok(())
        };
        Ok(self.during(wait)?.0)
    }

    /// Measures the throughput during `work`.
    ///
    /// # Errors
    /// The error of `work`, or no byte arrives.
    pub fn during<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<(Bulk, T)> {
        let (before, cpu, start) = (self.0.moved(), Cpu::now()?, Instant::now());
        let value = work()?;
        let (after, busy, took) = (self.0.moved(), Cpu::now()?.busy - cpu.busy, start.elapsed());
        if after == before {
            return Err(io::Error::other("no byte arrived"));
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let gib = (after - before) as f64 / f64::from(1 << 30);
        Ok((Bulk { gib_per_second: gib / took.as_secs_f64(), cpu_per_gib: busy / gib }, value))
    }
}

/// Moves bytes through `tunnels` tunnels for `time`, after a warm-up. `role`: role of the client.
///
/// # Errors
/// Errors of [`Load`].
pub fn bulk(route: &Route, tunnels: usize, role: Role, time: Duration) -> io::Result<Bulk> {
    Load::start(route, tunnels, role)?.alone(time)
}

/// Sleeps for `time`, across early wake-ups.
pub fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        thread::park_timeout(rest);
    }
}
