//! The limit on credentials of one source that are not verified: who guesses waits for himself.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::reason::{Reason, Refusal};
use crate::source::Source;

/// Credentials of one source that may be hashed, or wait for a core, at a time.
pub(super) const RUNNING_PER_SOURCE: usize = 8;
/// Credentials of one source that may wait behind those.
pub(super) const WAITING_PER_SOURCE: usize = 64;
/// Credentials of all sources that may be hashed or wait.
pub(super) const PLACES: usize = 1024;

/// Who is inside, source by source; a source with nobody inside is not remembered.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<Inside>);

#[derive(Debug, Default)]
struct Inside {
    sources: HashMap<Source, Share>,
    total: usize,
}

#[derive(Debug)]
struct Share {
    running: Arc<Semaphore>,
    inside: usize,
}

/// The right to be hashed, given back when dropped.
#[derive(Debug)]
pub(super) struct Turn {
    // Before the place, so that a source is forgotten only when its turns are back.
    _running: OwnedSemaphorePermit,
    _place: Place,
}

#[derive(Debug)]
struct Place {
    turns: Arc<Turns>,
    source: Source,
}

impl Turns {
    /// Waits for a turn of `source`. Dropping the future gives up the place in the queue.
    pub(super) async fn take(self: &Arc<Self>, source: IpAddr) -> Result<Turn, Refusal> {
        let (place, running) = self.enter(source.into())?;
        let running = running.acquire_owned().await.map_err(|_| busy("the gateway is stopping".into()))?;
        Ok(Turn { _running: running, _place: place })
    }

    fn enter(self: &Arc<Self>, source: Source) -> Result<(Place, Arc<Semaphore>), Refusal> {
        let mut inside = self.lock();
        if inside.total >= PLACES {
            return Err(busy(format!("{PLACES} unverified credentials wait already")));
        }
        let entry = inside.sources.entry(source).or_insert_with(Share::new);
        if entry.inside >= RUNNING_PER_SOURCE + WAITING_PER_SOURCE {
            return Err(busy(format!("{WAITING_PER_SOURCE} unverified credentials of this source wait already")));
        }
        entry.inside += 1;
        let running = Arc::clone(&entry.running);
        inside.total += 1;
        Ok((Place { turns: Arc::clone(self), source }, running))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    fn new() -> Self {
        Self { running: Arc::new(Semaphore::new(RUNNING_PER_SOURCE)), inside: 0 }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.turns.lock();
        inside.total -= 1;
        if let Entry::Occupied(mut source) = inside.sources.entry(self.source) {
            source.get_mut().inside -= 1;
            if source.get().inside == 0 {
                source.remove();
            }
        }
    }
}

fn busy(detail: String) -> Refusal {
    Refusal::new(Reason::AuthBusy, detail)
}

#[cfg(test)]
impl Turns {
    /// How many have a turn or wait for one.
    pub(super) fn inside(&self) -> usize {
        self.lock().total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::{Context, Waker};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Takes all the places of one source: turns in hand, and futures that wait.
    async fn fill(turns: &Arc<Turns>, source: IpAddr) -> (Vec<Turn>, Vec<impl Future<Output = Result<Turn, Refusal>>>) {
        let mut held = Vec::new();
        for _ in 0..RUNNING_PER_SOURCE {
            held.push(turns.take(source).await.expect("a turn"));
        }
        let mut waiting = Vec::new();
        for _ in 0..WAITING_PER_SOURCE {
            let turns = Arc::clone(turns);
            let mut wait = Box::pin(async move { turns.take(source).await });
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            waiting.push(wait);
        }
        (held, waiting)
    }

    #[tokio::test]
    async fn a_full_source_is_refused_and_others_are_not() {
        let turns = Arc::new(Turns::default());
        let (held, mut waiting) = fill(&turns, ip("192.0.2.1")).await;
        let refusal = turns.take(ip("::ffff:192.0.2.1")).await.expect_err("a refusal");
        assert_eq!(refusal.reason, Reason::AuthBusy);
        assert!(refusal.detail.contains("64 unverified credentials of this source"), "{refusal}");
        assert!(turns.take(ip("192.0.2.2")).await.is_ok());
        // Somebody who waited leaves: his place is free, and his turn passes to nobody.
        drop(waiting.pop());
        let mut next = Box::pin(turns.take(ip("192.0.2.1")));
        assert!(next.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(waiting);
        drop(held);
        assert!(next.await.is_ok());
        assert!(turns.lock().sources.is_empty());
        assert_eq!(turns.lock().total, 0);
    }

    #[tokio::test]
    async fn all_sources_together_are_bounded() {
        let turns = Arc::new(Turns::default());
        let mut held = Vec::new();
        for n in 0..PLACES {
            let source = IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
            held.push(turns.take(source).await.expect("a turn"));
        }
        let refusal = turns.take(ip("192.0.2.1")).await.expect_err("a refusal");
        assert!(refusal.detail.contains("1024"), "{refusal}");
        drop(held);
        assert!(turns.take(ip("192.0.2.1")).await.is_ok());
    }
}
