//! Waiting of a worker: busy-polling, sleeping, and recovery if both fail.

use std::io;
use std::time::{Duration, Instant};

use tracing::warn;

use super::busy_poll::BusyPoll;
use super::inbox::Inbox;
use crate::relay::engine::Engine;
use crate::relay::poller::{Event, Poller};

/// Minimum time between two logged wait failures.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Pause after a wait failure that is not logged.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The poller of a worker, and when the worker polls it without sleeping.
pub(super) struct Waiter<P> {
    pub(super) poller: P,
    busy_poll: BusyPoll,
    /// Time of the last failure that was logged.
    failed: Option<Instant>,
}

/// Result of a wait: the thread slept in the poller, or stayed awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waited {
    Slept,
    Awake,
}

impl<P: Poller> Waiter<P> {
    /// `spin`: longest busy poll before each sleep.
    pub(super) const fn new(poller: P, spin: Duration) -> Self {
        Self { poller, busy_poll: BusyPoll::new(spin), failed: None }
    }

    /// Waits for events or a message, at most for `limit`; a zero limit does not wait. A worker
    /// that is `idle`, without tunnels, does not busy-poll.
    ///
    /// # Errors
    /// Any error of the poller. Events may have been lost.
    pub(super) fn wait(
        &mut self,
        limit: Option<Duration>,
        inbox: &Inbox,
        idle: bool,
        events: &mut Vec<Event>,
    ) -> io::Result<Waited> {
        if limit == Some(Duration::ZERO) || inbox.has_messages() {
            self.poller.poll_now(events)?;
            return Ok(Waited::Awake);
        }
        if !idle && self.busy_poll(inbox, events)? || !inbox.may_sleep() {
            return Ok(Waited::Awake);
        }
        let waited = self.poller.wait(limit, events);
        inbox.woke();
        waited.map(|()| Waited::Slept)
    }

    /// Looks for events or a message for a moment, if that pays; true if there was one.
    fn busy_poll(&mut self, inbox: &Inbox, events: &mut Vec<Event>) -> io::Result<bool> {
        let Self { poller, busy_poll, .. } = self;
        let mut result = Ok(());
        let found = busy_poll.until(|| {
            result = poller.poll_now(events);
            result.is_err() || inbox.has_messages() || !events.is_empty()
        });
        result.map(|()| found)
    }

    /// Logs a failed wait, at most once per second. Repeated failures in between pause the worker
    /// for [`RETRY_PAUSE`].
    pub(super) fn handle_failure(&mut self, engine: Engine, error: &io::Error) {
        if self.failed.is_some_and(|last| last.elapsed() < LOG_INTERVAL) {
            return std::thread::park_timeout(RETRY_PAUSE);
        }
        warn!(%error, engine = engine.label(), "a worker could not wait for events; every socket is registered again");
        self.failed = Some(Instant::now());
    }
}
