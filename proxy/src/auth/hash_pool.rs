//! The threads that hash passwords: at most one core less than there are, at the lowest priority.
//!
//! They start with the gateway, so that a later failure to create threads (`pids.max`,
//! `RLIMIT_NPROC`) does not stop password checks.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use super::digest::Digest;
use super::failures::Failures;
use super::outcome::Outcome;
use super::queue::{Full, Queue};
use crate::reason::{Reason, Refusal};
use crate::single_flight::{self, SingleFlight};
use crate::source::Source;
use crate::sys::thread::lowest_priority;

/// Threads at most, however many cores there are: each costs a stack, and the data plane needs the
/// other cores more.
const MAX_THREADS: usize = 32;
/// Bytes of stack of a thread; bcrypt keeps 4 KiB there, SHA-crypt less.
const STACK: usize = 256 << 10;

/// Waiting and running checks, by credentials.
pub(super) type Checks = SingleFlight<Digest, Outcome, Ticket>;

/// The hashing side of a check.
pub(super) type Lead = single_flight::Lead<Digest, Outcome, Ticket>;

/// Computes one check; `true` if the password is right.
type Check = Box<dyn FnOnce() -> bool + Send>;

/// A waiting check.
struct Job {
    check: Check,
    lead: Lead,
    source: Source,
}

impl Job {
    fn refuse(self, refusal: Refusal) {
        self.lead.tell(Outcome::Refused { refusal, source: self.source });
    }
}

/// The threads, and their waiting checks.
pub(super) struct Pool(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified of each new check, and of the end.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: Queue<Job>,
    failures: Failures,
    running: usize,
    ended: bool,
}

/// The place of a check in the queue; dropping it gives the place up.
pub(super) struct Ticket {
    shared: Arc<Shared>,
    source: Source,
    number: u64,
}

impl Pool {
    /// A pool without threads: checks wait until [`Pool::start`].
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Starts threads: one for each core but one, and at least one. Returns their number, lower if
    /// the host refuses more.
    ///
    /// # Errors
    /// The error of clone(2), if no thread can be started.
    pub(super) fn start(&self) -> io::Result<usize> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let wanted = (cores - 1).clamp(1, MAX_THREADS);
        for number in 0..wanted {
            let shared = Arc::clone(&self.0);
            let thread = thread::Builder::new().name(format!("password-{number}")).stack_size(STACK);
            match thread.spawn(move || shared.work()) {
                Ok(_) => {}
                Err(error) if number == 0 => return Err(error),
                Err(_) => return Ok(number),
            }
        }
        Ok(wanted)
    }

    /// Has a check wait in the line of its source. Without room for it, it ends with a refusal.
    pub(super) fn submit(&self, source: Source, check: Check, lead: Lead) -> Option<Ticket> {
        let pushed = {
            let mut state = self.0.lock();
            let State { queue, failures, .. } = &mut *state;
            let now = Instant::now();
            queue.push(source, Job { check, lead, source }, |source| failures.recent(source, now))
        };
        // Out of the lock: waiters have a lock of their own, and take this one under it.
        match pushed {
            Ok((number, displaced)) => {
                self.0.changed.notify_one();
                if let Some(job) = displaced {
                    let why = "other sources are served first, and have used up the room for unverified credentials";
                    job.refuse(busy(why));
                }
                Some(Ticket { shared: Arc::clone(&self.0), source, number })
            }
            Err(Full { check: job, limit }) => {
                job.refuse(busy(limit));
                None
            }
        }
    }
}

impl Shared {
    /// Runs a hashing thread.
    fn work(&self) {
        // Refused, as by a seccomp filter, hashing has the share of any other thread.
        let _ = lowest_priority();
        while let Some((source, job)) = self.next() {
            let Job { check, lead, .. } = job;
            if lead.begin() {
                // A panic costs this one check: dropping `lead` wakes its waiters.
                match catch_unwind(AssertUnwindSafe(check)) {
                    Ok(true) => lead.tell(Outcome::Right),
                    Ok(false) => {
                        self.lock().failures.record(source, Instant::now());
                        lead.tell(Outcome::Wrong);
                    }
                    Err(_) => drop(lead),
                }
            }
            self.lock().running -= 1;
        }
    }

    /// Waits for a check; `None` at the end of the pool.
    fn next(&self) -> Option<(Source, Job)> {
        let mut state = self.lock();
        while !state.ended {
            let State { queue, failures, running, .. } = &mut *state;
            let now = Instant::now();
            if let Some(next) = queue.pop(|source| failures.recent(source, now)) {
                *running += 1;
                return Some(next);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    /// Ends the threads, each after its running check, and abandons the waiting checks.
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.lock();
            state.ended = true;
            std::mem::take(&mut state.queue)
        };
        self.0.changed.notify_all();
        drop(waiting);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let job = self.shared.lock().queue.remove(self.source, self.number);
        // Out of the lock, as in `submit`.
        drop(job);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.0.lock();
        f.debug_struct("Pool").field("waiting", &state.queue.len()).field("running", &state.running).finish()
    }
}

/// A refusal for want of room or time.
pub(super) fn busy(detail: impl Into<std::borrow::Cow<'static, str>>) -> Refusal {
    Refusal::new(Reason::AuthBusy, detail)
}

#[cfg(test)]
impl Pool {
    /// Number of waiting and running checks.
    pub(super) fn checks(&self) -> usize {
        let state = self.0.lock();
        state.queue.len() + state.running
    }

    /// Failures of a source not yet forgiven.
    pub(super) fn failures(&self, source: Source) -> u32 {
        self.0.lock().failures.recent(source, Instant::now())
    }
}
