//! Checks of the same credentials at the same time, made into one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::digest::Digest;
use crate::reason::Refusal;
use crate::source::Source;

/// Outcome of a check.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The password is the user's.
    Right,
    /// There is no such user with this password.
    Wrong,
    /// There was no room for the check.
    Refused(Refusal),
    /// It ended without a result: hashing panicked.
    Abandoned,
}

/// Waiting and running checks, by credentials. `P` is the permit of a waiting one: dropping it
/// takes the check out of the queue.
pub(super) struct SingleFlight<P>(Mutex<HashMap<Digest, Slot<P>>>);

struct Slot<P> {
    flight: Arc<Flight>,
    waiters: usize,
    running: bool,
    place: Option<P>,
}

/// One check.
struct Flight {
    outcome: watch::Sender<Option<Outcome>>,
    /// Source charged for the hashing: the first to ask.
    source: Source,
}

/// A share in a check. The check leaves the queue with its last waiter; one that runs goes on.
pub(super) struct Waiter<P> {
    flights: Arc<SingleFlight<P>>,
    digest: Digest,
    flight: Arc<Flight>,
}

/// The hashing side of a check. Dropped without a result, as in a panic, it wakes the waiters with
/// [`Outcome::Abandoned`].
pub(super) struct Lead<P> {
    flights: Arc<SingleFlight<P>>,
    digest: Digest,
    flight: Arc<Flight>,
    outcome: Outcome,
}

impl<P> Default for SingleFlight<P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<P> SingleFlight<P> {
    /// Joins the check of these credentials; the first to ask gets its other side as well.
    pub(super) fn join(self: &Arc<Self>, digest: Digest, source: Source) -> (Waiter<P>, Option<Lead<P>>) {
        let mut slots = self.lock();
        let (slot, is_first) = match slots.entry(digest) {
            Entry::Occupied(slot) => (slot.into_mut(), false),
            Entry::Vacant(vacant) => {
                let flight = Arc::new(Flight { outcome: watch::Sender::new(None), source });
                (vacant.insert(Slot { flight, waiters: 0, running: false, place: None }), true)
            }
        };
        slot.waiters += 1;
        let flight = Arc::clone(&slot.flight);
        let lead = is_first.then(|| Lead {
            flights: Arc::clone(self),
            digest,
            flight: Arc::clone(&flight),
            outcome: Outcome::Abandoned,
        });
        (Waiter { flights: Arc::clone(self), digest, flight }, lead)
    }

    /// Changes the slot of this very flight, if still present, and removes it if `leave` returns
    /// true. The removed slot goes to the caller, who holds no lock: dropping its permit takes
    /// another lock.
    fn update(
        &self,
        digest: Digest,
        flight: &Arc<Flight>,
        leave: impl FnOnce(&mut Slot<P>) -> bool,
    ) -> Option<Slot<P>> {
        let mut slots = self.lock();
        let Entry::Occupied(mut slot) = slots.entry(digest) else { return None };
        let is_it = Arc::ptr_eq(&slot.get().flight, flight);
        (is_it && leave(slot.get_mut())).then(|| slot.remove())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Slot<P>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P> Waiter<P> {
    /// Leaves the place of the check in the queue to the flight.
    pub(super) fn hold(&self, place: P) {
        let mut place = Some(place);
        self.flights.update(self.digest, &self.flight, |slot| {
            slot.place = place.take();
            false
        });
    }

    /// Returns the source charged for the check.
    pub(super) fn charged_to(&self) -> Source {
        self.flight.source
    }

    /// Waits for the end of the check.
    pub(super) async fn outcome(&self) -> Outcome {
        let mut outcome = self.flight.outcome.subscribe();
        let known = outcome.wait_for(Option::is_some).await.map(|known| known.clone());
        known.ok().flatten().unwrap_or(Outcome::Abandoned)
    }
}

impl<P> Drop for Waiter<P> {
    fn drop(&mut self) {
        let left = self.flights.update(self.digest, &self.flight, |slot| {
            slot.waiters -= 1;
            slot.waiters == 0 && !slot.running
        });
        drop(left);
    }
}

impl<P> Lead<P> {
    /// Marks the check as running. `false`: it has no waiters any more.
    #[must_use]
    pub(super) fn begin(&self) -> bool {
        let mut begun = false;
        self.flights.update(self.digest, &self.flight, |slot| {
            slot.running = true;
            begun = true;
            false
        });
        begun
    }

    /// Ends the check for its waiters; a later request begins another.
    pub(super) fn tell(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl<P> Drop for Lead<P> {
    fn drop(&mut self) {
        drop(self.flights.update(self.digest, &self.flight, |_| true));
        let outcome = std::mem::replace(&mut self.outcome, Outcome::Abandoned);
        self.flight.outcome.send_replace(Some(outcome));
    }
}

#[cfg(test)]
impl<P> SingleFlight<P> {
    /// Number of requests waiting for these checks.
    pub(super) fn waiters(&self) -> usize {
        self.lock().values().map(|slot| slot.waiters).sum()
    }

    /// Number of waiting and running checks.
    pub(super) fn checks(&self) -> usize {
        self.lock().len()
    }
}
