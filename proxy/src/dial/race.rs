//! Happy Eyeballs (RFC 8305): attempts at the addresses start one after the other, a little apart,
//! and the first connection wins.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cause::Failure;
use crate::sys::deadline::{reached, timeout};

/// Delay between the starts of two attempts, unless the earlier one fails sooner (RFC 8305, 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The addresses with the families in turn, the first one's first, and otherwise in their order
/// (RFC 8305, 4): a broken family then costs one delay and not one for each of its addresses.
pub(super) fn interleave(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let [first, _, ..] = addresses else { return addresses.to_vec() };
    let (mut one, mut other): (Vec<SocketAddr>, Vec<_>) =
        addresses.iter().copied().rev().partition(|address| address.is_ipv4() == first.is_ipv4());
    let mut mixed = Vec::with_capacity(addresses.len());
    while !(one.is_empty() && other.is_empty()) {
        mixed.extend(one.pop());
        mixed.extend(other.pop());
    }
    mixed
}

/// Connects to the first address to answer, and drops the losing attempts.
///
/// An attempt starts when the one before failed or has been in progress for [`ATTEMPT_DELAY`]. Each
/// attempt may take `each`, and all together `total`.
///
/// # Errors
/// The failure of every attempt. If attempts are still in progress or not yet started after
/// `total`, one time-out is added for the first of them.
pub(super) async fn race<T, C, F>(
    addresses: &[SocketAddr],
    each: Duration,
    total: Duration,
    connect: C,
) -> Result<(T, SocketAddr), Vec<Failure>>
where
    C: Fn(SocketAddr) -> F,
    F: Future<Output = io::Result<T>>,
{
    if let [address] = *addresses {
        // The usual dial, without the memory of a race.
        let connected = timeout(each.min(total), connect(address)).await.unwrap_or_else(|late| Err(late.into()));
        return connected.map(|connection| (connection, address)).map_err(|error| vec![Failure { address, error }]);
    }
    let end = Instant::now() + total;
    let mut waiting = addresses.iter().copied();
    let mut attempts = Vec::new();
    let mut failures = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            let attempt = timeout(each, connect(address));
            // Not a task: most dials are a single attempt, and many succeed at the first look.
            attempts.push(Box::pin(async move { (address, attempt.await.unwrap_or_else(|late| Err(late.into()))) }));
        } else if attempts.is_empty() {
            return Err(failures);
        }
        // The next attempt waits for whichever comes first; the loop's head starts it.
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            (address, result) = first(&mut attempts) => match result {
                Ok(connection) => return Ok((connection, address)),
                Err(error) => failures.push(Failure { address, error }),
            },
            () = sleep(ATTEMPT_DELAY), if more => {}
            () = reached(end) => return Err(with_time_out(addresses, failures)),
        }
    }
}

/// Waits for the first of `attempts` to be over, and takes it out.
async fn first<F: Future>(attempts: &mut Vec<Pin<Box<F>>>) -> F::Output {
    poll_fn(|context| {
        for place in 0..attempts.len() {
            if let Poll::Ready(result) = attempts[place].as_mut().poll(context) {
                drop(attempts.swap_remove(place));
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    })
    .await
}

/// Adds a time-out for the first address without a failure.
fn with_time_out(addresses: &[SocketAddr], mut failures: Vec<Failure>) -> Vec<Failure> {
    let is_over = |address: &SocketAddr| failures.iter().any(|failure| failure.address == *address);
    if let Some(&address) = addresses.iter().find(|address| !is_over(address)) {
        failures.push(Failure { address, error: io::ErrorKind::TimedOut.into() });
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    const V4: [&str; 3] = ["10.0.0.1:443", "10.0.0.2:443", "10.0.0.3:443"];
    const V6: [&str; 3] = ["[fd00::1]:443", "[fd00::2]:443", "[fd00::3]:443"];

    fn parse(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Outcome of an attempt at an address, after a number of milliseconds.
    #[derive(Clone, Copy)]
    enum Does {
        Answer(u64),
        Refuse(u64),
        Nothing,
    }
    use Does::{Answer, Nothing, Refuse};

    struct Outcome {
        result: Result<SocketAddr, Vec<(SocketAddr, io::ErrorKind)>>,
        /// When each attempt began.
        starts: Vec<(SocketAddr, u64)>,
        took: u64,
        /// Attempts with a connection or future still held.
        held: usize,
    }

    async fn run(script: &[(&str, Does)], each: u64, total: u64) -> Outcome {
        let script: Vec<(SocketAddr, Does)> =
            script.iter().map(|(text, does)| (text.parse().unwrap(), *does)).collect();
        let addresses: Vec<_> = script.iter().map(|(address, _)| *address).collect();
        let began = Instant::now();
        let elapsed = move || u64::try_from(began.elapsed().as_millis()).unwrap();
        let starts = Mutex::new(Vec::new());
        let token = Arc::new(());
        let connect = |address: SocketAddr| {
            starts.lock().unwrap().push((address, elapsed()));
            let does = script.iter().find(|(own, _)| *own == address).unwrap().1;
            let held = token.clone();
            async move {
                match does {
                    Answer(after) => sleep(Duration::from_millis(after)).await,
                    Refuse(after) => {
                        sleep(Duration::from_millis(after)).await;
                        return Err(io::ErrorKind::ConnectionRefused.into());
                    }
                    Nothing => std::future::pending().await,
                }
                Ok(held)
            }
        };
        let millis = Duration::from_millis;
        let result = race(&addresses, millis(each), millis(total), connect).await;
        let took = elapsed();
        let result = result.map(|(_, address)| address);
        let result = result.map_err(|all| all.into_iter().map(|f| (f.address, f.error.kind())).collect());
        // Aborted attempts are dropped when the runtime gets to them.
        tokio::task::yield_now().await;
        Outcome { result, starts: starts.into_inner().unwrap(), took, held: Arc::strong_count(&token) - 1 }
    }

    fn at(starts: &[(&str, u64)]) -> Vec<(SocketAddr, u64)> {
        starts.iter().map(|(text, millis)| (text.parse().unwrap(), *millis)).collect()
    }

    #[test]
    fn families_take_turns_from_the_first() {
        let all = [V6[0], V6[1], V6[2], V4[0]];
        assert_eq!(interleave(&parse(&all)), parse(&[V6[0], V4[0], V6[1], V6[2]]));
        let all = [V4[0], V6[0], V6[1], V4[1], V4[2]];
        assert_eq!(interleave(&parse(&all)), parse(&[V4[0], V6[0], V4[1], V6[1], V4[2]]));
        assert_eq!(interleave(&parse(&V4)), parse(&V4));
        assert_eq!(interleave(&[]), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_quick_answer_starts_no_second_attempt() {
        let outcome = run(&[(V6[0], Answer(200)), (V4[0], Answer(0))], 10_000, 30_000).await;
        assert_eq!(outcome.result, Ok(V6[0].parse().unwrap()));
        assert_eq!(outcome.starts, at(&[(V6[0], 0)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_address_delays_the_next_by_250_ms_and_no_more() {
        let outcome = run(&[(V6[0], Nothing), (V4[0], Nothing), (V4[1], Answer(10))], 10_000, 30_000).await;
        assert_eq!(outcome.result, Ok(V4[1].parse().unwrap()));
        assert_eq!(outcome.starts, at(&[(V6[0], 0), (V4[0], 250), (V4[1], 500)]));
        assert_eq!((outcome.took, outcome.held), (510, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_attempt_starts_the_next_at_once() {
        let outcome = run(&[(V6[0], Refuse(20)), (V4[0], Refuse(30)), (V4[1], Answer(5))], 10_000, 30_000).await;
        assert_eq!(outcome.starts, at(&[(V6[0], 0), (V4[0], 20), (V4[1], 50)]));
        assert_eq!((outcome.result, outcome.took), (Ok(V4[1].parse().unwrap()), 55));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_still_wins_over_a_later_attempt() {
        let outcome = run(&[(V6[0], Answer(300)), (V4[0], Answer(100))], 10_000, 30_000).await;
        assert_eq!((outcome.result, outcome.took, outcome.held), (Ok(V6[0].parse().unwrap()), 300, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn each_address_has_its_own_deadline() {
        let outcome = run(&[(V6[0], Nothing), (V4[0], Refuse(100))], 1_000, 3_000).await;
        let [v6, v4] = [V6[0], V4[0]].map(|text| text.parse().unwrap());
        let failures = vec![(v4, io::ErrorKind::ConnectionRefused), (v6, io::ErrorKind::TimedOut)];
        assert_eq!((outcome.result, outcome.took, outcome.held), (Err(failures), 1_000, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn all_together_have_a_deadline() {
        let script = [(V6[0], Nothing), (V4[0], Refuse(10)), (V6[1], Nothing), (V4[1], Nothing), (V6[2], Nothing)];
        let outcome = run(&script, 500, 600).await;
        let [v6, v4] = [V6[0], V4[0]].map(|text| text.parse().unwrap());
        let failures = vec![
            (v4, io::ErrorKind::ConnectionRefused),
            (v6, io::ErrorKind::TimedOut),
            (V6[1].parse().unwrap(), io::ErrorKind::TimedOut),
        ];
        assert_eq!((outcome.result, outcome.took, outcome.held), (Err(failures), 600, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_addresses_there_is_nothing_to_wait_for() {
        let outcome = run(&[], 1_000, 3_000).await;
        assert_eq!((outcome.result, outcome.took), (Err(Vec::new()), 0));
    }
}
