//! Look-ups by getaddrinfo(3), each on a thread of its own, from every source in nsswitch.conf(5).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use super::answer::{Answer, LookupError};
use super::share::Slot;

/// Blocks until it knows the addresses of a name.
pub(super) type Lookup = dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync;

/// Time to cache an answer: getaddrinfo(3) gives no time to live.
const KEEP: Duration = Duration::from_secs(30);

/// Time to cache a failure: one look-up serves a burst of clients, and a repair takes effect soon.
const KEEP_FAILURE: Duration = Duration::from_secs(1);

/// Messages of gai_strerror(3) for names without existence or address: of glibc, then of musl. The
/// standard library keeps no code.
const NOT_FOUND: [&str; 4] = [
    "Name or service not known",
    "No address associated with hostname",
    "Name does not resolve",
    "Name has no usable address",
];

/// Asks the system for an absolute name: the final dot keeps glibc and musl from the search list.
pub(super) fn getaddrinfo(name: &str) -> io::Result<Vec<SocketAddr>> {
    Ok((format!("{name}."), 0).to_socket_addrs()?.collect())
}

/// Looks a name up on a new thread. The thread holds the slot until getaddrinfo(3) returns; no
/// deadline can shorten the call.
pub(super) async fn look_up(lookup: &Arc<Lookup>, name: &str, slot: Slot) -> Answer {
    let (sender, found) = oneshot::channel();
    let (lookup, asked) = (lookup.clone(), name.to_owned());
    let thread = thread::Builder::new().name("lookup".to_owned()).spawn(move || {
        let found = lookup(&asked);
        drop(slot);
        let _ = sender.send(found);
    });
    if let Err(error) = thread {
        let why = format!("cannot start a thread: {error} (see ulimit -u, TasksMax= and pids.max)");
        return Answer { outcome: Err(LookupError::Exhausted(why)), ttl: Duration::ZERO };
    }
    match found.await {
        Ok(found) => answer(found),
        // The thread panicked.
        Err(_) => failure(LookupError::Failed("the look-up failed".to_owned())),
    }
}

fn answer(found: io::Result<Vec<SocketAddr>>) -> Answer {
    match found {
        Ok(addresses) if addresses.is_empty() => failure(LookupError::NotFound("no address".to_owned())),
        Ok(addresses) => Answer { outcome: Ok(addresses), ttl: KEEP },
        Err(error) => failure(lookup_error(&error)),
    }
}

const fn failure(error: LookupError) -> Answer {
    Answer { outcome: Err(error), ttl: KEEP_FAILURE }
}

fn lookup_error(error: &io::Error) -> LookupError {
    let words = error.to_string();
    // The standard library puts some words before those of the resolver.
    let words = words.strip_prefix("failed to lookup address information: ").unwrap_or(&words).to_owned();
    if NOT_FOUND.contains(&words.as_str()) { LookupError::NotFound(words) } else { LookupError::Failed(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_too_long_for_the_dns_fails_without_a_query() {
        let error = getaddrinfo(&"a".repeat(64)).unwrap_err();
        let LookupError::NotFound(words) = lookup_error(&error) else { panic!("{error}") };
        assert!(!words.contains("failed to lookup"), "{words}");
    }
}
