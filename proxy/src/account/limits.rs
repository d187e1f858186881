//! Limits on concurrent tunnels, counted from the reservation to the end.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::principal::Counts;
use crate::reason::{Reason, Refusal};
use crate::source::Source;

/// The most tunnels at once, those still being dialled included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all: `--max-tunnels`.
    pub tunnels: usize,
    /// Tunnels of one user: `--max-tunnels-per-user`. Without authentication there are no users.
    pub per_user: Option<usize>,
    /// From one [`Source`]: `--max-tunnels-per-source`.
    pub per_source: Option<usize>,
    /// Connections without a tunnel: the descriptors left beside those of tunnels.
    pub handshakes: usize,
    /// Connections of one user being opened: `--max-dials-per-user`.
    pub dials_per_user: usize,
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self {
        tunnels: usize::MAX,
        per_user: None,
        per_source: None,
        handshakes: usize::MAX,
        dials_per_user: usize::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

/// Fraction of all slots to be free again before a full gateway stops counting as full.
const ROOM_AGAIN: usize = 20;

/// The slots in use.
#[derive(Debug)]
pub(super) struct Slots {
    limits: Limits,
    taken: Mutex<Taken>,
    full: AtomicBool,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    users: Counts<Arc<str>>,
    sources: Counts<Source>,
}

/// One taken slot; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    user: Option<Arc<str>>,
    /// Where there is a limit for sources.
    source: Option<Source>,
}

impl Slots {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, taken: Mutex::default(), full: AtomicBool::new(false) })
    }

    /// The limits.
    pub(super) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns true if no further tunnel fits. It stays true until some room is free again, so that
    /// it does not change with each tunnel that ends.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Checks every limit before taking from any: a refusal leaves nothing behind. `own` is the
    /// user's limit that replaces the common one. Users are counted without a limit too, since one
    /// may be set later.
    pub(super) fn take(
        self: &Arc<Self>,
        user: Option<Arc<str>>,
        own: Option<usize>,
        source: IpAddr,
    ) -> Result<Slot, Refusal> {
        let Limits { tunnels, per_user, per_source, .. } = self.limits;
        let source = per_source.map(|_| Source::from(source));
        let mut taken = self.lock();
        let of_user = user.as_ref().map_or(0, |user| taken.users.get(user));
        let of_source = source.map_or(0, |source| taken.sources.get(&source));
        room(taken.all, Some(tunnels), Reason::TunnelLimit, |most| format!("--max-tunnels {most}"))?;
        match (own, &user) {
            (Some(_), Some(user)) => {
                room(of_user, own, Reason::UserLimit, |most| format!("max-tunnels {most} of user {user}"))
            }
            (None, Some(_)) => {
                room(of_user, per_user, Reason::UserLimit, |most| format!("--max-tunnels-per-user {most}"))
            }
            (_, None) => Ok(()),
        }?;
        room(of_source, per_source, Reason::SourceLimit, |most| format!("--max-tunnels-per-source {most}"))?;
        taken.all += 1;
        if taken.all >= tunnels {
            self.full.store(true, Ordering::Relaxed);
        }
        if let Some(user) = &user {
            taken.users.add(user);
        }
        if let Some(source) = source {
            taken.sources.add(&source);
        }
        drop(taken);
        Ok(Slot { slots: Arc::clone(self), user, source })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        taken.all -= 1;
        let tunnels = self.slots.limits.tunnels;
        if taken.all <= tunnels - (tunnels / ROOM_AGAIN).max(1) {
            self.slots.full.store(false, Ordering::Relaxed);
        }
        if let Some(user) = self.user.take() {
            taken.users.remove(user);
        }
        if let Some(source) = self.source {
            taken.sources.remove(source);
        }
    }
}

fn room(
    taken: usize,
    limit: Option<usize>,
    reason: Reason,
    named: impl FnOnce(usize) -> String,
) -> Result<(), Refusal> {
    match limit {
        Some(limit) if taken >= limit => Err(Refusal::new(reason, format!("{} reached", named(limit)))),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    fn refusal(slots: &Arc<Slots>, user: Option<&str>, source: IpAddr) -> Refusal {
        slots.take(user.map(Arc::from), None, source).expect_err("there must be no room")
    }

    #[test]
    fn each_limit_refuses_by_its_own_flag_and_gives_back() {
        let slots = Slots::new(Limits { tunnels: 3, per_user: Some(2), per_source: Some(2), ..Limits::default() });
        let take = |user: &str, source| slots.take(Some(user.into()), None, source).unwrap();
        let (first, _second) = (take("ann", HERE), take("ann", THERE));
        let user = refusal(&slots, Some("ann"), HERE);
        assert_eq!((user.reason, &*user.detail), (Reason::UserLimit, "--max-tunnels-per-user 2 reached"));
        let third = take("bob", HERE);
        let all = refusal(&slots, None, THERE);
        assert_eq!((all.reason, &*all.detail), (Reason::TunnelLimit, "--max-tunnels 3 reached"));
        drop(third);
        let _fourth = slots.take(None, None, HERE).unwrap();
        drop(first);
        let _fifth = slots.take(None, None, HERE).unwrap();
        let slots = Slots::new(Limits { tunnels: 9, per_user: None, per_source: Some(1), ..Limits::default() });
        let _only = slots.take(None, None, HERE).unwrap();
        let source = refusal(&slots, Some("ann"), HERE);
        assert_eq!((source.reason, &*source.detail), (Reason::SourceLimit, "--max-tunnels-per-source 1 reached"));
        let _other = slots.take(None, None, THERE).unwrap();
        let of_one_host =
            ["2001:db8::1", "2001:db8::2"].map(|address| slots.take(None, None, address.parse().unwrap()));
        assert_eq!(of_one_host.map(|taken| taken.is_ok()), [true, false]);
    }

    #[test]
    fn a_users_own_limit_counts_instead() {
        let slots = Slots::new(Limits { tunnels: 9, per_user: Some(1), per_source: None, ..Limits::default() });
        let take = |own| slots.take(Some("ann".into()), own, HERE);
        let _two = [take(Some(2)).unwrap(), take(Some(2)).unwrap()];
        let third = take(Some(2)).unwrap_err();
        assert_eq!((third.reason, &*third.detail), (Reason::UserLimit, "max-tunnels 2 of user ann reached"));
        assert_eq!(&*take(None).unwrap_err().detail, "--max-tunnels-per-user 1 reached");
        assert!(take(Some(3)).is_ok());
    }

    #[test]
    fn a_full_gateway_is_so_until_a_twentieth_is_free() {
        let slots = Slots::new(Limits { tunnels: 40, ..Limits::NONE });
        let mut held: Vec<_> = (0..40).map(|_| slots.take(None, None, HERE).unwrap()).collect();
        let mut seen = vec![slots.is_full()];
        for _ in 0..2 {
            held.pop();
            seen.push(slots.is_full());
        }
        assert_eq!(seen, [true, true, false]);
        let one = Slots::new(Limits { tunnels: 1, ..Limits::NONE });
        let only = one.take(None, None, HERE).unwrap();
        assert!(one.is_full());
        drop(only);
        assert!(!one.is_full());
    }

    #[test]
    fn nothing_is_kept_of_who_has_left() {
        let slots = Slots::new(Limits { tunnels: 1, per_user: Some(1), per_source: Some(1), ..Limits::default() });
        drop(slots.take(Some("ann".into()), None, HERE).unwrap());
        let taken = slots.lock();
        assert!(taken.all == 0 && taken.users.is_empty() && taken.sources.is_empty(), "{taken:?}");
    }

    #[test]
    fn a_race_for_the_last_slots_never_takes_more_than_there_are() {
        let slots = Slots::new(Limits { tunnels: 5, per_user: None, per_source: None, ..Limits::default() });
        let held: Vec<_> = std::thread::scope(|scope| {
            let take = || (0..10).filter_map(|_| slots.take(None, None, HERE).ok()).collect::<Vec<_>>();
            let racers: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
            racers.into_iter().flat_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 5);
        drop(held);
        assert_eq!(slots.lock().all, 0);
    }
}
