//! Deadlines with a grace period after a suspension of the process.
//!
//! After a process was stopped, frozen or starved, its timers expire before its event loop has seen
//! the peers' events from meanwhile: SIGCONT interrupts epoll_wait(2), which then reports nothing.
//! A deadline noticed late therefore leaves a moment for those events.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// Lateness of a timer beyond the effect of other tasks.
const LATE: Duration = Duration::from_millis(200);

/// Time to receive the events from during a suspension and to act on them.
const GRACE: Duration = Duration::from_secs(1);

/// Error: the deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// Waits for a deadline, and for one second more if it is noticed late.
pub async fn reached(deadline: Instant) {
    sleep_until(deadline).await;
    if deadline.elapsed() >= LATE {
        sleep(GRACE).await;
    }
}

/// Runs `work` until a deadline, with the grace period of [`reached`].
///
/// # Errors
/// [`Elapsed`]; `work` is dropped then.
pub async fn timeout_at<T>(deadline: Instant, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = reached(deadline) => Err(Elapsed),
    }
}

/// Runs `work` for at most `limit` from now.
///
/// # Errors
/// As [`timeout_at`].
pub async fn timeout<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
    timeout_at(Instant::now() + limit, work).await
}

impl From<Elapsed> for std::io::Error {
    fn from(_: Elapsed) -> Self {
        std::io::ErrorKind::TimedOut.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_kept_by_a_process_that_runs() {
        let began = Instant::now();
        let missed = timeout(Duration::from_secs(5), std::future::pending::<()>()).await;
        assert_eq!((missed, began.elapsed().as_secs()), (Err(Elapsed), 5));
        assert_eq!(timeout(Duration::from_secs(5), async { 7 }).await, Ok(7));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stood_still_has_a_moment_more() {
        let deadline = Instant::now() + Duration::from_secs(5);
        advance(Duration::from_secs(60)).await;
        let soon = sleep(Duration::from_millis(500));
        assert_eq!(timeout_at(deadline, soon).await, Ok(()));
        let deadline = Instant::now() + Duration::from_secs(5);
        advance(Duration::from_secs(60)).await;
        assert_eq!(timeout_at(deadline, std::future::pending::<()>()).await, Err(Elapsed));
    }
}
