//! Names to addresses: getaddrinfo(3) on a bounded number of threads, each name once at a time, with
//! a short memory.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};

use super::race::interleave;
use crate::reason::{Reason, Refusal};

/// Addresses of a name that are used; each may cost a time-out.
const MAX_ADDRESSES: usize = 16;

/// What the resolver may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Look-ups in progress; each holds a thread for as long as getaddrinfo(3) takes, which no
    /// deadline can interrupt.
    pub(super) threads: usize,
    /// Names in progress or waiting for a thread.
    pub(super) pending: usize,
    /// Names remembered.
    pub(super) known: usize,
    /// How long a client waits for an answer.
    pub(super) deadline: Duration,
    /// How long an answer is remembered; getaddrinfo(3) does not tell its time to live.
    pub(super) keep: Duration,
    /// How long a failure is: so that a burst of clients asks once, and a cure is soon noticed.
    pub(super) keep_failure: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            threads: 32,
            pending: 1_024,
            known: 1_024,
            deadline: Duration::from_secs(10),
            keep: Duration::from_secs(30),
            keep_failure: Duration::from_secs(1),
        }
    }
}

/// The addresses of a name without a port, or why there are none.
type Outcome = Result<Vec<SocketAddr>, Refusal>;
/// What blocks until it knows the addresses of a name.
type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;
/// Tells all who wait for a name.
type Answer = watch::Sender<Option<Outcome>>;

/// Resolves names.
#[derive(Clone)]
pub(super) struct Resolver {
    shared: Arc<Shared>,
}

struct Shared {
    lookup: Box<Lookup>,
    limits: Limits,
    threads: Arc<Semaphore>,
    names: Mutex<Names>,
}

#[derive(Default)]
struct Names {
    /// Answers, and until when they hold.
    known: HashMap<String, (Outcome, Instant)>,
    pending: HashMap<String, Answer>,
}

/// What can be done for a name at once.
enum Found {
    Known(Outcome),
    Pending(watch::Receiver<Option<Outcome>>),
}

/// Asks the system.
pub(super) fn system(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((name, 0).to_socket_addrs()?.collect())
}

impl Resolver {
    pub(super) fn new(
        lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
        limits: Limits,
    ) -> Self {
        let threads = Arc::new(Semaphore::new(limits.threads));
        Self { shared: Arc::new(Shared { lookup: Box::new(lookup), limits, threads, names: Mutex::default() }) }
    }

    /// The addresses of `name`, with port 0.
    ///
    /// # Errors
    /// `ResolveFailed`, `ResolveTimeout`, or `Exhausted` if too many names wait already.
    pub(super) async fn resolve(&self, name: &str) -> Outcome {
        let mut answer = match self.find(name)? {
            Found::Known(outcome) => return outcome,
            Found::Pending(answer) => answer,
        };
        let deadline = self.shared.limits.deadline;
        match timeout(deadline, answer.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(failed(name, "no answer"))),
            // The look-up went away with its runtime.
            Ok(Err(_)) => Err(failed(name, "the look-up was given up")),
            Err(_) => {
                let time = humantime::format_duration(deadline);
                Err(Refusal::new(Reason::ResolveTimeout, format!("no answer about {name} from the resolver in {time}")))
            }
        }
    }

    /// The answer, or the look-up to wait for, which is begun if there is none.
    fn find(&self, name: &str) -> Result<Found, Refusal> {
        let mut names = self.shared.names();
        if let Some((outcome, until)) = names.known.get(name)
            && *until > Instant::now()
        {
            return Ok(Found::Known(outcome.clone()));
        }
        if let Some(answer) = names.pending.get(name) {
            return Ok(Found::Pending(answer.subscribe()));
        }
        let pending = names.pending.len();
        if pending >= self.shared.limits.pending {
            return Err(Refusal::new(Reason::Exhausted, format!("{pending} names wait for the resolver already")));
        }
        let (answer, receiver) = watch::channel(None);
        names.pending.insert(name.to_owned(), answer.clone());
        tokio::spawn(self.shared.clone().look_up(name.to_owned(), answer));
        Ok(Found::Pending(receiver))
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Shared {
    fn names(&self) -> MutexGuard<'_, Names> {
        // No code that holds the lock leaves the maps half changed.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look_up(self: Arc<Self>, name: String, answer: Answer) {
        let Some(thread) = self.turn(&name, &answer).await else { return };
        let (shared, asked) = (self.clone(), name.clone());
        let found = spawn_blocking(move || {
            let found = (shared.lookup)(&asked);
            drop(thread);
            found
        });
        let outcome = outcome(&name, found.await.unwrap_or_else(|panic| Err(io::Error::other(panic))));
        let mut names = self.names();
        names.pending.remove(&name);
        names.remember(name, &outcome, &self.limits);
        answer.send_replace(Some(outcome));
    }

    /// Waits for a thread, unless everybody who asked has left before.
    async fn turn(&self, name: &str, answer: &Answer) -> Option<OwnedSemaphorePermit> {
        let mut thread = pin!(self.threads.clone().acquire_owned());
        loop {
            tokio::select! {
                thread = &mut thread => return thread.ok(),
                () = answer.closed() => {
                    let mut names = self.names();
                    // Under the lock nobody can join; somebody may have in between.
                    if answer.receiver_count() == 0 {
                        names.pending.remove(name);
                        return None;
                    }
                }
            }
        }
    }
}

impl Names {
    /// Remembers an answer; when there is no room, it forgets the stale ones, or else the stalest.
    fn remember(&mut self, name: String, outcome: &Outcome, limits: &Limits) {
        let now = Instant::now();
        if self.known.len() >= limits.known {
            self.known.retain(|_, (_, until)| *until > now);
        }
        if self.known.len() >= limits.known
            && let Some(stalest) = self.known.iter().min_by_key(|(_, (_, until))| *until).map(|(name, _)| name.clone())
        {
            self.known.remove(&stalest);
        }
        let keep = if outcome.is_ok() { limits.keep } else { limits.keep_failure };
        self.known.insert(name, (outcome.clone(), now + keep));
    }
}

/// The addresses to use of those found: each once, families alternating, so that the cut leaves some
/// of both.
fn outcome(name: &str, found: io::Result<Vec<SocketAddr>>) -> Outcome {
    let mut distinct: Vec<SocketAddr> = Vec::new();
    for address in found.map_err(|error| failed(name, &in_short(&error)))? {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    if distinct.is_empty() {
        return Err(failed(name, "it has no address"));
    }
    let mut mixed = interleave(&distinct);
    mixed.truncate(MAX_ADDRESSES);
    Ok(mixed)
}

/// The resolver's own words; std puts some of its own before them.
fn in_short(error: &io::Error) -> String {
    let words = error.to_string();
    words.strip_prefix("failed to lookup address information: ").unwrap_or(&words).to_owned()
}

fn failed(name: &str, why: &str) -> Refusal {
    Refusal::new(Reason::ResolveFailed, format!("{name} does not resolve: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    const ADDRESS: &str = "10.0.0.1:0";

    fn parse(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// A resolver that counts its look-ups and answers each with `answer`.
    fn counting(answer: fn(&str) -> io::Result<Vec<SocketAddr>>, limits: Limits) -> (Resolver, Arc<AtomicUsize>) {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let lookup = move |name: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            answer(name)
        };
        (Resolver::new(lookup, limits), calls)
    }

    /// A resolver whose look-ups hang until the sender is dropped or sent to, once for each.
    fn hanging(limits: Limits) -> (Resolver, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (release, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let lookup = move |_: &str| {
            counted.fetch_add(1, Ordering::SeqCst);
            let _ = gate.lock().unwrap().recv();
            Ok(parse(&[ADDRESS]))
        };
        (Resolver::new(lookup, limits), release, calls)
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let waited = timeout(Duration::from_secs(20), async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        assert!(waited.await.is_ok(), "never: {what}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_remembered_for_its_time() {
        let (resolver, calls) = counting(|_| Ok(parse(&[ADDRESS])), Limits::default());
        for _ in 0..3 {
            assert_eq!(resolver.resolve("a.example").await, Ok(parse(&[ADDRESS])));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_secs(29)).await;
        resolver.resolve("a.example").await.unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_secs(2)).await;
        resolver.resolve("a.example").await.unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        resolver.resolve("b.example").await.unwrap();
        assert_eq!(calls.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_remembered_for_a_second() {
        let (resolver, calls) = counting(|_| Err(io::Error::other("Name or service not known")), Limits::default());
        for _ in 0..3 {
            let refusal = resolver.resolve("a.example").await.unwrap_err();
            assert_eq!(refusal.reason, Reason::ResolveFailed);
            assert_eq!(refusal.detail, "a.example does not resolve: Name or service not known");
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        tokio::time::advance(Duration::from_millis(1_100)).await;
        resolver.resolve("a.example").await.unwrap_err();
        assert_eq!(calls.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn addresses_are_distinct_mixed_and_few() {
        let many = |_: &str| {
            let six = (1..=20).map(|n| SocketAddr::new(format!("fd00::{n}").parse().unwrap(), 0));
            Ok(six.clone().chain(six).chain(parse(&[ADDRESS])).collect())
        };
        let (resolver, _) = counting(many, Limits::default());
        let addresses = resolver.resolve("a.example").await.unwrap();
        assert_eq!(addresses.len(), MAX_ADDRESSES);
        assert_eq!(addresses[..3], parse(&["[fd00::1]:0", ADDRESS, "[fd00::2]:0"]));
        let (resolver, _) = counting(|_| Ok(Vec::new()), Limits::default());
        let refusal = resolver.resolve("a.example").await.unwrap_err();
        assert_eq!(refusal.detail, "a.example does not resolve: it has no address");
    }

    #[tokio::test]
    async fn a_name_is_looked_up_once_for_all_who_ask() {
        let (resolver, release, calls) = hanging(Limits::default());
        let asking: Vec<_> = (0..50)
            .map(|_| {
                let resolver = resolver.clone();
                tokio::spawn(async move { resolver.resolve("a.example").await })
            })
            .collect();
        let waiting = || resolver.shared.names().pending.get("a.example").map(Answer::receiver_count);
        until("all wait", || waiting() == Some(50)).await;
        drop(release);
        for asked in asking {
            assert_eq!(asked.await.unwrap(), Ok(parse(&[ADDRESS])));
        }
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_hanging_look_up_ends_in_a_time_out_and_is_of_use_later() {
        let limits = Limits { deadline: Duration::from_millis(20), ..Limits::default() };
        let (resolver, release, calls) = hanging(limits);
        let refusal = resolver.resolve("a.example").await.unwrap_err();
        assert_eq!(refusal.reason, Reason::ResolveTimeout);
        assert_eq!(refusal.detail, "no answer about a.example from the resolver in 20ms");
        drop(release);
        until("the answer is remembered", || resolver.shared.names().known.contains_key("a.example")).await;
        assert_eq!(resolver.resolve("a.example").await, Ok(parse(&[ADDRESS])));
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn hanging_look_ups_pile_up_neither_threads_nor_names() {
        let limits = Limits { threads: 2, pending: 4, deadline: Duration::from_secs(60 * 5), ..Limits::default() };
        let (resolver, release, calls) = hanging(limits);
        let ask = |name: &'static str| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.resolve(name).await })
        };
        let pending = |names: usize| resolver.shared.names().pending.len() == names;
        let first = [ask("a.example"), ask("b.example")];
        until("two threads are busy", || calls.load(Ordering::SeqCst) == 2).await;
        let queued = [ask("c.example"), ask("d.example")];
        until("two names are queued", || pending(4)).await;
        let refusal = resolver.resolve("e.example").await.unwrap_err();
        assert_eq!(refusal.reason, Reason::Exhausted);
        assert_eq!(refusal.detail, "4 names wait for the resolver already");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        // Whoever leaves the queue makes room; a look-up that has begun stays.
        queued[0].abort();
        first[0].abort();
        until("the queue has room", || pending(3)).await;
        let last = ask("e.example");
        until("it is full again", || pending(4)).await;
        drop(release);
        assert_eq!(last.await.unwrap(), Ok(parse(&[ADDRESS])));
        until("nothing is pending", || pending(0)).await;
        assert_eq!(calls.load(Ordering::SeqCst), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded_and_the_stalest_goes_first() {
        let limits = Limits { known: 3, ..Limits::default() };
        let (resolver, _) = counting(|_| Ok(parse(&[ADDRESS])), limits);
        for name in ["a", "b", "c", "d", "e"] {
            resolver.resolve(name).await.unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let known = || {
            let mut known: Vec<_> = resolver.shared.names().known.keys().cloned().collect();
            known.sort();
            known
        };
        assert_eq!(known(), ["c", "d", "e"]);
        tokio::time::advance(Duration::from_secs(60)).await;
        resolver.resolve("f").await.unwrap();
        assert_eq!(known(), ["f"]);
    }

    #[tokio::test]
    async fn a_look_up_that_panics_is_a_failure() {
        let (resolver, _) = counting(|_| panic!("a broken resolver module"), Limits::default());
        assert_eq!(resolver.resolve("a.example").await.unwrap_err().reason, Reason::ResolveFailed);
        assert!(resolver.shared.names().pending.is_empty());
    }

    #[test]
    fn the_system_knows_its_own_name() {
        assert!(system("localhost").unwrap().iter().all(|address| address.ip().is_loopback()));
        // A label too long for the DNS fails without a query.
        let error = system(&"a".repeat(64)).unwrap_err();
        assert!(!in_short(&error).contains("failed to lookup"), "{error}");
    }
}
