//! Accuracy of the gateway's rate limits.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::contender::{Kind, Programs};
use crate::flow::Role;
use crate::interrupt;
use crate::load::{Load, pause};
use crate::machine::Cpu;
use crate::origin::count;
use crate::rows::bulk_name;

/// Option, rate in bytes per second, and number of tunnels; all tunnels belong to one user.
const SETTINGS: [(&str, u64, usize); 5] = [
    ("--rate", 10 << 20, 1),
    ("--rate", 100 << 20, 1),
    ("--rate", 1 << 30, 1),
    ("--rate", 50 << 20, 4),
    ("--rate-per-user", 100 << 20, 4),
];

/// Result of one setting with one engine.
#[derive(Clone, Debug)]
pub struct RateResult {
    /// Engine and setting.
    pub what: String,
    /// Number of tunnels, and direction of the bytes.
    pub load: String,
    /// Configured rate in bytes per second, all tunnels together.
    pub wanted: f64,
    /// Measured rate in bytes per second.
    pub measured: f64,
    /// Share of the processor time stolen by the host during the measurement ([`Cpu::stolen`]). A
    /// rate limiter does not catch up on missed bytes later, so it falls short by about this share
    /// if it needs the cores.
    pub stolen: f64,
}

impl RateResult {
    /// RateResult in percent of the configured rate.
    #[must_use]
    pub fn off(&self) -> f64 {
        (self.measured / self.wanted - 1.0) * 100.0
    }
}

/// Measures every setting with each engine, for `time` in each direction, and reports each result.
/// Repeats a measurement up to three times if the host steals processor time, and keeps the one
/// with the least.
///
/// # Errors
/// A gateway does not start, or a measurement fails.
pub fn rates(
    programs: &Programs,
    origin: SocketAddr,
    time: Duration,
    mut tell: impl FnMut(&RateResult),
) -> io::Result<Vec<RateResult>> {
    let mut all = Vec::new();
    for (option, rate, tunnels) in SETTINGS {
        for engine in &programs.engines {
            let what = format!("{engine} {option} {}MiB", rate >> 20);
            let programs = Programs { engines: vec![what.clone()], ..programs.clone() };
            let gateway = programs.start(Kind::Engines, origin)?.pop();
            let gateway = gateway.ok_or_else(|| io::Error::other("no gateway was started"))?;
            for role in [Role::Sink, Role::Source] {
                interrupt::check()?;
                let load = Load::start(&gateway.route, tunnels, role)?;
                let (measured, stolen) = calmest(|| arriving(&load, role, origin, time))?;
                let each = if option == "--rate" { tunnels } else { 1 };
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let wanted = (rate * each as u64) as f64;
                let result =
                    RateResult { what: what.clone(), load: bulk_name(tunnels, role), wanted, measured, stolen };
                tell(&result);
                all.push(result);
            }
        }
    }
    Ok(all)
}

/// Share of stolen processor time below which a measurement is not repeated.
const MAX_STOLEN_SHARE: f64 = 0.02;

/// Maximum number of tries.
const MAX_TRIES: usize = 3;

/// Repeats a measurement and returns the result with the least stolen time, and the stolen share.
fn calmest(measure: impl Fn() -> io::Result<f64>) -> io::Result<(f64, f64)> {
    let mut calmest: Option<(f64, f64)> = None;
    for _ in 0..MAX_TRIES {
        let (before, measured) = (Cpu::now()?, measure()?);
        let stolen = Cpu::now()?.stolen_since(&before);
        calmest = calmest.filter(|calmest| calmest.1 <= stolen).or(Some((measured, stolen)));
        if stolen < MAX_STOLEN_SHARE {
            break;
        }
    }
    calmest.ok_or_else(|| io::Error::other("nothing was measured"))
}

/// Bytes per second that arrive, at the client or at the origin. A sender counts bytes accepted by
/// the kernel, in large steps and long before a slow gateway receives them.
fn arriving(load: &Load, role: Role, origin: SocketAddr, time: Duration) -> io::Result<f64> {
    let mut far = TcpStream::connect(origin)?;
    let mut arrived = || if role == Role::Sink { Ok(load.moved()) } else { count(&mut far) };
    let (before, start) = (arrived()?, Instant::now());
    pause(time);
    let (after, took) = (arrived()?, start.elapsed());
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok((after - before) as f64 / took.as_secs_f64())
}
