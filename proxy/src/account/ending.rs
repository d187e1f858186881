//! Account of a tunnel without a task.
//!
//! The engine's loop thread completes the future; its waker closes the account there and then. So
//! the
//! end of a tunnel costs no other thread a wake-up, and an idle tunnel no task.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::coop::unconstrained;

use super::Account;
use crate::reason::Reason;

/// An account and the future it waits for; empty once the future is complete.
struct Ending<F>(Mutex<Option<(Pin<Box<F>>, Account)>>);

impl Account {
    /// Ends the tunnel with the reason from `end`, on the thread that completes `end`.
    ///
    /// Nothing else holds the account: a future never completed never closes it, except through
    /// [`super::Registry::close_all`].
    pub fn closed_by(self, end: impl Future<Output = Reason> + Send + 'static) {
        // A budget of the runtime that happens to poll here would have the future wake its waker
        // while
        // it is polled, which is locked then.
        let end = Box::pin(unconstrained(end));
        Arc::new(Ending(Mutex::new(Some((end, self))))).wake();
    }
}

impl<F: Future<Output = Reason> + Send + 'static> Wake for Ending<F> {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((end, _)) = waiting.as_mut() else { return };
        if let Poll::Ready(reason) = end.as_mut().poll(&mut Context::from_waker(&waker)) {
            let account = waiting.take().map(|(_, account)| account);
            drop(waiting);
            if let Some(account) = account {
                account.closed(reason);
            }
        }
    }
}
