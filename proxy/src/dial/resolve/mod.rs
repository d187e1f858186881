//! Name resolution: one look-up at a time for each name, a share of the look-ups for each
//! requester, and a cache of answers for their time to live.
//!
//! | file | content |
//! |---|---|
//! | `files` | `/etc/resolv.conf` and `/etc/hosts` |
//! | `dns` | queries to name servers |
//! | `turns` | the order of name servers, and the time for each |
//! | `sockets` | sockets to name servers |
//! | `families` | the joined answers for A and AAAA |
//! | `system` | getaddrinfo(3), on threads |
//! | `limits` | limits on the resources of a resolver |
//! | `share` | the look-ups in progress, by requester |
//! | `answer` | the result of a look-up |

mod answer;
mod dns;
mod families;
mod files;
mod limits;
mod share;
mod sockets;
mod system;
mod turns;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::race::interleave;
use crate::metrics::{LOOKUPS, LOOKUPS_ACTIVE};
use crate::principal::Principal;
use crate::single_flight::{Lead, SingleFlight, Waiter};
use crate::sys::deadline::timeout;
use answer::Answer;
use dns::Dns;
use files::Files;
use limits::Limits;
use share::{Shares, Slot};
use system::Lookup;

pub(super) use answer::LookupError;
pub use limits::{LOOKUPS_EACH, ResolverKind};

/// Most addresses to use of one name; each may cost a time-out.
const MAX_ADDRESSES: usize = 16;

/// Addresses of a name, with port 0.
type Outcome = Result<Vec<SocketAddr>, LookupError>;

/// Resolves names.
#[derive(Clone)]
pub(super) struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    backend: Backend,
    limits: Limits,
    files: Option<Files>,
    shares: Arc<Shares>,
    cache: Mutex<Cache>,
    flights: Arc<LookUps>,
}

enum Backend {
    Dns(Dns),
    Threads(Arc<Lookup>),
}

/// Answers, and until when they hold.
#[derive(Default)]
struct Cache(HashMap<String, (Outcome, Instant)>);

/// Look-ups in progress, by name.
type LookUps = SingleFlight<String, Outcome, AbortOnDrop>;

/// Cancels the task of a look-up.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Where the addresses of a name are.
enum Source {
    Known(Outcome),
    Pending(Waiter<String, Outcome, AbortOnDrop>),
}

impl Resolver {
    /// A resolver by the files of this host and `kind`.
    pub(super) fn new(kind: ResolverKind, each: usize) -> Self {
        let backend = match kind {
            ResolverKind::Dns => Backend::Dns(Dns::default()),
            ResolverKind::System => Backend::Threads(Arc::new(system::getaddrinfo)),
        };
        let limits = Limits::of(kind, each);
        limits.publish();
        Self::with(backend, Some(Files::of_host()), limits)
    }

    /// Makes a resolver from `lookup`, a function which may block and runs on threads of its own.
    #[cfg(test)]
    pub(super) fn by(lookup: impl Fn(&str) -> std::io::Result<Vec<SocketAddr>> + Send + Sync + 'static) -> Self {
        let limits = Limits::of(ResolverKind::System, LOOKUPS_EACH);
        Self::with(Backend::Threads(Arc::new(lookup)), None, limits)
    }

    fn with(backend: Backend, files: Option<Files>, limits: Limits) -> Self {
        let shares = Shares::new(limits.total, limits.each);
        Self {
            shared: Arc::new(Shared {
                backend,
                limits,
                files,
                shares,
                cache: Mutex::default(),
                flights: Arc::default(),
            }),
        }
    }

    /// The hosts file of this host lists the name.
    pub(super) fn is_in_hosts(&self, name: &str) -> bool {
        self.shared.in_files(name).is_some()
    }

    /// Reads the files of this host again if they have changed or if `asked` is set.
    pub(super) fn reread(&self, asked: bool) {
        self.shared.files.iter().for_each(|files| files.reread(asked));
    }

    /// Resolves `name` to addresses with port 0. Dropping the future releases the requester's
    /// share, and cancels the look-up if it has no other waiters.
    pub(super) async fn resolve(&self, name: &str, requester: &Principal) -> Outcome {
        let deadline = self.shared.limits.deadline;
        let answered = async {
            // Once more if the look-up went away, as with its runtime.
            for _ in 0..2 {
                match self.find(name, requester) {
                    Source::Known(outcome) => return outcome,
                    Source::Pending(waiter) => {
                        if let Some(outcome) = waiter.outcome().await {
                            return outcome;
                        }
                    }
                }
            }
            Err(LookupError::Failed("the look-up was cancelled".to_owned()))
        };
        timeout(deadline, answered).await.unwrap_or(Err(LookupError::Timeout(deadline)))
    }

    /// Returns the cached answer, or the look-up to wait for; starts the look-up if none is in
    /// progress.
    fn find(&self, name: &str, requester: &Principal) -> Source {
        let shared = &self.shared;
        if let Some(addresses) = shared.in_files(name) {
            return Source::Known(Ok(usable(&addresses)));
        }
        if let Some(outcome) = shared.cached(name) {
            return Source::Known(outcome);
        }
        let (waiter, lead) = shared.flights.join(name.to_owned());
        let Some(lead) = lead else { return Source::Pending(waiter) };
        // A look-up that ended just before is in the cache by now.
        if let Some(outcome) = shared.cached(name) {
            return Source::Known(outcome);
        }
        let slot = match shared.shares.take(requester) {
            Ok(slot) => slot,
            Err(why) => {
                let error = LookupError::Limited(why);
                LOOKUPS.counter(&[error.label()]).increment(1);
                return Source::Known(Err(error));
            }
        };
        // A thread in getaddrinfo(3) cannot be stopped: its look-up goes on and serves later
        // requests.
        let is_stoppable = matches!(shared.backend, Backend::Dns(_)) || !lead.begin();
        let task = tokio::spawn(Arc::clone(shared).run(name.to_owned(), slot, lead));
        if is_stoppable {
            waiter.hold(AbortOnDrop(task.abort_handle()));
        }
        Source::Pending(waiter)
    }
}

/// Puts the series of look-ups at zero.
pub(super) fn register_series() {
    LOOKUPS_ACTIVE.gauge(&[]).increment(0.0);
    for outcome in LookupError::LABELS.into_iter().chain(["resolved", "abandoned"]) {
        LOOKUPS.counter(&[outcome]).increment(0);
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        // No holder of the lock leaves the map half changed.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, name: &str) -> Option<Outcome> {
        let cache = self.cache();
        let (outcome, until) = cache.0.get(name)?;
        (*until > Instant::now()).then(|| outcome.clone())
    }

    fn in_files(&self, name: &str) -> Option<Vec<SocketAddr>> {
        let addresses = self.files.as_ref()?.content().addresses(name)?;
        Some(addresses.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
    }

    /// Looks a name up for all that wait for it. However it ends, the name can be looked up again.
    async fn run(self: Arc<Self>, name: String, slot: Slot, lead: Lead<String, Outcome, AbortOnDrop>) {
        let abandoned = Abandoned;
        let answer = self.look_up(&name, slot).await;
        std::mem::forget(abandoned);
        let label = answer.outcome.as_ref().map_or_else(LookupError::label, |_| "resolved");
        LOOKUPS.counter(&[label]).increment(1);
        let outcome = answer.outcome.map(|addresses| usable(&addresses));
        // Cached before the look-up ends: a later request finds one or the other.
        if !answer.ttl.is_zero() {
            self.cache().remember(name, &outcome, answer.ttl, self.limits.known);
        }
        lead.tell(outcome);
    }

    async fn look_up(&self, name: &str, slot: Slot) -> Answer {
        match (&self.backend, &self.files) {
            (Backend::Threads(lookup), _) => system::look_up(lookup, name, slot).await,
            (Backend::Dns(dns), Some(files)) => {
                let answer = dns.look_up(&files.content().resolv, name, self.limits.deadline).await;
                drop(slot);
                answer
            }
            (Backend::Dns(_), None) => Answer::failed("no name server is configured".to_owned()),
        }
    }
}

impl Cache {
    /// Remembers an answer; when there is no room, it forgets the stale ones, or else the stalest.
    fn remember(&mut self, name: String, outcome: &Outcome, ttl: Duration, limit: usize) {
        let now = Instant::now();
        if self.0.len() >= limit {
            self.0.retain(|_, (_, until)| *until > now);
        }
        if self.0.len() >= limit
            && let Some(stalest) = self.0.iter().min_by_key(|(_, (_, until))| *until).map(|(name, _)| name.clone())
        {
            self.0.remove(&stalest);
        }
        self.0.insert(name, (outcome.clone(), now + ttl));
    }
}

/// Counts a look-up that is dropped before its answer.
struct Abandoned;

impl Drop for Abandoned {
    fn drop(&mut self) {
        LOOKUPS.counter(&["abandoned"]).increment(1);
    }
}

/// Returns the addresses to use: without duplicates, families alternating, so that truncation keeps
/// some of both.
fn usable(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !distinct.contains(address) {
            distinct.push(*address);
        }
    }
    let mut mixed = interleave(&distinct);
    mixed.truncate(MAX_ADDRESSES);
    mixed
}

#[cfg(test)]
mod tests;
