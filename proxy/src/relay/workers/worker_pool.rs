//! All workers of an engine, as they see each other.

use std::io;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::active_tunnel::ActiveTunnel;
use super::inbox::{Inbox, Message};
use super::traffic_class::Class;
use crate::metrics;
use crate::relay::engine::Engine;
use crate::relay::offload::Offloader;
use crate::sys::thread::current_cpu;

/// Number of tunnels that an interactive worker may have more than others without a noticeable
/// loss: each moves less than a bulk tunnel does, and a core moves hundreds of times that.
pub(super) const LOCAL_SURPLUS: usize = 16;

/// All workers of one engine.
#[derive(Debug)]
pub(super) struct WorkerPool {
    pub(super) engine: Engine,
    /// Hands tunnels to the kernel, for the engine that does.
    pub(super) offloader: Option<Arc<dyn Offloader>>,
    /// By [`Class`].
    workers: [Vec<WorkerHandle>; 2],
    /// The core of each interactive worker; empty if they are not pinned.
    pub(super) cores: Vec<usize>,
    /// Number of migrations.
    migrations: AtomicU64,
}

/// Side of a worker that other threads see.
#[derive(Debug)]
pub(super) struct WorkerHandle {
    pub(super) inbox: Inbox,
    /// Number of tunnels, for balance.
    pub(super) load: AtomicUsize,
}

impl WorkerHandle {
    fn new() -> io::Result<Self> {
        Ok(Self { inbox: Inbox::new()?, load: AtomicUsize::new(0) })
    }
}

impl WorkerPool {
    /// `threads` workers of each class.
    ///
    /// # Errors
    /// Those of eventfd(2).
    pub(super) fn new(
        engine: Engine,
        offloader: Option<Arc<dyn Offloader>>,
        threads: usize,
        cores: Vec<usize>,
    ) -> io::Result<Self> {
        let workers = || (0..threads).map(|_| WorkerHandle::new()).collect::<io::Result<Vec<_>>>();
        Ok(Self { engine, offloader, workers: [workers()?, workers()?], cores, migrations: AtomicU64::new(0) })
    }

    pub(super) fn of(&self, class: Class) -> &[WorkerHandle] {
        &self.workers[class as usize]
    }

    /// Hands a tunnel to a worker of a class; gives it back if all of them have ended.
    ///
    /// A bulk tunnel goes to its preferred worker, unless others have far fewer. Consecutively
    /// opened tunnels are thus always spread over the workers in the same way, no matter when each
    /// becomes bulk. With a spread that depended on timing, four tunnels were a third slower.
    ///
    /// An interactive tunnel goes to the worker on this core, unless others have far fewer: a
    /// network card with one queue reports everything to one core.
    pub(super) fn assign(&self, class: Class, mut tunnel: Box<ActiveTunnel>) -> Result<(), Box<ActiveTunnel>> {
        let load = |number: usize| self.of(class)[number].load.load(Ordering::Relaxed);
        let least = self.fewest(class).map_or(0, |(_, load)| load);
        let (preferred, allowed_surplus) = match class {
            Class::Bulk => (Some(tunnel.preferred_worker), 1),
            Class::Interactive => (self.on_this_core(), LOCAL_SURPLUS),
        };
        let is_balanced = |number: &usize| load(*number) <= least + allowed_surplus + least / 4;
        let preferred = preferred.filter(is_balanced);
        // Sorted only if the preferred worker does not take it.
        let others = iter::once_with(|| {
            let mut numbers: Vec<usize> = (0..self.of(class).len()).collect();
            numbers.sort_by_key(|number| load(*number));
            numbers
        });
        for number in preferred.into_iter().chain(others.flatten()) {
            let handle = &self.of(class)[number];
            handle.load.fetch_add(1, Ordering::Relaxed);
            match handle.inbox.tell(Message::Adopt(tunnel)) {
                Err(Message::Adopt(back)) => {
                    handle.load.fetch_sub(1, Ordering::Relaxed);
                    tunnel = back;
                }
                _ => return Ok(()),
            }
        }
        Err(tunnel)
    }

    /// The interactive worker that is pinned to the core of the calling thread.
    fn on_this_core(&self) -> Option<usize> {
        let here = current_cpu();
        self.cores.iter().position(|core| *core == here)
    }

    /// Number and load of the worker of a class with the fewest tunnels.
    pub(super) fn fewest(&self, class: Class) -> Option<(usize, usize)> {
        let loads = self.of(class).iter().map(|handle| handle.load.load(Ordering::Relaxed));
        loads.enumerate().min_by_key(|(_, load)| *load)
    }

    pub(super) fn count_migration(&self, to: Class) {
        self.migrations.fetch_add(1, Ordering::Relaxed);
        metrics::LOOP_MOVES.counter(&[self.engine.label(), to.label()]).increment(1);
    }

    #[cfg(test)]
    pub(super) fn migrations(&self) -> u64 {
        self.migrations.load(Ordering::Relaxed)
    }

    pub(super) fn tell_all(&self, message: impl Fn() -> Message) {
        for handle in self.workers.iter().flatten() {
            // A thread that has ended has no tunnels; their ends were reported when it ended.
            let _ = handle.inbox.tell(message());
        }
    }
}
