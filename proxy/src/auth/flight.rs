//! Checks of the same credentials at the same time, made into one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OnceCell, watch};

use crate::reason::{Reason, Refusal};

use super::digest::Digest;

/// Whether the credentials are right, once known.
pub(super) type Verdict = watch::Receiver<Option<bool>>;

/// The checks under way, by their credentials.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Digest, Flight>>);

struct Flight {
    verdict: Arc<OnceCell<Verdict>>,
    passengers: usize,
}

/// A place in a check under way. The check ends for newcomers with its last passenger, of whom the
/// hash itself is one: a failure is thus remembered while somebody waits for it, and no longer.
pub(super) struct Passenger {
    flights: Arc<Flights>,
    digest: Digest,
    verdict: Arc<OnceCell<Verdict>>,
}

impl Flights {
    /// Joins the check of these credentials, or begins it.
    pub(super) fn join(self: &Arc<Self>, digest: Digest) -> Passenger {
        let mut flights = self.lock();
        let flight = flights.entry(digest).or_insert_with(|| Flight { verdict: Arc::default(), passengers: 0 });
        flight.passengers += 1;
        Passenger { flights: Arc::clone(self), digest, verdict: Arc::clone(&flight.verdict) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passenger {
    /// Waits for the verdict, and is the one to call `start` if nobody did or who did has left
    /// before it was through. Once `start` is through, the verdict comes whoever leaves.
    pub(super) async fn verdict<F>(&self, start: impl FnOnce() -> F) -> Result<bool, Refusal>
    where
        F: Future<Output = Result<Verdict, Refusal>>,
    {
        let mut verdict = self.verdict.get_or_try_init(start).await?.clone();
        let known = verdict.wait_for(Option::is_some).await.map(|known| *known);
        known.ok().flatten().ok_or_else(|| Refusal::new(Reason::AuthBusy, "the password check was abandoned"))
    }
}

impl Drop for Passenger {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        if let Some(flight) = flights.get_mut(&self.digest) {
            flight.passengers -= 1;
            if flight.passengers == 0 {
                flights.remove(&self.digest);
            }
        }
    }
}

#[cfg(test)]
impl Flights {
    /// How many wait for these checks, the hash of each included.
    pub(super) fn passengers(&self) -> usize {
        self.lock().values().map(|flight| flight.passengers).sum()
    }
}
