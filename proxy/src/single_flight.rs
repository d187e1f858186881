//! Single flight: equal requests at the same time share one piece of work.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Work in progress or waiting to begin, by key. `T` is its outcome. `P` is a permit of waiting
/// work: dropping it cancels the work.
pub struct SingleFlight<K, T, P>(Mutex<HashMap<K, Slot<T, P>>>);

struct Slot<T, P> {
    flight: Arc<Flight<T>>,
    waiters: usize,
    running: bool,
    permit: Option<P>,
}

/// One piece of work.
type Flight<T> = watch::Sender<State<T>>;

#[derive(Clone)]
enum State<T> {
    Pending,
    /// `None`: abandoned.
    Ended(Option<T>),
}

/// A share in the work. Waiting work is cancelled with its last waiter; running work goes on.
pub struct Waiter<K: Clone + Eq + Hash, T, P> {
    flights: Arc<SingleFlight<K, T, P>>,
    key: K,
    flight: Arc<Flight<T>>,
}

/// The working side. Dropped without an outcome, as in a panic, it wakes the waiters with `None`.
pub struct Lead<K: Clone + Eq + Hash, T, P> {
    flights: Arc<SingleFlight<K, T, P>>,
    key: K,
    flight: Arc<Flight<T>>,
    outcome: Option<T>,
}

/// A waiter, and the working side for the first of them.
pub type Joined<K, T, P> = (Waiter<K, T, P>, Option<Lead<K, T, P>>);

impl<K, T, P> Default for SingleFlight<K, T, P> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Clone + Eq + Hash, T, P> SingleFlight<K, T, P> {
    /// Joins the work of this key; the first to ask gets its working side as well.
    pub fn join(self: &Arc<Self>, key: K) -> Joined<K, T, P> {
        let mut slots = self.lock();
        let (slot, is_first) = match slots.entry(key.clone()) {
            Entry::Occupied(slot) => (slot.into_mut(), false),
            Entry::Vacant(vacant) => {
                let flight = Arc::new(watch::Sender::new(State::Pending));
                (vacant.insert(Slot { flight, waiters: 0, running: false, permit: None }), true)
            }
        };
        slot.waiters += 1;
        let flight = Arc::clone(&slot.flight);
        let lead = is_first.then(|| Lead {
            flights: Arc::clone(self),
            key: key.clone(),
            flight: Arc::clone(&flight),
            outcome: None,
        });
        (Waiter { flights: Arc::clone(self), key, flight }, lead)
    }

    /// Changes the slot of this very flight, if still present, and removes it if `leave` returns
    /// true. The removed slot goes to the caller, who holds no lock: dropping its permit may take
    /// another lock.
    fn update(
        &self,
        key: &K,
        flight: &Arc<Flight<T>>,
        leave: impl FnOnce(&mut Slot<T, P>) -> bool,
    ) -> Option<Slot<T, P>> {
        let mut slots = self.lock();
        let slot = slots.get_mut(key)?;
        let is_it = Arc::ptr_eq(&slot.flight, flight);
        if is_it && leave(slot) { slots.remove(key) } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Slot<T, P>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, T: Clone, P> Waiter<K, T, P> {
    /// Waits for the outcome; `None` if the work was abandoned.
    pub async fn outcome(&self) -> Option<T> {
        let mut states = self.flight.subscribe();
        match &*states.wait_for(|state| matches!(state, State::Ended(_))).await.ok()? {
            State::Ended(outcome) => outcome.clone(),
            State::Pending => None,
        }
    }
}

impl<K: Clone + Eq + Hash, T, P> Waiter<K, T, P> {
    /// Leaves the permit of the waiting work to the flight.
    pub fn hold(&self, permit: P) {
        let mut permit = Some(permit);
        self.flights.update(&self.key, &self.flight, |slot| {
            slot.permit = permit.take();
            false
        });
    }
}

impl<K: Clone + Eq + Hash, T, P> Drop for Waiter<K, T, P> {
    fn drop(&mut self) {
        let left = self.flights.update(&self.key, &self.flight, |slot| {
            slot.waiters -= 1;
            slot.waiters == 0 && !slot.running
        });
        drop(left);
    }
}

impl<K: Clone + Eq + Hash, T, P> Lead<K, T, P> {
    /// Marks the work as running. `false`: it has no waiters any more.
    #[must_use]
    pub fn begin(&self) -> bool {
        let mut begun = false;
        self.flights.update(&self.key, &self.flight, |slot| {
            slot.running = true;
            begun = true;
            false
        });
        begun
    }

    /// Ends the work for its waiters; a later request begins another.
    pub fn tell(mut self, outcome: T) {
        self.outcome = Some(outcome);
    }
}

impl<K: Clone + Eq + Hash, T, P> Drop for Lead<K, T, P> {
    fn drop(&mut self) {
        drop(self.flights.update(&self.key, &self.flight, |_| true));
        self.flight.send_replace(State::Ended(self.outcome.take()));
    }
}

#[cfg(test)]
impl<K, T, P> SingleFlight<K, T, P> {
    /// Number of requests that wait.
    pub(crate) fn waiters(&self) -> usize {
        self.0.lock().unwrap().values().map(|slot| slot.waiters).sum()
    }

    /// Number of pieces of work.
    pub(crate) fn flights(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}
