//! Measures all contenders in one run, interleaved, so that other load on the machine affects all
//! contenders alike.

use std::io;
use std::time::Duration;

use crate::contender::Contender;
use crate::flow::Role;
use crate::load::{self, Connects};
use crate::machine::family_seconds;
use crate::rounds::Rounds;
use crate::rows::{
    BESIDE_NAME, CONNECTS_NAME, IDLE_NAME, LOSS_NAME, Row, SHORT_NAME, bulk_name, percentiles, ping_name, unit,
};
use crate::socket::Route;
use crate::stats::Samples;

/// Tunnels, and bytes of each, of the initial data check.
const CHECKED: (usize, u64) = (4, 16 << 20);

/// Bulk tunnels beside a ping-pong.
pub const BESIDE: usize = 4;

/// Clients that open tunnels at once.
pub const CLIENTS: usize = 4;

/// Amount of measurement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Rounds per measurement; the median counts.
    pub rounds: usize,
    /// The length of one measurement.
    pub time: Duration,
    /// Numbers of bulk tunnels.
    pub tunnels: Vec<usize>,
    /// Roles of the client in the bulk measurements.
    pub roles: Vec<Role>,
    /// Bytes of a message of a ping-pong.
    pub sizes: Vec<usize>,
    /// Measures short tunnels as well, and both directions at once over [`BESIDE`] tunnels.
    pub thorough: bool,
    /// Idle tunnels.
    pub idle: usize,
}

impl Plan {
    /// Plan of about two minutes.
    #[must_use]
    pub fn quick(tunnels: Vec<usize>) -> Self {
        let (rounds, time) = (3, Duration::from_millis(250));
        Self { rounds, time, tunnels, roles: vec![Role::Sink], sizes: vec![64], thorough: false, idle: 500 }
    }

    /// Plan of a quarter of an hour, without the scaling.
    #[must_use]
    pub fn full(tunnels: Vec<usize>) -> Self {
        let (roles, sizes) = (vec![Role::Sink, Role::Source], vec![64, 1024, 16384]);
        Self { rounds: 5, time: Duration::from_secs(1), tunnels, roles, sizes, thorough: true, idle: 2_000 }
    }

    /// Number of measurements of one contender in one round.
    fn measurements(&self) -> usize {
        self.tunnels.len() * self.roles.len() + self.sizes.len() + 2 + if self.thorough { 2 } else { 0 }
    }
}

/// Runs the plan.
///
/// # Errors
/// The first failed measurement, with the name of its contender.
pub fn compare(contenders: &mut [Contender], plan: &Plan) -> io::Result<Vec<Row>> {
    let steps = (plan.rounds * plan.measurements() + 2) * contenders.len();
    let mut session = Session { all: Rounds::new(contenders, steps), plan };
    session
        .all
        .once("checking the bytes", |contender| load::verify(&contender.route, CHECKED.0, CHECKED.1).map(drop))?;
    let mut rows = Vec::new();
    for &tunnels in &plan.tunnels {
        for &role in &plan.roles {
            rows.extend(session.bulk(tunnels, role)?);
        }
    }
    if plan.thorough {
        rows.extend(session.bulk(BESIDE, Role::Both)?);
    }
    for &size in &plan.sizes {
        rows.extend(session.ping(size)?);
    }
    rows.extend(session.beside()?);
    rows.extend(session.opened(CONNECTS_NAME, load::connects)?);
    if plan.thorough {
        rows.extend(session.opened(SHORT_NAME, load::short)?);
    }
    rows.extend(session.idle()?);
    Ok(rows)
}

struct Session<'a> {
    all: Rounds<'a>,
    plan: &'a Plan,
}

impl Session<'_> {
    fn rows(
        &mut self,
        names: &[(&str, &str)],
        measure: impl Fn(&Contender, Duration) -> io::Result<Vec<Option<f64>>>,
    ) -> io::Result<Vec<Row>> {
        self.all.rounds(self.plan.rounds, names, |contender| measure(contender, self.plan.time))
    }

    fn bulk(&mut self, tunnels: usize, role: Role) -> io::Result<Vec<Row>> {
        let name = bulk_name(tunnels, role);
        self.rows(&[(&name, unit::RATE), (&name, unit::CPU)], |contender, time| {
            let bulk = load::bulk(&contender.route, tunnels, role, time)?;
            Ok(vec![Some(bulk.gib_per_second), Some(bulk.cpu_per_gib)])
        })
    }

    fn ping(&mut self, size: usize) -> io::Result<Vec<Row>> {
        let name = ping_name(size);
        self.rows(&unit::PERCENTILES.map(|(_, unit)| (name.as_str(), unit)), |contender, time| {
            Ok(percentiles(&load::ping(&contender.route, size, time)?))
        })
    }

    fn beside(&mut self) -> io::Result<Vec<Row>> {
        let mut names = unit::PERCENTILES.map(|(_, unit)| (BESIDE_NAME, unit)).to_vec();
        names.extend([(BESIDE_NAME, unit::RATE), (LOSS_NAME, unit::PERCENT)]);
        self.rows(&names, |contender, time| {
            let beside = load::beside(&contender.route, BESIDE, time)?;
            let mut values = percentiles(&beside.samples);
            values.extend([Some(beside.with), Some((1.0 - beside.with / beside.without) * 100.0)]);
            Ok(values)
        })
    }

    fn opened(
        &mut self,
        name: &str,
        measure: fn(&Route, usize, Duration) -> io::Result<Connects>,
    ) -> io::Result<Vec<Row>> {
        let mut names = vec![(name, unit::PER_SECOND)];
        names.extend(unit::PERCENTILES.map(|(_, unit)| (name, unit)));
        names.push((name, unit::EACH));
        self.rows(&names, |contender, time| {
            let spent = || contender.pid().map(family_seconds).transpose();
            let before = spent()?;
            let result = measure(&contender.route, CLIENTS, time)?;
            #[expect(clippy::cast_precision_loss, reason = "a count")]
            let each = |cpu: f64| cpu * 1e6 / result.latency.0.len() as f64;
            let mut values = vec![Some(result.per_second)];
            values.extend(percentiles(&result.latency));
            values.push(spent()?.zip(before).map(|(after, before)| each(after - before)));
            Ok(values)
        })
    }

    fn idle(&mut self) -> io::Result<Vec<Row>> {
        let number = self.plan.idle;
        let idle = self.all.once("idle tunnels", |contender| {
            let Some(fresh) = contender.fresh()? else { return Ok(None) };
            let Some(pid) = fresh.pid() else { return Ok(None) };
            match load::idle(&fresh.route, number, pid) {
                // A program hidden from other processes of its own user, like Squid.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
                idle => idle.map(Some),
            }
        })?;
        let row = |unit: &str, value: fn(&load::Idle) -> f64| Row {
            what: IDLE_NAME.to_owned(),
            unit: unit.to_owned(),
            samples: idle.iter().map(|idle| Samples(idle.iter().map(value).collect())).collect(),
        };
        Ok(vec![
            row(unit::KIB, |idle| idle.kib),
            row(unit::DESCRIPTORS, |idle| idle.descriptors),
            row(unit::THREADS, |idle| idle.threads),
        ])
    }
}
