//! Handles of the metrics moved by every tunnel: looked up by their labels once per engine or user,
//! and not for each tunnel, since a look-up costs the recorder a hash, a lock and an allocation per
//! label.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ::metrics::{Counter, Gauge, Histogram};

use crate::metrics;
use crate::reason::Reason;
use crate::tunnel::Direction;

/// Engine label of an exchange before an origin's 101 ([`super::Account::exchange`]), which no
/// engine has yet.
pub const EXCHANGE: &str = "exchange";

/// All handles of a registry, each made when it is first wanted.
#[derive(Default)]
pub(super) struct Meters {
    shared: OnceLock<(Counter, Histogram)>,
    engines: Mutex<Vec<Arc<OfEngine>>>,
    /// Configured users, few in number; a user removed from the users file stays here, as the
    /// user's series stay in the recorder.
    users: Mutex<HashMap<Arc<str>, Arc<OfUser>>>,
}

/// Metrics of an engine.
pub(super) struct OfEngine {
    pub(super) label: &'static str,
    pub(super) active: Gauge,
    /// By [`Direction::index`].
    pub(super) bytes: [Counter; 2],
    pub(super) duration: Histogram,
    outcomes: [OnceLock<Counter>; Reason::ALL.len()],
}

/// Metrics of a user.
pub(super) struct OfUser {
    pub(super) name: Arc<str>,
    /// Live tunnels of the user.
    pub(super) live: AtomicUsize,
    /// By [`Direction::index`].
    pub(super) bytes: [Counter; 2],
}

impl Meters {
    /// Counter of successful handshakes, and histogram of their duration.
    pub(super) fn established(&self) -> &(Counter, Histogram) {
        self.shared.get_or_init(|| {
            (metrics::CONNECT_REQUESTS.counter(&["200", "established"]), metrics::HANDSHAKE_DURATION.histogram())
        })
    }

    pub(super) fn engine(&self, label: &'static str) -> Arc<OfEngine> {
        let mut engines = lock(&self.engines);
        if let Some(engine) = engines.iter().find(|engine| engine.label == label) {
            return Arc::clone(engine);
        }
        let engine = Arc::new(OfEngine::new(label));
        engines.push(Arc::clone(&engine));
        engine
    }

    pub(super) fn user(&self, name: Arc<str>) -> Arc<OfUser> {
        let mut users = lock(&self.users);
        if let Some(user) = users.get(&name) {
            return Arc::clone(user);
        }
        let user = Arc::new(OfUser::new(Arc::clone(&name)));
        users.insert(name, Arc::clone(&user));
        user
    }
}

impl OfEngine {
    fn new(label: &'static str) -> Self {
        Self {
            label,
            active: metrics::TUNNELS_ACTIVE.gauge(&[label]),
            bytes: Direction::BOTH.map(|way| metrics::BYTES.counter(&[way.label(), label])),
            duration: metrics::TUNNEL_DURATION.histogram(),
            outcomes: [const { OnceLock::new() }; Reason::ALL.len()],
        }
    }

    /// Counter of tunnels ended for this reason.
    pub(super) fn outcome(&self, reason: Reason) -> &Counter {
        self.outcomes[reason as usize].get_or_init(|| metrics::TUNNELS.counter(&[self.label, reason.label()]))
    }
}

impl OfUser {
    fn new(name: Arc<str>) -> Self {
        let bytes = Direction::BOTH.map(|way| metrics::USER_BYTES.counter(&[&name, way.label()]));
        Self { name, live: AtomicUsize::new(0), bytes }
    }
}

impl std::fmt::Debug for Meters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meters").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for OfEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.label)
    }
}

impl std::fmt::Debug for OfUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
