//! Limit on one user's connections being opened: a user of targets without an answer waits for the
//! user's own dials, and takes no slot meanwhile.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::principal::Principal;
use crate::reason::{Reason, Refusal};

/// Permits to open a connection, owner by owner. An owner without connections is not remembered.
#[derive(Debug)]
pub(super) struct Dials {
    most: usize,
    owners: Mutex<HashMap<Principal, Share>>,
}

#[derive(Debug)]
struct Share {
    permits: Arc<Semaphore>,
    /// Permits taken and waited for.
    interested: usize,
}

/// Leave to open a connection, given back when dropped.
#[derive(Debug)]
pub(super) struct DialPermit {
    // Dropped before the interest, so an owner is removed with all its permits returned.
    _permit: OwnedSemaphorePermit,
    _interest: Interest,
}

#[derive(Debug)]
struct Interest {
    dials: Arc<Dials>,
    owner: Principal,
}

impl Dials {
    /// `most` for each owner at a time; as good as no limit where a semaphore cannot count so far.
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.min(Semaphore::MAX_PERMITS), owners: Mutex::default() })
    }

    /// Permits for each owner.
    pub(super) const fn most(&self) -> usize {
        self.most
    }

    /// Waits for a permit, in the order of arrival; `None` once the gateway ends. Dropping the
    /// future gives up the place in the queue.
    pub(super) async fn take(self: &Arc<Self>, owner: Principal) -> Option<DialPermit> {
        let permits = self.share(&owner);
        let interest = Interest { dials: Arc::clone(self), owner };
        let permit = permits.acquire_owned().await.ok()?;
        Some(DialPermit { _permit: permit, _interest: interest })
    }

    /// Waits for a permit for at most `limit`; calls `queued` first if none is free.
    ///
    /// # Errors
    /// [`Reason::DialLimit`] after `limit`.
    pub(super) async fn take_within(
        self: &Arc<Self>,
        limit: Duration,
        owner: Principal,
        queued: impl FnOnce(),
    ) -> Result<DialPermit, Refusal> {
        let mut taking = pin!(self.take(owner));
        let permit = match poll_fn(|context| Poll::Ready(taking.as_mut().poll(context))).await {
            Poll::Ready(permit) => permit,
            Poll::Pending => {
                queued();
                timeout(limit, taking).await.unwrap_or(None)
            }
        };
        permit.ok_or_else(|| {
            let most = self.most;
            let detail =
                format!("--max-dials-per-user {most} reached, and no connection attempt ended within {limit:?}");
            Refusal::new(Reason::DialLimit, detail)
        })
    }

    fn share(&self, owner: &Principal) -> Arc<Semaphore> {
        let mut owners = self.lock();
        if let Some(share) = owners.get_mut(owner) {
            share.interested += 1;
            return Arc::clone(&share.permits);
        }
        let permits = Arc::new(Semaphore::new(self.most));
        owners.insert(owner.clone(), Share { permits: Arc::clone(&permits), interested: 1 });
        permits
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Principal, Share>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut owners = self.dials.lock();
        let Some(share) = owners.get_mut(&self.owner) else { return };
        share.interested -= 1;
        if share.interested == 0 {
            owners.remove(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::task::{Context, Waker};

    #[test]
    fn a_user_waits_behind_their_own_dials_alone() {
        let dials = Dials::new(2);
        let owner = |name: &str| Principal::User(name.into());
        let mut context = Context::from_waker(Waker::noop());
        let mut take = |owner| match pin!(dials.take(owner)).poll(&mut context) {
            Poll::Ready(permit) => permit,
            Poll::Pending => None,
        };
        let held: Vec<_> = [take(owner("ann")), take(owner("ann")), take(owner("ann"))].into_iter().collect();
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        assert!(take(owner("bob")).is_some());
        assert!(take(Principal::of(None, std::net::IpAddr::V4(Ipv4Addr::LOCALHOST))).is_some());
        drop(held);
        assert!(take(owner("ann")).is_some());
        assert!(dials.lock().is_empty());
    }

    #[test]
    fn a_limit_beyond_all_bounds_is_none() {
        let dials = Dials::new(usize::MAX);
        let taken = pin!(dials.take(Principal::User("ann".into()))).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(taken, Poll::Ready(Some(_))));
    }

    #[test]
    fn who_waits_is_served_when_a_permit_comes_back() {
        let dials = Dials::new(1);
        let mut context = Context::from_waker(Waker::noop());
        let owner = || Principal::User("ann".into());
        let first = pin!(dials.take(owner())).poll(&mut context);
        let mut second = pin!(dials.take(owner()));
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(first);
        assert!(matches!(second.as_mut().poll(&mut context), Poll::Ready(Some(_))));
    }
}
