//! The hand-off: the result of a handshake, taken over by an engine and consumed by value.
//!
//! Past this type there is no HTTP, no user and no policy, only two sockets and bytes.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::rate::Rate;
use crate::reason::Reason;
use crate::tls::Session;

/// The two directions of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the origin.
    ToOrigin,
    /// From the origin to the client.
    ToClient,
}

impl Direction {
    /// Both, in the order of [`Direction::index`].
    pub const BOTH: [Self; 2] = [Self::ToOrigin, Self::ToClient];

    /// The value of the `direction` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ToOrigin => "to_origin",
            Self::ToClient => "to_client",
        }
    }

    /// Index in an array of two.
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::ToOrigin => 0,
            Self::ToClient => 1,
        }
    }

    /// The other direction.
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
    /// The client's socket, non-blocking: splice(2) checks the flag of the socket, not of the call.
    pub client: TcpStream,
    /// The origin's socket, non-blocking as well.
    pub origin: TcpStream,
    /// TLS sessions of the client and the origin, if they use TLS; the engine then runs them.
    pub tls: [Option<Box<Session>>; 2],
    /// Bytes read behind a head, by the direction they still have to go ([`Direction::index`]).
    /// They precede all bytes from the sockets.
    pub prefix: [Vec<u8>; 2],
    /// Counters and control of the tunnel, shared with the engine.
    pub flow: Arc<Flow>,
}

impl Tunnel {
    /// Creates a tunnel between two sockets without TLS.
    #[must_use]
    pub const fn plain(client: TcpStream, origin: TcpStream, prefix: [Vec<u8>; 2], flow: Arc<Flow>) -> Self {
        Self { client, origin, tls: [None, None], prefix, flow }
    }
}

/// Progress of a live tunnel: written by its engine, read by all others.
///
/// A byte counts once the kernel has accepted it for the receiving side, so the counts stay exact
/// when the tunnel breaks.
#[derive(Debug)]
pub struct Flow {
    started: Instant,
    moved: [AtomicU64; 2],
    /// Time of the last known movement of a byte, in milliseconds after `started`.
    last_moved: AtomicU64,
    activity: Mutex<Option<Arc<dyn ActivitySource>>>,
    control: Mutex<ControlState>,
    /// A counter is or was attached.
    has_counter: AtomicBool,
    counter: Mutex<Option<Arc<dyn ByteCounter>>>,
}

/// Activity more recent than this is returned without asking the source.
const FRESH: Duration = Duration::from_millis(50);

/// A counter of bytes the engine does not see.
pub trait ByteCounter: std::fmt::Debug + Send + Sync {
    /// Bytes moved in `direction` so far; never decreases.
    fn moved(&self, direction: Direction) -> u64;
}

/// A source of activity the engine does not see: bytes leaving a socket's buffer, or redirected by
/// the kernel.
pub trait ActivitySource: std::fmt::Debug + Send + Sync {
    /// Time at which a peer last sent or acknowledged a byte; `None` if no longer known.
    fn last_activity(&self) -> Option<Instant>;
}

impl Default for Flow {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            moved: Default::default(),
            last_moved: AtomicU64::new(0),
            activity: Mutex::default(),
            control: Mutex::default(),
            has_counter: AtomicBool::new(false),
            counter: Mutex::default(),
        }
    }
}

impl Flow {
    /// Adds bytes moved in `direction` at `now`.
    pub fn add(&self, direction: Direction, bytes: u64, now: Instant) {
        self.moved[direction.index()].fetch_add(bytes, Ordering::Relaxed);
        self.last_moved.store(self.milliseconds_at(now), Ordering::Relaxed);
    }

    /// Records that a peer sent or acknowledged a byte at `at`; ignored if a later time is known.
    pub fn record_activity(&self, at: Instant) {
        self.last_moved.fetch_max(self.milliseconds_at(at), Ordering::Relaxed);
    }

    fn milliseconds_at(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Bytes moved in `direction` so far.
    #[must_use]
    pub fn moved(&self, direction: Direction) -> u64 {
        let moved = || self.moved[direction.index()].load(Ordering::Relaxed);
        if !self.has_counter.load(Ordering::Acquire) {
            return moved();
        }
        // Both figures are read under the lock: detaching adds one to the other.
        let counts = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        moved() + counts.as_ref().map_or(0, |counts| counts.moved(direction))
    }

    /// Adds the bytes of `counts` to the engine's own count.
    pub fn attach_counter(&self, counts: Arc<dyn ByteCounter>) {
        *self.counter.lock().unwrap_or_else(PoisonError::into_inner) = Some(counts);
        self.has_counter.store(true, Ordering::Release);
    }

    /// Adds the final count of the attached counter to the engine's own, and detaches the counter.
    pub fn detach_counter(&self) {
        let mut counts = self.counter.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(counts) = counts.take() {
            for direction in Direction::BOTH {
                self.moved[direction.index()].fetch_add(counts.moved(direction), Ordering::Relaxed);
            }
        }
    }

    /// Start time of the tunnel.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Time of the last movement of a byte seen or sampled by the engine, or the start of the
    /// tunnel. Costs no system call.
    #[must_use]
    pub fn last_moved(&self) -> Instant {
        self.started + Duration::from_millis(self.last_moved.load(Ordering::Relaxed))
    }

    /// Time at which a peer last sent or acknowledged a byte, by any part of the host, or the start
    /// of the tunnel. Asks the [`ActivitySource`] unless a byte moved within the last 50 ms.
    #[must_use]
    pub fn last_activity(&self) -> Instant {
        if self.last_moved().elapsed() >= FRESH {
            // Held meanwhile: a detached source is then no longer in use.
            let source = self.activity();
            if let Some(at) = source.as_ref().and_then(|source| source.last_activity()) {
                self.record_activity(at);
            }
        }
        self.last_moved()
    }

    /// Makes [`Flow::last_activity`] ask `source` from now on.
    pub fn attach_activity(&self, source: Arc<dyn ActivitySource>) {
        *self.activity() = Some(source);
    }

    /// Detaches the source. It is no longer in use when this returns.
    pub fn detach_activity(&self) {
        let source = self.activity().take();
        drop(source);
    }

    fn activity(&self) -> MutexGuard<'_, Option<Arc<dyn ActivitySource>>> {
        self.activity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches the receiver of commands. The first engine to take the tunnel attaches it; a later
    /// engine is reached through the first.
    ///
    /// Commands issued earlier are delivered now.
    pub fn attach_control(&self, obey: impl Fn(Command) + Send + Sync + 'static) {
        let mut control = self.control();
        if control.engine.is_some() {
            return;
        }
        let engine = control.engine.insert(Arc::new(obey)).clone();
        let (stop, rate) = (control.stop, control.rate);
        drop(control);
        if let Some(why) = stop {
            engine(Command::Stop(why));
        } else if rate.is_some() {
            engine(Command::ApplyRate);
        }
    }

    /// Detaches the receiver of commands: commands wait for the next one.
    pub fn detach_control(&self) {
        self.control().engine = None;
    }

    /// The reason passed to [`Flow::stop`], if it was called.
    #[must_use]
    pub fn stopped(&self) -> Option<Reason> {
        self.control().stop
    }

    /// Asks the engine to end the tunnel at once, with a reset to both sides. An engine still to
    /// take the tunnel is asked when it does.
    pub fn stop(&self, why: Reason) {
        let mut control = self.control();
        let why = *control.stop.get_or_insert(why);
        let engine = control.engine.clone();
        drop(control);
        if let Some(engine) = engine {
            engine(Command::Stop(why));
        }
    }

    /// Rate limit of the tunnel, each way; `None`: unlimited.
    #[must_use]
    pub fn rate(&self) -> Option<Rate> {
        self.control().rate
    }

    /// Sets or removes the tunnel's rate limit and has the engine apply it.
    pub fn set_rate(&self, rate: Option<Rate>) {
        let mut control = self.control();
        if std::mem::replace(&mut control.rate, rate) == rate {
            return;
        }
        let engine = control.engine.clone();
        drop(control);
        if let Some(engine) = engine {
            engine(Command::ApplyRate);
        }
    }

    fn control(&self) -> MutexGuard<'_, ControlState> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command to the engine of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Ends the tunnel at once, with a reset to both sides.
    Stop(Reason),
    /// Applies the changed [`Flow::rate`].
    ApplyRate,
}

/// The receiver of commands, and the commands given so far.
#[derive(Default)]
struct ControlState {
    engine: Option<Arc<dyn Fn(Command) + Send + Sync>>,
    stop: Option<Reason>,
    rate: Option<Rate>,
}

impl std::fmt::Debug for ControlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlState").field("stop", &self.stop).field("rate", &self.rate).finish_non_exhaustive()
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
                move |command| seen.lock().unwrap().push(command)
            };
            if stop_first {
                flow.stop(Reason::Killed);
                flow.attach_control(engine);
            } else {
                flow.attach_control(engine);
                flow.stop(Reason::Killed);
            }
            assert_eq!(*seen.lock().unwrap(), [Command::Stop(Reason::Killed)], "stop first: {stop_first}");
        }
    }

    #[test]
    fn what_others_count_is_part_of_the_whole_while_they_do_and_after() {
        #[derive(Debug)]
        struct Seven;
        impl ByteCounter for Seven {
            fn moved(&self, direction: Direction) -> u64 {
                7 + direction.index() as u64
            }
        }
        let flow = Flow::default();
        flow.add(Direction::ToOrigin, 100, Instant::now());
        let moved = || Direction::BOTH.map(|direction| flow.moved(direction));
        assert_eq!(moved(), [100, 0]);
        flow.attach_counter(Arc::new(Seven));
        assert_eq!(moved(), [107, 8]);
        for _ in 0..2 {
            flow.detach_counter();
            assert_eq!(moved(), [107, 8]);
        }
    }

    /// The source is asked once the last byte is no longer fresh, and never sets the time back.
    #[test]
    fn the_last_activity_is_the_latest_that_engine_or_source_knows() {
        #[derive(Debug)]
        struct At(Option<Instant>);
        impl ActivitySource for At {
            fn last_activity(&self) -> Option<Instant> {
                self.0
            }
        }
        let now = Instant::now();
        let ago = |seconds| now.checked_sub(Duration::from_secs(seconds)).expect("a host that is up for a minute");
        let flow = Flow { started: ago(50), ..Flow::default() };
        let quiet = |flow: &Flow| now.saturating_duration_since(flow.last_activity()).as_secs();
        assert_eq!(quiet(&flow), 50);
        flow.add(Direction::ToClient, 1, ago(30));
        assert_eq!(quiet(&flow), 30);
        for (known, expected) in [(Some(40), 30), (Some(20), 20), (None, 20), (Some(60), 20)] {
            flow.attach_activity(Arc::new(At(known.map(ago))));
            assert_eq!(quiet(&flow), expected, "{known:?}");
        }
        flow.attach_activity(Arc::new(At(Some(ago(10)))));
        flow.detach_activity();
        assert_eq!(quiet(&flow), 20);
    }

    #[test]
    fn the_first_reason_to_stop_stays() {
        let flow = Flow::default();
        flow.stop(Reason::Killed);
        flow.stop(Reason::Shutdown);
        let seen = Arc::new(Mutex::new(None));
        let copy = Arc::clone(&seen);
        flow.attach_control(move |command| *copy.lock().unwrap() = Some(command));
        assert_eq!(*seen.lock().unwrap(), Some(Command::Stop(Reason::Killed)));
    }

    #[test]
    fn commands_wait_while_nothing_is_attached() {
        let (exchange, tunnel) = (Flow::default(), Arc::new(Flow::default()));
        exchange.attach_control(|_| panic!("it was detached"));
        exchange.detach_control();
        exchange.stop(Reason::Killed);
        let next = Arc::clone(&tunnel);
        exchange.attach_control(move |command| {
            if let Command::Stop(why) = command {
                next.stop(why);
            }
        });
        assert_eq!(tunnel.stopped(), Some(Reason::Killed));
    }

    #[test]
    fn a_rate_reaches_the_engine_when_it_changes() {
        let flow = Flow::default();
        let rate = Rate::new(5_000).ok();
        flow.set_rate(rate);
        let told = Arc::new(Mutex::new(0));
        let copy = Arc::clone(&told);
        flow.attach_control(move |command| {
            assert_eq!(command, Command::ApplyRate);
            *copy.lock().unwrap() += 1;
        });
        assert_eq!(*told.lock().unwrap(), 1);
        flow.set_rate(rate);
        assert_eq!(*told.lock().unwrap(), 1);
        flow.set_rate(None);
        assert_eq!((*told.lock().unwrap(), flow.rate()), (2, None));
    }
}
