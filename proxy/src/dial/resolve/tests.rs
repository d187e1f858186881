//! Look-ups on threads released by the test, and by a name server on a socket of the test.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use super::*;
use crate::reason::Reason;

const ADDRESS: &str = "10.0.0.1:0";

const LIMITS: Limits = Limits { total: 100, each: 50, known: 1_024, deadline: Duration::from_secs(20) };

fn parse(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn user(name: &str) -> Principal {
    Principal::User(name.into())
}

async fn resolve(resolver: &Resolver, name: &str) -> Outcome {
    resolver.resolve(name, &user("ann")).await
}

fn by(lookup: impl Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static, limits: Limits) -> Resolver {
    Resolver::with(Backend::Threads(Arc::new(lookup)), None, limits)
}

/// Makes a resolver to count its look-ups and answer each with `answer`.
fn counting(answer: fn(&str) -> io::Result<Vec<SocketAddr>>, limits: Limits) -> (Resolver, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let lookup = move |name: &str| {
        counted.fetch_add(1, Ordering::SeqCst);
        answer(name)
    };
    (by(lookup, limits), calls)
}

/// Makes a resolver with look-ups that hang until the sender is dropped or sends, once for each.
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
    (by(lookup, limits), release, calls)
}

/// Makes a resolver for a name server on this address.
fn asking(server: std::net::IpAddr, directory: &tempfile::TempDir, limits: Limits) -> Resolver {
    let paths = ["resolv.conf", "hosts"].map(|name| directory.path().join(name));
    std::fs::write(&paths[0], format!("nameserver {server}\n")).unwrap();
    std::fs::write(&paths[1], "192.0.2.5 short\n").unwrap();
    Resolver::with(Backend::Dns(Dns::default()), Some(Files::at(paths)), limits)
}

/// Sleeps, so that a paused clock does not run ahead of the threads.
async fn skip(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let waited = timeout(Duration::from_secs(20), async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

#[tokio::test]
async fn an_answer_is_remembered_for_its_time() {
    let (resolver, calls) = counting(|_| Ok(parse(&[ADDRESS])), LIMITS);
    for _ in 0..3 {
        assert_eq!(resolve(&resolver, "a.example").await, Ok(parse(&[ADDRESS])));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
    skip(Duration::from_secs(31)).await;
    resolve(&resolver, "a.example").await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    resolve(&resolver, "b.example").await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_second() {
    let (resolver, calls) = counting(|_| Err(io::Error::other("Name or service not known")), LIMITS);
    let error = resolve(&resolver, "a.example").await.unwrap_err();
    let refusal = error.refusal("a.example");
    assert_eq!(refusal.reason, Reason::ResolveFailed);
    assert_eq!(refusal.detail, "a.example does not resolve: Name or service not known");
    skip(Duration::from_millis(1_100)).await;
    resolve(&resolver, "a.example").await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn addresses_are_distinct_mixed_and_few() {
    let many = |_: &str| {
        let six = (1..=20).map(|n| SocketAddr::new(format!("fd00::{n}").parse().unwrap(), 0));
        Ok(six.clone().chain(six).chain(parse(&[ADDRESS])).collect())
    };
    let (resolver, _) = counting(many, LIMITS);
    let addresses = resolve(&resolver, "a.example").await.unwrap();
    assert_eq!(addresses.len(), MAX_ADDRESSES);
    assert_eq!(addresses[..3], parse(&["[fd00::1]:0", ADDRESS, "[fd00::2]:0"]));
    let (resolver, _) = counting(|_| Ok(Vec::new()), LIMITS);
    let error = resolve(&resolver, "a.example").await.unwrap_err();
    assert_eq!(error, LookupError::NotFound("no address".to_owned()));
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_all_who_ask() {
    let (resolver, release, calls) = hanging(LIMITS);
    let asking: Vec<_> = (0..50)
        .map(|number| {
            let resolver = resolver.clone();
            tokio::spawn(async move { resolver.resolve("a.example", &user(&number.to_string())).await })
        })
        .collect();
    until("all wait", || resolver.shared.flights.waiters() == 50).await;
    drop(release);
    for asked in asking {
        assert_eq!(asked.await.unwrap(), Ok(parse(&[ADDRESS])));
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_hanging_thread_ends_in_a_time_out_and_is_of_use_later() {
    let limits = Limits { deadline: Duration::from_millis(20), ..LIMITS };
    let (resolver, release, calls) = hanging(limits);
    let refusal = resolve(&resolver, "a.example").await.unwrap_err().refusal("a.example");
    assert_eq!(refusal.reason, Reason::ResolveTimeout);
    assert_eq!(refusal.detail, "no answer about a.example from the resolver in 20ms");
    drop(release);
    until("the answer is remembered", || resolver.shared.cache().0.contains_key("a.example")).await;
    assert_eq!(resolve(&resolver, "a.example").await, Ok(parse(&[ADDRESS])));
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn hanging_threads_are_the_share_of_who_wanted_them() {
    let (resolver, release, calls) = hanging(Limits { each: 2, ..LIMITS });
    let ask = |name: &'static str| {
        let resolver = resolver.clone();
        tokio::spawn(async move { resolve(&resolver, name).await })
    };
    let hanging = [ask("a.example"), ask("b.example")];
    until("two threads are busy", || calls.load(Ordering::SeqCst) == 2).await;
    // A departing client stops no thread.
    hanging[0].abort();
    let refusal = resolve(&resolver, "c.example").await.unwrap_err().refusal("c.example");
    assert_eq!(refusal.reason, Reason::LookupLimit);
    let why = "c.example is not looked up: --max-lookups-per-user 2 reached by user ann";
    assert_eq!(refusal.detail, why);
    drop(release);
    assert_eq!(resolver.resolve("c.example", &user("bob")).await, Ok(parse(&[ADDRESS])));
    until("nothing is pending", || resolver.shared.flights.flights() == 0).await;
    resolve(&resolver, "d.example").await.unwrap();
}

#[tokio::test]
async fn memory_is_bounded_and_the_stalest_goes_first() {
    let (resolver, _) = counting(|_| Ok(parse(&[ADDRESS])), Limits { known: 3, ..LIMITS });
    for name in ["a", "b", "c", "d", "e"] {
        resolve(&resolver, name).await.unwrap();
        skip(Duration::from_secs(1)).await;
    }
    let known = || {
        let mut known: Vec<_> = resolver.shared.cache().0.keys().cloned().collect();
        known.sort();
        known
    };
    assert_eq!(known(), ["c", "d", "e"]);
    skip(Duration::from_secs(60)).await;
    resolve(&resolver, "f").await.unwrap();
    assert_eq!(known(), ["f"]);
}

#[tokio::test]
async fn a_look_up_that_panics_is_a_failure_and_gives_back_its_share() {
    let (resolver, _) = counting(|_| panic!("a broken resolver module"), Limits { each: 1, ..LIMITS });
    for name in ["a.example", "b.example"] {
        let error = resolve(&resolver, name).await.unwrap_err();
        assert_eq!(error, LookupError::Failed("the look-up failed".to_owned()));
    }
    assert!(resolver.shared.flights.flights() == 0);
}

/// A look-up dropped with its runtime leaves nothing behind, and its name can be looked up again.
#[test]
fn a_look_up_that_is_dropped_is_no_hindrance() {
    let (resolver, release, _) = hanging(LIMITS);
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let asked = first.block_on(async { timeout(Duration::from_millis(10), resolve(&resolver, "a.example")).await });
    asked.unwrap_err();
    assert_eq!(resolver.shared.flights.flights(), 1);
    drop(first);
    assert!(resolver.shared.flights.flights() == 0);
    drop(release);
    assert_eq!(runtime().block_on(resolve(&resolver, "a.example")), Ok(parse(&[ADDRESS])));
}

#[tokio::test]
async fn a_look_up_that_nobody_waits_for_is_given_up_with_its_share() {
    let directory = tempfile::tempdir().unwrap();
    // No name server is on this address, or it is silent: the look-up is over or goes on for long.
    let resolver = asking("127.213.78.1".parse().unwrap(), &directory, Limits { each: 1, ..LIMITS });
    assert_eq!(resolve(&resolver, "short").await, Ok(parse(&["192.0.2.5:0"])));
    assert!(resolver.is_in_hosts("short") && !resolver.is_in_hosts("other"));
    let gone = timeout(Duration::ZERO, resolve(&resolver, "a.example"));
    let _ = gone.await;
    until("nothing is pending", || resolver.shared.flights.flights() == 0).await;
    until("the share is free", || resolver.shared.shares.take(&user("ann")).is_ok()).await;
}
