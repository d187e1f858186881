//! Room for connections without a tunnel, shared by source.
//!
//! Every client takes a descriptor before anything is known about it. So each connection belongs to
//! its [`Source`] until it has a slot, and when the room is used up the longest silent connection
//! of the fullest source is evicted: a newcomer never pays for others. A client with a complete
//! request that waits for the gateway is not silent; it is evicted only while such clients take
//! three quarters of the room.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
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
    connections: HashMap<u64, Entry>,
    /// Connections whose client must send next.
    silent: BySource,
    /// Connections waiting for the gateway.
    waiting: BySource,
    /// Evicted connections not yet accounted for.
    evicted: HashSet<u64>,
    /// Number of awaited events from clients so far.
    events: u64,
}

/// Numbers of the connections of each source by [`Entry::last_event`], longest silent first.
#[derive(Debug, Default)]
struct BySource {
    sources: HashMap<Source, BTreeMap<u64, u64>>,
    len: usize,
}

#[derive(Debug)]
struct Entry {
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
        if let Some(entry) = table.remove(id) {
            table.insert(id, source, stage.is_of_gateway(), entry.task);
        }
    }

    /// Removes a connection with a slot, or an ended one: returns the handle of its task, or the
    /// reason for its absence.
    pub(super) fn leave(&self, id: u64) -> Result<AbortHandle, Absence> {
        let mut table = self.lock();
        let entry = table.remove(id);
        let mut absence = || if table.evicted.remove(&id) { Absence::Evicted } else { Absence::NeverEntered };
        entry.map(|entry| entry.task).ok_or_else(&mut absence)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, id: u64, source: Source, waits: bool, task: AbortHandle) {
        self.events += 1;
        let last_event = self.events;
        self.connections.insert(id, Entry { source, waits, last_event, task });
        self.by_source(waits).insert(source, last_event, id);
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let entry = self.connections.remove(&id)?;
        self.by_source(entry.waits).remove(entry.source, entry.last_event);
        Some(entry)
    }

    fn by_source(&mut self, waits: bool) -> &mut BySource {
        if waits { &mut self.waiting } else { &mut self.silent }
    }

    /// Removes a silent connection, or a waiting one if waiting ones leave less than a quarter of
    /// the room to newcomers; a newcomer is silent until its request is complete.
    fn evict(&mut self, room: usize) -> Option<AbortHandle> {
        let crowded = self.waiting.len > room.saturating_sub(room / 4);
        let (first, second) = if crowded { (&self.waiting, &self.silent) } else { (&self.silent, &self.waiting) };
        let id = first.longest_of_fullest().or_else(|| second.longest_of_fullest())?;
        self.evicted.insert(id);
        self.remove(id).map(|entry| entry.task)
    }
}

impl BySource {
    fn insert(&mut self, source: Source, last_event: u64, id: u64) {
        self.sources.entry(source).or_default().insert(last_event, id);
        self.len += 1;
    }

    fn remove(&mut self, source: Source, last_event: u64) {
        let Some(of_source) = self.sources.get_mut(&source) else { return };
        self.len -= usize::from(of_source.remove(&last_event).is_some());
        if of_source.is_empty() {
            self.sources.remove(&source);
        }
    }

    /// Returns the longest silent connection of the fullest source; of equally full sources, as in
    /// a distributed flood, the longest silent one too.
    fn longest_of_fullest(&self) -> Option<u64> {
        let longest =
            |of_source: &BTreeMap<u64, u64>| of_source.first_key_value().map(|(&last_event, &id)| (last_event, id));
        let fullest = self.sources.values().max_by_key(|of_source| (of_source.len(), Reverse(longest(of_source))))?;
        longest(fullest).map(|(_, id)| id)
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
        let mut ids: Vec<_> = [&table.silent, &table.waiting]
            .into_iter()
            .filter_map(|group| group.sources.get(&source))
            .flat_map(BTreeMap::values)
            .copied()
            .collect();
        ids.sort_unstable();
        ids
    }

    fn is_empty(handshakes: &Handshakes) -> bool {
        let table = handshakes.lock();
        let groups = [&table.silent, &table.waiting];
        table.connections.is_empty() && groups.iter().all(|group| group.sources.is_empty() && group.len == 0)
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
