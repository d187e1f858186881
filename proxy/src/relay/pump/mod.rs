//! The pump moves the bytes of one tunnel. The engines `uring`, `splice` and `sockmap` share it;
//! the engine `copy` does not.
//!
//! A pump holds two sockets, and for each direction a pipe with the bytes under way, or the
//! kernel's offload of the tunnel. It never blocks and never waits: its worker tells it the
//! readiness of the sockets ([`Pump::set_ready`]), runs steps ([`Pump::step`]), and acts on their
//! outcome.
//!
//! | file | contents |
//! |---|---|
//! | `leg` | one socket and its readiness |
//! | `half` | bytes under way in one direction, and how far its stream is |
//! | `direction` | one turn of one direction |
//! | `offloading` | whether the kernel has taken the tunnel |

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::offload::{Offloader, SourceState};
use super::pipes::Pipes;
use super::rate_limit::set_rate;
use super::step::Step;
use super::timeouts::{ActivityMeter, Expired, Timeouts, Watch};
use super::unavailable;
use crate::metrics;
use crate::rate::Rate;
use crate::sys::tcp;
use crate::tunnel::{ActivitySource, Direction, Flow, Tunnel};

mod direction;
mod half;
mod leg;
mod offloading;

pub(super) use leg::{Leg, Readiness};
pub(super) use offloading::Attempt;

use direction::DirectionPump;
use half::{Half, Life};
use offloading::{EmptyProgress, OffloadState};

/// Both sockets, as the source of [`Flow::last_activity`].
#[derive(Debug)]
struct Sockets {
    /// In the order of [`Pump::legs`].
    sockets: [Arc<TcpStream>; 2],
    meter: ActivityMeter,
}

impl ActivitySource for Sockets {
    fn last_activity(&self) -> Option<Instant> {
        self.meter.sample(self.sockets.each_ref()).activity
    }
}

/// Lends the sockets to a [`Flow`] until dropped, so that they are closed with their pump.
#[derive(Debug)]
struct SharedSockets {
    flow: Arc<Flow>,
    sockets: Arc<Sockets>,
}

impl SharedSockets {
    fn new(flow: &Arc<Flow>, legs: &[Leg; 2]) -> Self {
        let sockets = legs.each_ref().map(|leg| leg.socket.clone());
        let sockets = Arc::new(Sockets { sockets, meter: ActivityMeter::default() });
        flow.attach_activity(sockets.clone());
        Self { flow: flow.clone(), sockets }
    }
}

impl Drop for SharedSockets {
    fn drop(&mut self) {
        self.flow.detach_activity();
    }
}

/// Both legs and both directions of a tunnel.
#[derive(Debug)]
pub(super) struct Pump {
    /// By [`Direction::index`] of the direction that the leg is the source of.
    legs: [Leg; 2],
    halves: [Half; 2],
    offload: OffloadState,
    pub(super) flow: Arc<Flow>,
    shared: SharedSockets,
    inactivity: Watch,
    /// Rate limit in force on both sockets.
    rate_limit: Option<Rate>,
    /// Direction whose end was read first.
    pub(super) first_end: Option<Direction>,
}

impl Pump {
    pub(super) fn new(tunnel: Tunnel) -> Self {
        let legs = [Leg::new(tunnel.client), Leg::new(tunnel.origin)];
        Self {
            shared: SharedSockets::new(&tunnel.flow, &legs),
            inactivity: Watch::new(Instant::now()),
            legs,
            halves: tunnel.prefix.map(Half::new),
            offload: OffloadState::default(),
            flow: tunnel.flow,
            rate_limit: None,
            first_end: None,
        }
    }

    /// Gives the tunnel back; only before the first step.
    pub(super) fn into_tunnel(self) -> Tunnel {
        drop(self.shared);
        let own = |leg: Leg| Arc::into_inner(leg.socket).expect("the only one that is left");
        let [client, origin] = self.legs.map(own);
        let prefix = self.halves.map(|mut half| std::mem::take(&mut half.prefix));
        Tunnel::plain(client, origin, prefix, self.flow)
    }

    /// The leg that `direction` reads from.
    pub(super) const fn leg(&self, direction: Direction) -> &Leg {
        &self.legs[direction.index()]
    }

    /// Records what the kernel reported of the source of `direction`.
    pub(super) fn set_ready(&mut self, direction: Direction, reported: Readiness) {
        self.legs[direction.index()].set_ready(reported);
    }

    /// Marks the source of `direction` broken: bytes that it received before may still be passed
    /// on, but its end is not passed on as a clean one.
    pub(super) fn break_source(&mut self, direction: Direction) {
        let leg = &mut self.legs[direction.index()];
        leg.broken = true;
        leg.readable = true;
    }

    /// Tests whether the end of this direction was read, and all bytes before it were passed on.
    pub(super) fn has_sent_all(&self, direction: Direction) -> bool {
        if let Some(offload) = self.offload.offload().filter(|offload| offload.owns(direction)) {
            return offload.has_sent_all(direction, self.sockets());
        }
        let half = &self.halves[direction.index()];
        half.life != Life::Open && !half.is_under_way()
    }

    /// Tests whether both ends were passed on.
    pub(super) fn is_finished(&self) -> bool {
        self.halves.iter().all(|half| half.life == Life::Finished)
    }

    /// Tests whether both sides have acknowledged all that was passed on to them, so that the
    /// sockets can be closed. Closed earlier they would be orphans, which the kernel gives up
    /// although a reader is only slow.
    pub(super) fn is_delivered(&self) -> bool {
        self.legs.iter().all(|leg| tcp::is_delivered(&leg.socket))
    }

    /// Makes closing the sockets a clean end; false if the kernel refuses.
    pub(super) fn allow_clean_close(&self) -> bool {
        self.legs.iter().all(|leg| tcp::reset_on_close(&leg.socket, false).is_ok())
    }

    /// Limits both sockets to the rate of the tunnel, if it has changed.
    pub(super) fn apply_rate(&mut self) {
        let rate = self.flow.rate();
        if rate != self.rate_limit {
            self.rate_limit = rate;
            self.legs.iter().for_each(|leg| set_rate(&leg.socket, rate));
        }
    }

    /// Samples both connections ([`Watch::sample`]).
    pub(super) fn sample(&mut self, timeouts: Timeouts) -> Option<Expired> {
        let Sockets { sockets, meter } = &*self.shared.sockets;
        self.inactivity.sample(sockets.each_ref(), meter, &self.flow, timeouts)
    }

    /// Moves bytes in `direction` until nothing more can be done or the quantum is used up.
    pub(super) fn step(&mut self, direction: Direction, pipes: &mut Pipes, scratch: &mut [u8], now: Instant) -> Step {
        if self.halves[direction.index()].life == Life::Finished {
            return Step::Finished;
        }
        if self.is_offloaded(direction) {
            return self.step_offloaded(direction, scratch, now);
        }
        let mut pump = self.direction(direction, now);
        let step = pump.run(pipes, scratch);
        pump.return_pipe(pipes);
        if self.halves[direction.index()].life != Life::Open {
            self.first_end.get_or_insert(direction);
        }
        step
    }

    fn direction(&mut self, direction: Direction, now: Instant) -> DirectionPump<'_> {
        let [client, origin] = &mut self.legs;
        let (source, destination) = match direction {
            Direction::ToOrigin => (client, origin),
            Direction::ToClient => (origin, client),
        };
        DirectionPump {
            direction,
            source,
            destination,
            half: &mut self.halves[direction.index()],
            paused: self.offload.pauses(direction),
            flow: &self.flow,
            now,
        }
    }

    fn step_offloaded(&mut self, direction: Direction, scratch: &mut [u8], now: Instant) -> Step {
        let Self { legs, offload: OffloadState::Offloaded(offload), halves, first_end, .. } = self else {
            return Step::Blocked;
        };
        let leg = &legs[direction.index()];
        let source = SourceState { read_closed: leg.read_closed, broken: leg.broken, scratch, now };
        let step = offload.step(direction, [&legs[0].socket, &legs[1].socket], source);
        if matches!(step, Step::Finished) {
            halves[direction.index()].life = Life::Finished;
            first_end.get_or_insert(direction);
        }
        step
    }

    /// Tests whether the kernel owns this direction.
    pub(super) fn is_offloaded(&self, direction: Direction) -> bool {
        self.offload.offload().is_some_and(|offload| offload.owns(direction))
    }

    /// Tests whether the kernel owns a direction; such a tunnel does not migrate.
    pub(super) fn has_offload(&self) -> bool {
        self.offload.offload().is_some()
    }

    /// Offloads tunnel `id` to the kernel as soon as no bytes are under way. The kernel is asked
    /// once; directions that it refuses stay with the pump.
    pub(super) fn try_offload(&mut self, offloader: &dyn Offloader, id: u64) -> Attempt {
        if matches!(self.offload, OffloadState::Offloaded(_) | OffloadState::Declined) {
            return Attempt::NotNow;
        }
        if self.rate_limit.is_some() {
            return self.hold_by_rate();
        }
        if offloading::is_ending(&self.legs, &self.halves) {
            return self.decline(&Errno::OPNOTSUPP.into());
        }
        match self.offload.empty(&self.legs, &self.halves) {
            EmptyProgress::Waiting | EmptyProgress::Stuck { was_paused: false } => return Attempt::NotNow,
            EmptyProgress::Stuck { was_paused: true } => return Attempt::Resumed,
            EmptyProgress::Done => {}
        }
        match offloader.offload(id, self.sockets(), &self.flow) {
            Ok(offload) => {
                let refused = Direction::BOTH.into_iter().filter(|direction| !offload.owns(*direction)).count();
                (0..refused).for_each(|_| count_fallback("half_closed"));
                self.offload = OffloadState::Offloaded(offload);
                if refused == 0 { Attempt::Complete } else { Attempt::Partial }
            }
            Err(error) => self.decline(&error),
        }
    }

    fn decline(&mut self, error: &io::Error) -> Attempt {
        count_fallback(unavailable::cause_of_tunnel(error));
        self.offload = OffloadState::Declined;
        Attempt::Declined
    }

    fn hold_by_rate(&mut self) -> Attempt {
        let before = std::mem::replace(&mut self.offload, OffloadState::HeldByRate);
        if !matches!(before, OffloadState::HeldByRate) {
            count_fallback("rate");
        }
        if before.pauses_any() { Attempt::Resumed } else { Attempt::NotNow }
    }

    fn sockets(&self) -> [&TcpStream; 2] {
        [&self.legs[0].socket, &self.legs[1].socket]
    }
}

/// Counts a direction or tunnel of the engine `sockmap` that the pump keeps.
fn count_fallback(cause: &str) {
    metrics::ENGINE_FALLBACKS.counter(&["sockmap", "splice", cause]).increment(1);
}
