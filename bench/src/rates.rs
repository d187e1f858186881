//! Whether the gateway keeps to the rates that it is given.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::compare::bulk_name;
use crate::contender::{Kind, Programs};
use crate::flow::Role;
use crate::interrupt;
use crate::load::{Load, pause};
use crate::machine::Cpu;
use crate::origin::count;

/// What is set, and how many tunnels it is tried with; of one user all of them.
const SETTINGS: [(&str, u64, usize); 5] = [
    ("--rate", 10 << 20, 1),
    ("--rate", 100 << 20, 1),
    ("--rate", 1 << 30, 1),
    ("--rate", 50 << 20, 4),
    ("--rate-per-user", 100 << 20, 4),
];

/// One setting of one engine.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The engine and the setting.
    pub what: String,
    /// Tunnels, and which way their bytes went.
    pub load: String,
    /// Bytes a second that were wanted, all tunnels together.
    pub wanted: f64,
    /// Bytes a second that went through.
    pub measured: f64,
    /// The share of the processor time that the host kept meanwhile ([`Cpu::stolen`]). What a pacer could not send in
    /// time it does not send sooner later, and so falls short by about as much where it needs the cores.
    pub stolen: f64,
}

impl Kept {
    /// How far off it is, in percent of what was wanted.
    #[must_use]
    pub fn off(&self) -> f64 {
        (self.measured / self.wanted - 1.0) * 100.0
    }
}

/// Tries every setting with each engine, each for `time` both ways, and tells of each. Where the host kept cores
/// meanwhile that is done again, up to three times, and the calmest counts.
///
/// # Errors
/// A gateway that does not start, or a measurement that fails.
pub fn rates(
    programs: &Programs,
    origin: SocketAddr,
    time: Duration,
    mut tell: impl FnMut(&Kept),
) -> io::Result<Vec<Kept>> {
    let mut all = Vec::new();
    for (option, rate, tunnels) in SETTINGS {
        for engine in &programs.engines {
            let what = format!("{engine} {option} {}MiB", rate >> 20);
            let programs = Programs { engines: vec![what.clone()], ..programs.clone() };
            let gateway = programs.start(Kind::Engines, origin)?.pop();
            let gateway = gateway.ok_or_else(|| io::Error::other("no gateway was started"))?;
            for role in [Role::Sink, Role::Source] {
                interrupt::check()?;
                let load = Load::start(&gateway.way, tunnels, role)?;
                let (measured, stolen) = calmest(|| arriving(&load, role, origin, time))?;
                let each = if option == "--rate" { tunnels } else { 1 };
                #[expect(clippy::cast_precision_loss, reason = "a rate")]
                let wanted = (rate * each as u64) as f64;
                let kept = Kept { what: what.clone(), load: bulk_name(tunnels, role), wanted, measured, stolen };
                tell(&kept);
                all.push(kept);
            }
        }
    }
    Ok(all)
}

/// A measurement during which the host kept less than that is not made again.
const CALM: f64 = 0.02;

/// How often one is made at most.
const TRIES: usize = 3;

/// A measurement, and what the host kept of the processor time meanwhile: of a few the one of which it kept least.
fn calmest(measure: impl Fn() -> io::Result<f64>) -> io::Result<(f64, f64)> {
    let mut calmest: Option<(f64, f64)> = None;
    for _ in 0..TRIES {
        let (before, measured) = (Cpu::now()?, measure()?);
        let stolen = Cpu::now()?.stolen_since(&before);
        calmest = calmest.filter(|calmest| calmest.1 <= stolen).or(Some((measured, stolen)));
        if stolen < CALM {
            break;
        }
    }
    calmest.ok_or_else(|| io::Error::other("nothing was measured"))
}

/// Bytes a second that arrive, here or at the origin: what is sent is counted when the kernel takes it, which is in
/// lumps, and long before a slow gateway has it.
fn arriving(load: &Load, role: Role, origin: SocketAddr, time: Duration) -> io::Result<f64> {
    let mut far = TcpStream::connect(origin)?;
    let mut arrived = || if role == Role::Sink { Ok(load.moved()) } else { count(&mut far) };
    let (before, start) = (arrived()?, Instant::now());
    pause(time);
    let (after, took) = (arrived()?, start.elapsed());
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok((after - before) as f64 / took.as_secs_f64())
}
