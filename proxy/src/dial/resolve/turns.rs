//! The order of queries to name servers, and the time for each before the next.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// Queries in flight at a time. The earlier one keeps its sockets, so a late answer is still
/// received.
pub(super) const IN_FLIGHT: usize = 2;

/// Result of a query without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// No response.
    Silent,
    /// The server failed; the text says how.
    Failed(String),
}

/// Returns the time before the next server is queried: `options timeout:`, shortened if necessary
/// so the last server is still queried within `deadline`.
pub(super) fn length(timeout: Duration, servers: usize, deadline: Duration) -> Duration {
    timeout.min(deadline / u32::try_from(servers).unwrap_or(u32::MAX).max(1))
}

/// Sends queries, numbered from 0, to `servers` name servers in turn until one gives an answer.
///
/// The next server is queried when the last one failed, or has been silent for `turn`; then all of
/// them again, as long as one is silent: the caller has a deadline. Earlier queries stay in flight,
/// [`IN_FLIGHT`] at most, and the first answer counts.
///
/// # Errors
/// The last failure, once all servers have failed.
pub(super) async fn take<T, F>(servers: usize, turn: Duration, query: impl Fn(usize) -> F) -> Result<T, String>
where
    F: Future<Output = Result<T, Miss>>,
{
    let mut flights = Flights(VecDeque::new());
    let mut failure = "no name server is configured".to_owned();
    let mut sent = 0;
    loop {
        let mut silent = false;
        let mut over = Instant::now() + turn;
        for _ in 0..servers {
            flights.start(query(sent));
            sent += 1;
            let own = Instant::now() + turn;
            while let Ok((is_newest, result)) = timeout_at(own, flights.next()).await {
                match result {
                    Ok(answer) => return Ok(answer),
                    Err(Miss::Silent) => silent = true,
                    Err(Miss::Failed(why)) => failure = why,
                }
                if is_newest {
                    break;
                }
            }
        }
        // A server with an immediate failure is queried again only after a turn.
        over = over.max(Instant::now());
        loop {
            if flights.0.is_empty() && !silent {
                return Err(failure);
            }
            match timeout_at(over, flights.next()).await {
                Ok((_, Ok(answer))) => return Ok(answer),
                Ok((_, Err(Miss::Silent))) => silent = true,
                Ok((_, Err(Miss::Failed(why)))) => failure = why,
                Err(_) => break,
            }
        }
    }
}

/// Queries in flight, the newest last.
struct Flights<F>(VecDeque<Pin<Box<F>>>);

impl<F: Future> Flights<F> {
    /// Adds a query, and gives up the oldest if there are too many.
    fn start(&mut self, query: F) {
        if self.0.len() >= IN_FLIGHT {
            self.0.pop_front();
        }
        self.0.push_back(Box::pin(query));
    }

    /// Waits for the result of any query; the flag is true for the newest query. Never returns
    /// without a query in flight.
    async fn next(&mut self) -> (bool, F::Output) {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(result) = self.0[index].as_mut().poll(context) {
                    drop(self.0.remove(index));
                    return Poll::Ready((index == self.0.len(), result));
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::pending;

    use tokio::time::{sleep, timeout};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// Answers of servers, each after a time (`None`: never), and when each query was sent, in
    /// seconds.
    async fn play(
        servers: &[Option<(Duration, Result<u8, Miss>)>],
        turn: Duration,
    ) -> (Option<Result<u8, String>>, Vec<(usize, u64)>) {
        let began = Instant::now();
        let sent = RefCell::new(Vec::new());
        let query = |number: usize| {
            let server = number % servers.len();
            sent.borrow_mut().push((server, began.elapsed().as_secs()));
            let answer = servers[server].clone();
            async move {
                let Some((delay, answer)) = answer else { return pending().await };
                sleep(delay).await;
                answer
            }
        };
        let taken = timeout(DEADLINE, take(servers.len(), turn, query)).await.ok();
        (taken, sent.into_inner())
    }

    fn failed(why: &str) -> Option<(Duration, Result<u8, Miss>)> {
        Some((Duration::ZERO, Err(Miss::Failed(why.to_owned()))))
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_counts_while_others_are_queried() {
        let slow = Some((seconds(4), Ok(1)));
        let (taken, sent) = play(std::slice::from_ref(&slow), seconds(3)).await;
        assert_eq!((taken, sent), (Some(Ok(1)), vec![(0, 0), (0, 3)]));
        let (taken, sent) = play(&[slow, None], seconds(3)).await;
        assert_eq!((taken, sent), (Some(Ok(1)), vec![(0, 0), (1, 3)]));
        let (taken, _) = play(&[Some((seconds(9), Ok(1)))], seconds(5)).await;
        assert_eq!(taken, Some(Ok(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn each_server_is_queried_before_the_deadline_whatever_the_timeout() {
        for timeout in [5, 10, 30].map(seconds) {
            let turn = length(timeout, 2, DEADLINE);
            let (taken, _) = play(&[None, Some((seconds(1), Ok(2)))], turn).await;
            assert_eq!(taken, Some(Ok(2)), "{timeout:?}");
            let turn = length(timeout, 3, DEADLINE);
            let (taken, _) = play(&[None, None, Some((seconds(1), Ok(3)))], turn).await;
            assert_eq!(taken, Some(Ok(3)), "{timeout:?}");
        }
        assert_eq!(length(seconds(1), 3, DEADLINE), seconds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_lead_to_the_next_server_at_once_and_are_the_result_if_all_fail() {
        let (taken, sent) = play(&[failed("SERVFAIL"), Some((Duration::ZERO, Ok(2)))], seconds(5)).await;
        assert_eq!((taken, sent), (Some(Ok(2)), vec![(0, 0), (1, 0)]));
        let (taken, sent) = play(&[failed("SERVFAIL"), failed("REFUSED")], seconds(5)).await;
        assert_eq!((taken, sent), (Some(Err("REFUSED".to_owned())), vec![(0, 0), (1, 0)]));
    }

    #[tokio::test(start_paused = true)]
    async fn servers_are_queried_again_once_a_turn_while_one_is_silent() {
        let (taken, sent) = play(&[failed("SERVFAIL"), None], seconds(4)).await;
        assert_eq!((taken, sent), (None, vec![(0, 0), (1, 0), (0, 4), (1, 4), (0, 8), (1, 8)]));
        // The network stack may report silence early.
        let (taken, sent) = play(&[Some((Duration::ZERO, Err(Miss::Silent)))], seconds(4)).await;
        assert_eq!((taken, sent), (None, vec![(0, 0), (0, 4), (0, 8)]));
    }
}
