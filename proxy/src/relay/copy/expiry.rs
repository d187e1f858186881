//! Ends of a tunnel with two sound sockets: a command or a time-out.

use std::io::ErrorKind;
use std::sync::Weak;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::time::{self, MissedTickBehavior, interval_at};

use super::{Broken, Pair};
use crate::reason::Reason;
use crate::relay::Fault;
use crate::relay::timeouts::{Expired, Timeouts, Watch};
use crate::tunnel::ActivitySource;

/// A tunnel as the source of [`Flow::last_activity`](crate::tunnel::Flow::last_activity), without
/// keeping it alive.
#[derive(Debug)]
pub(super) struct Activity(pub(super) Weak<Pair>);

impl ActivitySource for Activity {
    fn last_activity(&self) -> Option<Instant> {
        self.0.upgrade()?.sample()
    }
}

impl Pair {
    /// Samples both connections for the last activity.
    fn sample(&self) -> Option<Instant> {
        self.meter.sample([&self.client, &self.origin]).activity
    }

    /// Records the last activity while the connections still have their counters.
    pub(super) fn note_last_activity(&self) {
        self.sample().into_iter().for_each(|at| self.flow.note_activity(at));
    }

    /// Waits until the tunnel is stopped or a time-out expires, and samples it meanwhile.
    pub(super) async fn stopped(&self, mut asked: oneshot::Receiver<Reason>) -> Broken {
        let timeouts = Timeouts::of(&self.options);
        let mut ticks = interval_at(time::Instant::now() + timeouts.interval, timeouts.interval);
        // After a suspension there is one tick, not one per missed tick.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::new(Instant::now());
        loop {
            match watch.sample([&self.client, &self.origin], &self.meter, &self.flow, timeouts) {
                Some(Expired::Idle) => return Broken::Stopped(Reason::Idle),
                // Bytes sent earlier by the peer are still passed on.
                Some(Expired::Peer(gone)) => {
                    return Broken::Fault(Fault::of_source(gone, ErrorKind::TimedOut.into()));
                }
                None => {}
            }
            tokio::select! {
                Ok(why) = &mut asked => return Broken::Stopped(why),
                _ = ticks.tick() => {}
            }
        }
    }
}
