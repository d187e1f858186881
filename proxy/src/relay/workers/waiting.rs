//! Waiting of a worker: its time limit, and recovery if the wait fails.

use std::io;
use std::time::{Duration, Instant};

use tracing::warn;

use super::traffic_class::Class;
use super::worker::Worker;
use crate::relay::LAST_BYTES_POLL;
use crate::relay::poller::{Event, Poller};

/// Failures to wait within this time of each other count as one.
const LASTING: Duration = Duration::from_secs(1);

/// Pause of a worker after repeated failures to wait.
const RETRY: Duration = Duration::from_millis(10);

impl<P: Poller> Worker<P> {
    /// Waits for events, a message, or the next timer.
    pub(super) fn wait(&mut self, events: &mut Vec<Event>) {
        let limit = self.limit();
        let waited = if limit == Some(Duration::ZERO) || self.handle().inbox.is_full() {
            self.poller.poll_now(events)
        } else {
            match self.busy_poll(events) {
                Ok(false) if self.handle().inbox.may_sleep() => {
                    let waited = self.poller.wait(limit, events);
                    self.affinity.slept();
                    self.handle().inbox.woke();
                    waited
                }
                spun => spun.map(drop),
            }
        };
        if let Err(error) = waited {
            self.reregister_all(&error);
        }
    }

    /// Registers every socket again, which makes the poller report its readiness again. Short of
    /// memory, io_uring drops events and reports the loss once (`EBADR`, io_uring_enter(2)),
    /// without naming the events. A lasting failure is logged once a moment; meanwhile the worker
    /// goes on by polling.
    fn reregister_all(&mut self, error: &io::Error) {
        let lasts = self.failed.is_some_and(|last| last.elapsed() < LASTING);
        if lasts {
            std::thread::park_timeout(RETRY);
        } else {
            warn!(%error, engine = self.pool.engine.label(), "a worker could not wait for events; every socket is registered again");
            self.failed = Some(Instant::now());
        }
        // If this fails too, so does the next wait.
        let _ = self.poller.watch_wake_anew();
        for (_, mut carried) in std::mem::take(&mut self.carried) {
            self.deregister(&mut carried);
            self.register(carried);
        }
    }

    /// Busy polls for events or a message, if it pays; returns true if there was one.
    fn busy_poll(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        if self.carried.is_empty() {
            return Ok(false);
        }
        let Self { poller, busy_poll, pool, class, number, .. } = self;
        let inbox = &pool.of(*class)[*number].inbox;
        let mut result = Ok(());
        let found = busy_poll.until(|| {
            result = poller.poll_now(events);
            result.is_err() || inbox.is_full() || !events.is_empty()
        });
        result.map(|()| found)
    }

    /// Time until the worker has work other than events from the kernel.
    fn limit(&self) -> Option<Duration> {
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        if !self.breaking.is_empty() {
            return Some(LAST_BYTES_POLL);
        }
        let now = Instant::now();
        let bulk = self.class == Class::Bulk && !self.carried.is_empty();
        let pacing = bulk.then(|| self.next_demotion.saturating_duration_since(now));
        [self.sweep.wait(now), self.pipes.wait(now), self.timers.wait(now), pacing].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::io::Errno;

    use super::*;
    use crate::reason::Reason;
    use crate::relay::poller::tampered::{Tamper, Tampered};
    use crate::relay::poller::{Epoll, Uring};
    use crate::relay::workers::Workers;
    use crate::relay::workers::tests::open;
    use crate::relay::{ClassThresholds, Options};

    /// Failures of all [`Flaky`] pollers.
    static FAILURES: AtomicU32 = AtomicU32::new(0);

    /// Drops every third batch of events and reports the loss.
    #[derive(Default)]
    struct Flaky {
        lots: u32,
    }

    impl Tamper for Flaky {
        fn tamper(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
            self.lots += u32::from(!events.is_empty());
            if self.lots < 3 {
                return Ok(());
            }
            self.lots = 0;
            events.clear();
            FAILURES.fetch_add(1, Ordering::Relaxed);
            Err(Errno::BADR.into())
        }
    }

    fn goes_on<P: Poller>() {
        let thresholds = ClassThresholds { bulk: 1 << 20, ..ClassThresholds::default() };
        let options = Options { threads: 2, thresholds, ..Options::default() };
        let loops = Workers::start::<Tampered<P, Flaky>>(&options).unwrap();
        let (client, origin, ended) = open(&loops);
        let sent: Vec<u8> = (0..20 << 20_u32).map(|at| (at / 7 + at / 4093) as u8).collect();
        let before = FAILURES.load(Ordering::Relaxed);
        let received = std::thread::scope(|scope| {
            scope.spawn(|| { &client }.write_all(&sent).and_then(|()| client.shutdown(Shutdown::Write)));
            let mut received = Vec::new();
            { &origin }.read_to_end(&mut received).map(|_| received)
        });
        assert!(received.unwrap() == sent, "{}: other bytes than were sent", P::ENGINE);
        assert!(FAILURES.load(Ordering::Relaxed) > before, "{}: nothing failed", P::ENGINE);
        drop(origin);
        assert_eq!(ended.blocking_recv(), Ok(Reason::ClientClosed), "{}", P::ENGINE);
    }

    #[test]
    fn a_loop_whose_poller_drops_reports_asks_anew_and_loses_nothing() {
        goes_on::<Epoll>();
        goes_on::<Uring>();
    }
}
