//! How a loop hands tunnels to other loops.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::carried::Carried;
use super::event_loop::Loop;
use super::pace::Class;
use crate::relay::poller::Poller;
use crate::tunnel::Direction;

impl<P: Poller> Loop<P> {
    /// Sends a tunnel away that has become bulk.
    pub(super) fn promote(&mut self, id: u64, now: Instant) {
        let Some(carried) = self.carried.get_mut(&id).filter(|_| self.class == Class::Interactive) else { return };
        let moved = carried.moved();
        if carried.pace.is_bulk(moved, now, &self.options.thresholds) && carried.may_move() {
            self.move_to(Class::Bulk, id);
        }
    }

    /// Sends tunnels back that are bulk no longer.
    pub(super) fn rest(&mut self, now: Instant) {
        if self.class == Class::Interactive || now < self.next_pacing {
            return;
        }
        self.next_pacing = now + self.options.thresholds.rest;
        let line = &self.options.thresholds;
        let calm = self.carried.values_mut().filter_map(|carried| {
            let moved = carried.moved();
            (carried.pace.is_calm(moved, now, line) && carried.may_move()).then_some(carried.id)
        });
        for id in calm.collect::<Vec<_>>() {
            self.move_to(Class::Interactive, id);
        }
        self.share();
    }

    /// Sends tunnels to the bulk loop with the fewest, where that leaves both with as many: those whose neighbours
    /// have ended, or that came in between others, may have met on one loop.
    fn share(&mut self) {
        let Some((number, fewest)) = self.crews.fewest(Class::Bulk) else { return };
        let surplus = self.carried.len().saturating_sub(fewest) / 2;
        let movable = self.carried.values_mut().filter(|carried| carried.may_move()).take(surplus);
        let leaving = movable.map(|carried| {
            carried.home = number;
            carried.id
        });
        for id in leaving.collect::<Vec<_>>() {
            self.move_to(Class::Bulk, id);
        }
    }

    /// Watches a tunnel no longer; what is still reported of it is of a stay that is over.
    pub(super) fn end_stay(&mut self, carried: &mut Carried) {
        for direction in Direction::BOTH {
            self.poller.unwatch(&carried.pump.leg(direction).socket, carried.key(direction));
        }
        carried.stay = carried.stay.wrapping_add(1);
    }

    /// Hands a tunnel to another loop, as it is: what is under way stays in its pipes.
    fn move_to(&mut self, class: Class, id: u64) {
        let Some(mut carried) = self.carried.remove(&id) else { return };
        self.end_stay(&mut carried);
        // A place in the queue here is none there; what is reported there gives it one.
        carried.queued = false;
        match self.crews.hand(class, carried) {
            Ok(()) => {
                self.handle().load.fetch_sub(1, Ordering::Relaxed);
                self.crews.count_move(class);
            }
            // Nobody is there: it stays.
            Err(carried) => self.take_over(carried),
        }
    }
}
