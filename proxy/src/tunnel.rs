//! The hand-off: what the handshake leaves behind and an engine takes over, consumed by value.
//!
//! Past this type there is no HTTP, no user and no policy, only two sockets and bytes.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use crate::reason::Reason;

/// The two ways that bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the origin.
    ToOrigin,
    /// From the origin to the client.
    ToClient,
}

impl Direction {
    /// Both, in the order in which arrays are indexed by [`Direction::index`].
    pub const BOTH: [Self; 2] = [Self::ToOrigin, Self::ToClient];

    /// The value of the `direction` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ToOrigin => "to_origin",
            Self::ToClient => "to_client",
        }
    }

    /// Its place in an array of two.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::ToOrigin => 0,
            Self::ToClient => 1,
        }
    }

    /// The other one.
    #[must_use]
    pub const fn opposite(self) -> Self {
        match self {
            Self::ToOrigin => Self::ToClient,
            Self::ToClient => Self::ToOrigin,
        }
    }
}

/// An established pair of sockets, ready to be relayed.
#[derive(Debug)]
pub struct Tunnel {
    /// The client's socket, non-blocking: splice(2) looks at the flag of the socket, not of the call.
    pub client: TcpStream,
    /// The origin's socket, non-blocking as well.
    pub origin: TcpStream,
    /// Bytes that were read past a head, by the direction they still have to go
    /// ([`Direction::index`]); they come before anything that the sockets hold.
    pub prefix: [Vec<u8>; 2],
    /// Where the engine writes down what it moved.
    pub flow: Arc<Flow>,
}

/// What a live tunnel did so far: written by its engine, read by everybody else.
///
/// A byte counts when the kernel has taken it for the receiving side, so that the counts stay exact
/// when the tunnel breaks.
#[derive(Debug)]
pub struct Flow {
    started: Instant,
    moved: [AtomicU64; 2],
    /// Milliseconds after `started` at which a byte last moved.
    last_moved: AtomicU64,
    stop: Mutex<Stop>,
    /// There is, or was, somebody else who counts.
    counted: AtomicBool,
    counts: Mutex<Option<Arc<dyn Counts>>>,
}

/// What counts bytes that the engine does not see.
pub trait Counts: std::fmt::Debug + Send + Sync {
    /// Bytes that went in `direction` so far; never less than before.
    fn moved(&self, direction: Direction) -> u64;
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            moved: Default::default(),
            last_moved: AtomicU64::new(0),
            stop: Mutex::default(),
            counted: AtomicBool::new(false),
            counts: Mutex::default(),
        }
    }
}

impl Flow {
    /// Adds bytes that went in `direction`, at `now`.
    pub fn add(&self, direction: Direction, bytes: u64, now: Instant) {
        self.moved[direction.index()].fetch_add(bytes, Ordering::Relaxed);
        self.moved_at(now);
    }

    /// A byte moved at `now`, or not long before.
    pub fn moved_at(&self, now: Instant) {
        let since = u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.last_moved.store(since, Ordering::Relaxed);
    }

    /// Bytes that went in `direction` so far.
    #[must_use]
    pub fn moved(&self, direction: Direction) -> u64 {
        let moved = || self.moved[direction.index()].load(Ordering::Relaxed);
        if !self.counted.load(Ordering::Acquire) {
            return moved();
        }
        // Both figures under the lock, since one becomes part of the other.
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        moved() + counts.as_ref().map_or(0, |counts| counts.moved(direction))
    }

    /// Has what `counts` says added to what the engine does.
    pub fn counted_by(&self, counts: Arc<dyn Counts>) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = Some(counts);
        self.counted.store(true, Ordering::Release);
    }

    /// Takes over for good what was counted by somebody else, who counts no longer.
    pub fn counted(&self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = counts.take() {
            for direction in Direction::BOTH {
                self.moved[direction.index()].fetch_add(counts.moved(direction), Ordering::Relaxed);
            }
        }
    }

    /// When the tunnel began.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// When a byte last moved, or the tunnel began.
    #[must_use]
    pub fn last_moved(&self) -> Instant {
        self.started + std::time::Duration::from_millis(self.last_moved.load(Ordering::Relaxed))
    }

    /// Lets [`Flow::stop`] reach the engine. The first engine that takes the tunnel sets it; an
    /// engine that takes it over from there goes on being reached through the first.
    ///
    /// A stop that was asked for before there was an engine is passed on from here.
    pub fn on_stop(&self, stop: impl Fn(Reason) + Send + Sync + 'static) {
        let mut state = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        if state.engine.is_some() {
            return;
        }
        let engine = state.engine.insert(Arc::new(stop)).clone();
        let asked = state.asked;
        drop(state);
        if let Some(why) = asked {
            engine(why);
        }
    }

    /// What [`Flow::stop`] was called with, if it was.
    #[must_use]
    pub fn stopped(&self) -> Option<Reason> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).asked
    }

    /// Asks the engine to end the tunnel at once, with a reset to both sides; one that has not taken
    /// the tunnel yet is asked as soon as it does.
    pub fn stop(&self, why: Reason) {
        let mut state = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let why = *state.asked.get_or_insert(why);
        let engine = state.engine.clone();
        drop(state);
        if let Some(engine) = engine {
            engine(why);
        }
    }
}

/// How to reach the engine, and what it is to be told.
#[derive(Default)]
struct Stop {
    engine: Option<Arc<dyn Fn(Reason) + Send + Sync>>,
    asked: Option<Reason>,
}

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stop").field("asked", &self.asked).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_reaches_the_engine_whichever_comes_first() {
        for stop_first in [true, false] {
            let flow = Flow::default();
            let seen = Arc::new(Mutex::new(Vec::new()));
            let engine = {
                let seen = Arc::clone(&seen);
                move |why| seen.lock().unwrap().push(why)
            };
            if stop_first {
                flow.stop(Reason::Killed);
                flow.on_stop(engine);
            } else {
                flow.on_stop(engine);
                flow.stop(Reason::Killed);
            }
            assert_eq!(*seen.lock().unwrap(), [Reason::Killed], "stop first: {stop_first}");
        }
    }

    #[test]
    fn what_others_count_is_part_of_the_whole_while_they_do_and_after() {
        #[derive(Debug)]
        struct Seven;
        impl Counts for Seven {
            fn moved(&self, direction: Direction) -> u64 {
                7 + direction.index() as u64
            }
        }
        let flow = Flow::default();
        flow.add(Direction::ToOrigin, 100, Instant::now());
        let moved = || Direction::BOTH.map(|direction| flow.moved(direction));
        assert_eq!(moved(), [100, 0]);
        flow.counted_by(Arc::new(Seven));
        assert_eq!(moved(), [107, 8]);
        for _ in 0..2 {
            flow.counted();
            assert_eq!(moved(), [107, 8]);
        }
    }

    #[test]
    fn the_first_reason_to_stop_stays() {
        let flow = Flow::default();
        flow.stop(Reason::Killed);
        flow.stop(Reason::Shutdown);
        let seen = Arc::new(Mutex::new(None));
        let copy = Arc::clone(&seen);
        flow.on_stop(move |why| *copy.lock().unwrap() = Some(why));
        assert_eq!(*seen.lock().unwrap(), Some(Reason::Killed));
    }
}
