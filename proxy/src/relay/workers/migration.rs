//! Migration of tunnels between workers.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::active_tunnel::ActiveTunnel;
use super::traffic_class::Class;
use super::worker::Worker;
use crate::relay::poller::Poller;
use crate::tunnel::Direction;

impl<P: Poller> Worker<P> {
    /// Hands a tunnel to a bulk worker if it has become bulk.
    pub(super) fn migrate_to_bulk(&mut self, id: u64, now: Instant) {
        let Some(carried) = self.carried.get_mut(&id).filter(|_| self.class == Class::Interactive) else { return };
        let moved = carried.moved();
        if carried.traffic.is_bulk(moved, now, &self.options.thresholds) && carried.may_move() {
            self.move_to(Class::Bulk, id);
        }
    }

    /// Hands tunnels back to interactive workers once they are no longer bulk.
    pub(super) fn demote_idle(&mut self, now: Instant) {
        if self.class == Class::Interactive || now < self.next_demotion {
            return;
        }
        self.next_demotion = now + self.options.thresholds.rest;
        let line = &self.options.thresholds;
        let calm = self.carried.values_mut().filter_map(|carried| {
            let moved = carried.moved();
            (carried.traffic.is_calm(moved, now, line) && carried.may_move()).then_some(carried.id)
        });
        for id in calm.collect::<Vec<_>>() {
            self.move_to(Class::Interactive, id);
        }
        self.rebalance();
    }

    /// Hands tunnels to the bulk worker with the fewest, until both have the same number. Tunnels
    /// whose neighbours ended, or that came in between others, may have met on one worker.
    fn rebalance(&mut self) {
        let Some((number, fewest)) = self.pool.fewest(Class::Bulk) else { return };
        let surplus = self.carried.len().saturating_sub(fewest) / 2;
        let movable = self.carried.values_mut().filter(|carried| carried.may_move()).take(surplus);
        let leaving = movable.map(|carried| {
            carried.preferred_worker = number;
            carried.id
        });
        for id in leaving.collect::<Vec<_>>() {
            self.move_to(Class::Bulk, id);
        }
    }

    /// Deregisters a tunnel from the poller; a later event for it carries an outdated generation.
    pub(super) fn deregister(&mut self, carried: &mut ActiveTunnel) {
        for direction in Direction::BOTH {
            self.poller.unwatch(&carried.pump.leg(direction).socket, carried.key(direction));
        }
        carried.generation = carried.generation.wrapping_add(1);
    }

    /// Hands a tunnel to another worker as it is: bytes under way stay in its pipes.
    fn move_to(&mut self, class: Class, id: u64) {
        let Some(mut carried) = self.carried.remove(&id) else { return };
        self.deregister(&mut carried);
        // The place in the queue does not carry over; an event at the other worker queues the
        // tunnel.
        carried.queued = false;
        match self.pool.hand(class, carried) {
            Ok(()) => {
                self.handle().load.fetch_sub(1, Ordering::Relaxed);
                self.pool.count_move(class);
            }
            // No worker is left there: the tunnel stays.
            Err(carried) => self.register(carried),
        }
    }
}
