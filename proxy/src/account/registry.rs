//! Every connection of the gateway, and the tunnels among them by number.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::dials::Dials;
use super::handshakes::{Handshakes, Stage};
use super::limits::{Limits, Slots};
use super::live::{Live, TunnelView};
use super::meters::Meters;
use super::rates::{self, Change, Limit, RateLimits, Rates, RatesView, Unknown};
use crate::metrics::{HANDSHAKES, LIMIT};
use crate::reason::Reason;
use crate::source::Source;
use crate::tunnel::Flow;

/// Number and source of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub(super) id: u64,
    pub(super) source: Source,
}

/// The connections of one gateway.
#[derive(Debug)]
pub struct Registry {
    next: AtomicU64,
    slots: Arc<Slots>,
    pub(super) meters: Meters,
    pub(super) handshakes: Handshakes,
    pub(super) dials: Arc<Dials>,
    rates: RateLimits,
    state: Mutex<State>,
    connections: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    live: BTreeMap<u64, Arc<Live>>,
    /// Reason to end every tunnel, including those established from now on.
    stopping: Option<Reason>,
}

impl Registry {
    /// Creates an empty registry of unlimited tunnels.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::with_rates(limits, Rates::default())
    }

    /// Creates an empty registry with rates.
    #[must_use]
    pub fn with_rates(limits: Limits, rates: Rates) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(1),
            slots: Slots::new(limits),
            handshakes: Handshakes::new(limits.handshakes),
            dials: Dials::new(limits.dials_per_user),
            meters: Meters::default(),
            rates: RateLimits::new(rates),
            state: Mutex::default(),
            connections: watch::Sender::new(0),
        })
    }

    /// Counts a connection and returns its number.
    pub(super) fn connected(&self) -> u64 {
        self.connections.send_modify(|connections| *connections += 1);
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a connection served by `task` among those without a tunnel. Without room for it,
    /// another one is ended: the longest silent one of the source with the most.
    pub fn serving(&self, connection: &Connection, task: AbortHandle) {
        self.handshakes.enter(connection.id, connection.source, task);
    }

    /// Ends a connection without a tunnel, for want of descriptors; `false` if there is none.
    pub fn make_room(&self) -> bool {
        self.handshakes.evict()
    }

    /// No further tunnel fits within `--max-tunnels`.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// Returns the number of established tunnels.
    #[must_use]
    pub fn active(&self) -> usize {
        self.lock().live.len()
    }

    /// The number of connections, handshakes included, as it changes. A drain ends when it is zero:
    ///
    /// `registry.connections().wait_for(|connections| *connections == 0).await`
    #[must_use]
    pub fn connections(&self) -> watch::Receiver<usize> {
        self.connections.subscribe()
    }

    /// Every live tunnel, the oldest first.
    #[must_use]
    pub fn tunnels(&self) -> Vec<TunnelView> {
        self.snapshot().iter().map(|live| live.view()).collect()
    }

    /// The live tunnel with this number.
    #[must_use]
    pub fn tunnel(&self, id: u64) -> Option<TunnelView> {
        let live = self.lock().live.get(&id).cloned();
        live.map(|live| live.view())
    }

    /// Ends the tunnel with this number by a reset to both sides; `false` if there is none.
    pub fn kill(&self, id: u64) -> bool {
        let live = self.lock().live.get(&id).cloned();
        live.inspect(|live| live.flow.stop(Reason::Killed)).is_some()
    }

    /// Ends every tunnel, including those established after this call.
    pub fn stop_all(&self, why: Reason) {
        self.lock().stopping.get_or_insert(why);
        self.snapshot().iter().for_each(|live| live.flow.stop(why));
    }

    /// Closes the account of every tunnel not yet ended by its engine, for a process about to exit:
    /// such a tunnel would leave no log line otherwise.
    pub fn close_all(&self, why: Reason) {
        self.snapshot().iter().for_each(|live| live.close(why));
    }

    /// Brings the byte counters of the live tunnels up to date, and the gauges of handshakes.
    pub fn publish(&self) {
        self.snapshot().iter().for_each(|live| live.publish());
        for stage in Stage::ALL {
            HANDSHAKES.gauge(&[stage.label()]).set(gauge(self.handshakes.in_stage(stage)));
        }
    }

    /// Puts the limits among the metrics.
    pub fn publish_limits(&self) {
        let Limits { tunnels, per_user, per_source, .. } = *self.slots.limits();
        let limits = [
            ("tunnels", Some(tunnels)),
            ("tunnels_per_user", per_user),
            ("tunnels_per_source", per_source),
            ("handshakes", Some(self.handshakes.room())),
            ("dials_per_user", Some(self.dials.most())),
        ];
        for (of, limit) in limits {
            LIMIT.gauge(&[of]).set(limit.map_or(f64::INFINITY, gauge));
        }
    }

    /// Logs each tunnel without a log line for [`super::INTERIM`]; to be called every few seconds.
    pub fn interim(&self, now: Instant) {
        self.snapshot().iter().for_each(|live| live.interim(now));
    }

    pub(super) const fn slots(&self) -> &Arc<Slots> {
        &self.slots
    }

    /// Returns the rates in force.
    #[must_use]
    pub fn rates(&self) -> RatesView {
        self.rates.view()
    }

    /// Changes how fast tunnels may be, the live ones at once.
    ///
    /// # Errors
    /// An unknown user or tunnel; nothing is changed then.
    pub fn change_rates(&self, change: &Change) -> Result<(), Unknown> {
        self.rates.change(change, |id| self.lock().live.contains_key(&id))?;
        self.rebalance_shares();
        Ok(())
    }

    /// Replaces the users from the configuration.
    pub fn set_users(&self, users: BTreeMap<Arc<str>, Option<Limit>>) {
        self.rates.set_users(users);
        self.rebalance_shares();
    }

    /// Rebalances users' rates over their tunnels after each one opened or closed; never returns.
    pub async fn keep_rebalanced(&self) {
        loop {
            self.rates.due.notified().await;
            self.rebalance_shares();
            sleep(rates::PAUSE).await;
        }
    }

    /// Ends every tunnel of the users selected by `is_meant`.
    pub fn stop_users(&self, is_meant: impl Fn(&str) -> bool, why: Reason) {
        let of_user = |live: &&Arc<Live>| live.user().is_some_and(|user| is_meant(&user.name));
        self.snapshot().iter().filter(of_user).for_each(|live| live.flow.stop(why));
    }

    /// Tells each tunnel its rate.
    pub(super) fn rebalance_shares(&self) {
        self.snapshot().iter().for_each(|live| self.set_rate(live));
    }

    fn set_rate(&self, live: &Live) {
        let user = live.user().map(|user| (&*user.name, || user.live.load(Ordering::Relaxed)));
        self.rates.apply(live.id, user, |rate| live.flow.set_rate(rate));
    }

    /// Applies the first rate to a new tunnel of `user`, before its first byte. `counted`: its
    /// exchange is counted among the user's tunnels already.
    pub(super) fn set_first_rate(&self, id: u64, user: Option<&Arc<str>>, counted: bool, flow: &Flow) {
        // Looked for only where there is something to share.
        let others = |user: &Arc<str>| self.meters.user(Arc::clone(user)).live.load(Ordering::Relaxed);
        let many = |user: &Arc<str>| others(user) + usize::from(!counted);
        let user = user.map(|user| (&**user, move || many(user)));
        self.rates.apply(id, user, |rate| flow.set_rate(rate));
    }

    /// Schedules the rates of the user's other tunnels, if they share one.
    fn rebalance_soon(&self, live: &Live) {
        if live.user().is_some_and(|user| self.rates.shares(&user.name)) {
            self.rates.due.notify_one();
        }
    }

    pub(super) fn insert(&self, live: &Arc<Live>) {
        if let Some(user) = live.user() {
            user.live.fetch_add(1, Ordering::Relaxed);
        }
        self.replace(live);
        self.rebalance_soon(live);
    }

    /// Lists a tunnel already counted for its user, in place of the entry with the same number.
    pub(super) fn replace(&self, live: &Arc<Live>) {
        let mut state = self.lock();
        state.live.insert(live.id, Arc::clone(live));
        let stopping = state.stopping;
        drop(state);
        self.set_rate(live);
        if let Some(why) = stopping {
            live.flow.stop(why);
        }
    }

    pub(super) fn remove(&self, id: u64) {
        let Some(live) = self.lock().live.remove(&id) else { return };
        if let Some(user) = live.user() {
            user.live.fetch_sub(1, Ordering::Relaxed);
        }
        self.rates.forget(id);
        self.rebalance_soon(&live);
    }

    pub(super) fn leave(&self) {
        self.connections.send_modify(|connections| *connections -= 1);
    }

    pub(super) fn stopping(&self) -> bool {
        self.lock().stopping.is_some()
    }

    /// Returns the live tunnels without the lock: work on each may take the lock again, or take
    /// long.
    fn snapshot(&self) -> Vec<Arc<Live>> {
        self.lock().live.values().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; such counts are far below 2^52")]
fn gauge(count: usize) -> f64 {
    count as f64
}
