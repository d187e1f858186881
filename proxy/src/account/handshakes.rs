//! Room for connections without a tunnel, shared by source.
//!
//! Every client takes a descriptor before anything is known about it. So each connection belongs to
//! its [`Source`] until it has a slot, and when the room is used up the longest silent connection
//! of the fullest source is evicted: a newcomer never pays for others. A client with a complete
//! request that waits for the gateway is not silent; it is evicted only while such clients take
//! three quarters of the room.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

use crate::source::Source;

/// Stage of a connection's handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// The client has to send: a PROXY header, its part of TLS, the request.
    #[default]
    Request,
    /// Its password is checked, or waits for it.
    Password,
    /// It waits until fewer connections of its user are being opened.
    Queue,
    /// Its target's name is looked up.
    LookUp,
    /// Its target, or the parent proxy, is connected to and asked.
    Dial,
    /// The origin has its request to switch protocols.
    Upgrade,
    /// It was refused and has yet to read its answer.
    Answer,
}

impl Stage {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 7] =
        [Self::Request, Self::Password, Self::Queue, Self::LookUp, Self::Dial, Self::Upgrade, Self::Answer];

    /// The client waits for the gateway, and not the gateway for the client.
    const fn is_of_gateway(self) -> bool {
        match self {
            Self::Request | Self::Answer => false,
            Self::Password | Self::Queue | Self::LookUp | Self::Dial | Self::Upgrade => true,
        }
    }

    /// Value of the `stage` label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Password => "password",
            Self::Queue => "queue",
            Self::LookUp => "look_up",
            Self::Dial => "dial",
            Self::Upgrade => "upgrade",
            Self::Answer => "answer",
        }
    }
}

/// Connections without a slot, and how many handshakes are in each stage.
#[derive(Debug)]
pub(super) struct Handshakes {
    room: usize,
    table: Mutex<Table>,
    stages: [AtomicUsize; Stage::ALL.len()],
}

/// Why a connection is not among those without a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// Evicted to make room for another connection; its task was ended.
    Evicted,
    /// Nothing can end its task.
    NeverEntered,
}

#[derive(Debug, Default)]
struct Table {
    connections: BTreeMap<u64, Connection>,
    sources: HashMap<Source, OfSource>,
    /// Number of waiting connections.
    waiting: usize,
    /// Evicted connections not yet accounted for.
    evicted: BTreeSet<u64>,
    /// Number of awaited events from clients so far.
    events: u64,
}

/// Numbers of the connections of a source by [`Connection::last_event`], longest silent first.
#[derive(Debug, Default)]
struct OfSource {
    /// Connections whose client must send next.
    silent: BTreeMap<u64, u64>,
    /// Connections waiting for the gateway.
    waiting: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct Connection {
    source: Source,
    /// It waits for the gateway.
    waits: bool,
    /// This client's last number of [`Table::events`].
    last_event: u64,
    /// Ends the task of the connection.
    task: AbortHandle,
}

impl Handshakes {
    pub(super) fn new(room: usize) -> Self {
        Self { room, table: Mutex::default(), stages: Default::default() }
    }

    /// Returns the room for connections without a slot.
    pub(super) const fn room(&self) -> usize {
        self.room
    }

    /// Describes the end of an evicted connection.
    pub(super) fn evicted(&self) -> String {
        format!(
            "closed to make room for another connection: {} without a tunnel are the limit; raise the descriptor limit \
             (LimitNOFILE=, ulimit -Hn)",
            self.room
        )
    }

    /// Returns the number of handshakes in a stage.
    pub(super) fn in_stage(&self, stage: Stage) -> usize {
        self.stages[stage as usize].load(Ordering::Relaxed)
    }

    /// A handshake went from one stage to another; `None` is before its begin and after its end.
    pub(super) fn moved(&self, from: Option<Stage>, to: Option<Stage>) {
        for (stage, change) in [(from, usize::MAX), (to, 1)] {
            if let Some(stage) = stage {
                // Wraps: usize::MAX takes one away.
                self.stages[stage as usize].fetch_add(change, Ordering::Relaxed);
            }
        }
    }

    /// Lets a connection in, and ends another one if there is no room for both.
    pub(super) fn enter(&self, id: u64, source: Source, task: AbortHandle) {
        let mut table = self.lock();
        table.insert(id, source, false, task);
        let evicted = if table.connections.len() > self.room { table.evict(self.room) } else { None };
        drop(table);
        // Aborting drops the task's state, and the drop takes the lock.
        evicted.inspect(AbortHandle::abort);
    }

    /// Ends the longest silent connection of the fullest source; `false` if there is none.
    pub(super) fn evict(&self) -> bool {
        let evicted = self.lock().evict(self.room);
        evicted.inspect(AbortHandle::abort).is_some()
    }

    /// Records an awaited event of a client, now known to come from `source`: the connection is at
    /// `stage`.
    pub(super) fn record_event(&self, id: u64, source: Source, stage: Stage) {
        let mut table = self.lock();
        if let Some(task) = table.remove(id) {
            table.insert(id, source, stage.is_of_gateway(), task);
        }
    }

    /// Removes a connection with a slot, or an ended one: returns the handle of its task, or the
    /// reason for its absence.
    pub(super) fn leave(&self, id: u64) -> Result<AbortHandle, Absence> {
        let mut table = self.lock();
        let task = table.remove(id);
        task.ok_or_else(|| if table.evicted.remove(&id) { Absence::Evicted } else { Absence::NeverEntered })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, id: u64, source: Source, waits: bool, task: AbortHandle) {
        self.events += 1;
        let last_event = self.events;
        self.connections.insert(id, Connection { source, waits, last_event, task });
        self.sources.entry(source).or_default().list(waits).insert(last_event, id);
        self.waiting += usize::from(waits);
    }

    fn remove(&mut self, id: u64) -> Option<AbortHandle> {
        let Connection { source, waits, last_event, task } = self.connections.remove(&id)?;
        self.waiting -= usize::from(waits);
        if let Entry::Occupied(mut of_source) = self.sources.entry(source) {
            of_source.get_mut().list(waits).remove(&last_event);
            if of_source.get().is_empty() {
                of_source.remove();
            }
        }
        Some(task)
    }

    /// Removes a silent connection, or a waiting one if waiting ones leave less than a quarter of
    /// the room to newcomers; a newcomer is silent until its request is complete.
    fn evict(&mut self, room: usize) -> Option<AbortHandle> {
        let crowded = self.waiting > room.saturating_sub(room / 4);
        let (first, second): (Pick, Pick) = match crowded {
            true => (|of| &of.waiting, |of| &of.silent),
            false => (|of| &of.silent, |of| &of.waiting),
        };
        let id = self.longest_of_fullest(first).or_else(|| self.longest_of_fullest(second))?;
        self.evicted.insert(id);
        self.remove(id)
    }

    /// Returns the longest silent connection of the fullest source; of equally full sources, as in
    /// a distributed flood, the longest silent one too.
    fn longest_of_fullest(&self, pick: Pick) -> Option<u64> {
        let longest = |list: &BTreeMap<u64, u64>| list.first_key_value().map(|(&last_event, &id)| (last_event, id));
        let lists = self.sources.values().map(pick).filter(|list| !list.is_empty());
        longest(lists.max_by_key(|list| (list.len(), Reverse(longest(list))))?).map(|(_, id)| id)
    }
}

/// Picks one list of a source.
type Pick = fn(&OfSource) -> &BTreeMap<u64, u64>;

impl OfSource {
    const fn list(&mut self, waits: bool) -> &mut BTreeMap<u64, u64> {
        if waits { &mut self.waiting } else { &mut self.silent }
    }

    fn is_empty(&self) -> bool {
        self.silent.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// Numbers of the remaining connections.
    fn there(handshakes: &Handshakes, source: Source) -> Vec<u64> {
        let table = handshakes.lock();
        let of_source = table.sources.get(&source);
        let lists = of_source.into_iter().flat_map(|of_source| [&of_source.silent, &of_source.waiting]);
        let mut ids: Vec<_> = lists.flat_map(BTreeMap::values).copied().collect();
        ids.sort_unstable();
        ids
    }

    fn is_empty(handshakes: &Handshakes) -> bool {
        let table = handshakes.lock();
        table.connections.is_empty() && table.sources.is_empty() && table.waiting == 0
    }

    /// A client waiting for the gateway outlives any number of silent connections, of its own
    /// source too; and waiting clients leave a quarter of the room to newcomers.
    #[tokio::test]
    async fn a_client_that_waits_for_the_gateway_is_not_silent() {
        let handshakes = Handshakes::new(8);
        let (honest, flood) = (source("192.0.2.1"), source("192.0.2.2"));
        let tasks: Vec<_> = (0..100).map(|_| tokio::spawn(std::future::pending::<()>())).collect();
        let enter = |id: usize, source| handshakes.enter(id as u64, source, tasks[id].abort_handle());
        enter(0, honest);
        handshakes.record_event(0, honest, Stage::Password);
        enter(1, flood);
        handshakes.record_event(1, flood, Stage::Queue);
        (2..60).for_each(|id| enter(id, flood));
        assert_eq!((there(&handshakes, honest), there(&handshakes, flood)), (vec![0], vec![1, 54, 55, 56, 57, 58, 59]));
        // Seven waiting of eight are too many: the longest of the fullest source is evicted.
        (54..59).for_each(|id| handshakes.record_event(id, flood, Stage::Password));
        enter(60, honest);
        assert_eq!(
            (there(&handshakes, honest), there(&handshakes, flood)),
            (vec![0, 60], vec![54, 55, 56, 57, 58, 59])
        );
        (61..100).for_each(|id| enter(id, honest));
        assert_eq!(
            (there(&handshakes, honest), there(&handshakes, flood)),
            (vec![0, 99], vec![54, 55, 56, 57, 58, 59])
        );
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn the_longest_silent_one_of_the_fullest_source_makes_room() {
        let handshakes = Handshakes::new(4);
        let (many, few) = (source("192.0.2.1"), source("2001:db8::1"));
        let task = || tokio::spawn(std::future::pending::<()>());
        let tasks: Vec<_> = (0..6).map(|_| task()).collect();
        let enter = |id: usize, source| handshakes.enter(id as u64, source, tasks[id].abort_handle());
        (0..3).for_each(|id| enter(id, many));
        enter(3, few);
        handshakes.record_event(0, many, Stage::Request);
        enter(4, few);
        assert_eq!((there(&handshakes, many), there(&handshakes, few)), (vec![0, 2], vec![3, 4]));
        // A connection with a slot takes no room any more, and cannot be evicted.
        assert!(handshakes.leave(2).is_ok());
        enter(5, few);
        assert_eq!((there(&handshakes, many), there(&handshakes, few)), (vec![0], vec![3, 4, 5]));
        let how = [1, 1].map(|id| handshakes.leave(id).unwrap_err());
        assert_eq!(how, [Absence::Evicted, Absence::NeverEntered]);
        let mut tasks = tasks;
        assert!(tasks.remove(1).await.unwrap_err().is_cancelled());
        assert!(handshakes.evict() && handshakes.evict() && handshakes.evict() && handshakes.evict());
        assert!(!handshakes.evict());
        assert!(is_empty(&handshakes));
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }

    #[tokio::test]
    async fn a_proxy_says_whose_connection_it_is() {
        let handshakes = Handshakes::new(9);
        let (proxy, client) = (source("192.0.2.1"), source("198.51.100.1"));
        handshakes.enter(1, proxy, tokio::spawn(async {}).abort_handle());
        handshakes.record_event(1, client, Stage::Request);
        assert_eq!((there(&handshakes, proxy), there(&handshakes, client)), (vec![], vec![1]));
        assert!(handshakes.leave(1).is_ok());
        assert!(is_empty(&handshakes));
    }

    #[tokio::test]
    async fn of_sources_with_equally_many_the_longest_silent_goes() {
        let handshakes = Handshakes::new(3);
        let sources = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"].map(source);
        let tasks = [(); 4].map(|()| tokio::spawn(std::future::pending::<()>()));
        for id in [2, 0, 1] {
            handshakes.enter(id as u64, sources[id], tasks[id].abort_handle());
        }
        handshakes.record_event(2, sources[2], Stage::Request);
        handshakes.enter(3, sources[3], tasks[3].abort_handle());
        assert_eq!(sources.map(|source| there(&handshakes, source)), [vec![], vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn stages_are_counted() {
        let handshakes = Handshakes::new(1);
        handshakes.moved(None, Some(Stage::Request));
        handshakes.moved(Some(Stage::Request), Some(Stage::Dial));
        assert_eq!(Stage::ALL.map(|stage| handshakes.in_stage(stage)), [0, 0, 0, 0, 1, 0, 0]);
        handshakes.moved(Some(Stage::Dial), None);
        assert_eq!(Stage::ALL.map(|stage| handshakes.in_stage(stage)), [0; 7]);
        assert!(Stage::ALL.iter().enumerate().all(|(place, stage)| *stage as usize == place));
    }
}
