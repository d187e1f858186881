//! The hand-off: what the handshake leaves behind and an engine takes over, consumed by value.
//!
//! Past this type there is no HTTP, no user and no policy, only two sockets and bytes.

use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
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
    /// The client's socket, non-blocking.
    pub client: TcpStream,
    /// The origin's socket, non-blocking.
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
    stop: OnceLock<Stop>,
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            moved: Default::default(),
            last_moved: AtomicU64::new(0),
            stop: OnceLock::new(),
        }
    }
}

impl Flow {
    /// Adds bytes that went in `direction`, at `now`.
    pub fn add(&self, direction: Direction, bytes: u64, now: Instant) {
        self.moved[direction.index()].fetch_add(bytes, Ordering::Relaxed);
        let since = u64::try_from(now.duration_since(self.started).as_millis()).unwrap_or(u64::MAX);
        self.last_moved.store(since, Ordering::Relaxed);
    }

    /// Bytes that went in `direction` so far.
    #[must_use]
    pub fn moved(&self, direction: Direction) -> u64 {
        self.moved[direction.index()].load(Ordering::Relaxed)
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
    pub fn on_stop(&self, stop: impl Fn(Reason) + Send + Sync + 'static) {
        let _ = self.stop.set(Stop(Box::new(stop)));
    }

    /// Asks the engine to end the tunnel at once, with a reset to both sides.
    pub fn stop(&self, why: Reason) {
        if let Some(stop) = self.stop.get() {
            (stop.0)(why);
        }
    }
}

struct Stop(Box<dyn Fn(Reason) + Send + Sync>);

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stop")
    }
}
