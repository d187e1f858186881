//! End of a tunnel's account without a task of its own.
//!
//! The future that ends a tunnel is completed on the engine's thread. Its waker polls it there and
//! closes the account, so the end of a tunnel wakes no other thread and an idle tunnel has no task.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::coop::unconstrained;

use super::lifecycle::Account;
use crate::reason::Reason;

impl Account {
    /// Ends the tunnel with the reason from `end`, on the thread that completes `end`.
    ///
    /// Nothing else holds the account: if `end` never completes, only
    /// [`super::Registry::close_all`] closes it.
    pub fn closed_by(self, end: impl Future<Output = Reason> + Send + 'static) {
        // Unconstrained: with its budget used up, the runtime that polls here would wake the waker
        // within the poll, where the mutex is locked.
        let end = Box::pin(unconstrained(end));
        let ending = Arc::new(Ending(Mutex::new(Some(Waiting { end, account: self }))));
        // The first poll; later ones come from the engine's thread, by the waker.
        ending.wake();
    }
}

/// Waker of the end of a tunnel; `None` once the end has come.
struct Ending<F>(Mutex<Option<Waiting<F>>>);

struct Waiting<F> {
    end: Pin<Box<F>>,
    account: Account,
}

impl<F: Future<Output = Reason>> Ending<F> {
    /// Polls the end with this as its waker: returns the account and the reason when it has come.
    fn poll(&self, waker: &Waker) -> Option<(Account, Reason)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.as_mut()?.end.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Pending => None,
            Poll::Ready(reason) => waiting.take().map(|ended| (ended.account, reason)),
        }
    }
}

impl<F: Future<Output = Reason> + Send + 'static> Wake for Ending<F> {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        // Closed without the lock, which `poll` has released.
        if let Some((account, reason)) = self.poll(&waker) {
            account.closed(reason);
        }
    }
}
