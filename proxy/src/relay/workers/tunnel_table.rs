//! The tunnels of one worker, and which of them have a step to run.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::active_tunnel::ActiveTunnel;
use super::timer_queue::TimerQueue;

/// The tunnels of one worker.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    by_id: HashMap<u64, Box<ActiveTunnel>>,
    /// Tunnels with a step to run, in their order.
    queue: VecDeque<u64>,
    /// Tunnels with a step to run at a certain time.
    timers: TimerQueue,
}

impl Tunnels {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn get_mut(&mut self, id: u64) -> Option<&mut ActiveTunnel> {
        self.by_id.get_mut(&id).map(|tunnel| &mut **tunnel)
    }

    /// A tunnel, unless it has been with another worker since this generation.
    pub(super) fn of_generation(&mut self, id: u64, generation: u8) -> Option<&mut ActiveTunnel> {
        self.get_mut(id).filter(|tunnel| tunnel.generation == generation)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ActiveTunnel> {
        self.by_id.values_mut().map(|tunnel| &mut **tunnel)
    }

    pub(super) fn insert(&mut self, tunnel: Box<ActiveTunnel>) {
        self.by_id.insert(tunnel.id, tunnel);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Box<ActiveTunnel>> {
        self.by_id.remove(&id)
    }

    /// Numbers of all tunnels.
    pub(super) fn ids(&self) -> Vec<u64> {
        self.by_id.keys().copied().collect()
    }

    /// Puts a tunnel into the run queue, once.
    pub(super) fn enqueue(&mut self, id: u64) {
        if let Some(tunnel) = self.by_id.get_mut(&id)
            && !std::mem::replace(&mut tunnel.queued, true)
        {
            self.queue.push_back(id);
        }
    }

    /// Puts a tunnel into the run queue at a time, unless it has a time already.
    pub(super) fn enqueue_at(&mut self, at: Instant, id: u64) {
        if let Some(tunnel) = self.by_id.get_mut(&id)
            && !std::mem::replace(&mut tunnel.has_timer, true)
        {
            self.timers.add(at, id);
        }
    }

    /// Moves those tunnels into the run queue that are due.
    pub(super) fn enqueue_due(&mut self, now: Instant) {
        while let Some(id) = self.timers.due(now) {
            if let Some(tunnel) = self.by_id.get_mut(&id) {
                tunnel.has_timer = false;
            }
            self.enqueue(id);
        }
    }

    /// Length of the run queue.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Takes the next tunnel out of the run queue; skips tunnels that are gone.
    pub(super) fn next(&mut self) -> Option<u64> {
        while let Some(id) = self.queue.pop_front() {
            if let Some(tunnel) = self.by_id.get_mut(&id) {
                tunnel.queued = false;
                return Some(id);
            }
        }
        None
    }

    /// Time until the next tunnel is due.
    pub(super) fn next_due(&self, now: Instant) -> Option<Duration> {
        self.timers.wait(now)
    }
}
