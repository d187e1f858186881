//! One loop thread: waits for readiness, gives the ready tunnels their turns, ends those that are
//! over.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::carried::{Broken, Carried};
use super::inbox::Message;
use super::pace::Class;
use super::rounds::Rounds;
use super::spin::Spin;
use super::{Crews, Handle};
use crate::reason::Reason;
use crate::relay::pipes::Pipes;
use crate::relay::poller::{Event, Poller};
use crate::relay::pump::{Readiness, Turn};
use crate::relay::{Fault, LAST_BYTES, Options, clean_end};
use crate::sys::tcp;
use crate::tunnel::Direction;

/// What a look at a socket may hold when there is no pipe.
const SCRATCH: usize = 64 << 10;

/// How often a tunnel that broke is asked whether its last bytes have arrived.
const LAST_BYTES_POLL: Duration = Duration::from_millis(2);

pub(super) struct Loop<P> {
    poller: P,
    crews: Arc<Crews>,
    class: Class,
    number: usize,
    options: Options,
    carried: HashMap<u64, Box<Carried>>,
    /// Tunnels that have something to do, in the order of their turns.
    queue: VecDeque<u64>,
    /// Tunnels that broke and have last bytes under way.
    breaking: Vec<u64>,
    /// Tunnels that have ended, and why: their sockets are closed at the end of the turn.
    ended: Vec<(Box<Carried>, Reason)>,
    pipes: Pipes,
    scratch: Vec<u8>,
    rounds: Rounds,
    next_pacing: Instant,
    spin: Spin,
    retired: bool,
}

impl<P: Poller> Loop<P> {
    pub(super) fn new(poller: P, crews: &Arc<Crews>, class: Class, number: usize, options: Options) -> Self {
        // On a single core a thread that spins keeps the others from the work that it waits for.
        let spins = class == Class::Interactive && options.threads > 1;
        Self {
            poller,
            crews: crews.clone(),
            class,
            number,
            carried: HashMap::new(),
            queue: VecDeque::new(),
            breaking: Vec::new(),
            ended: Vec::new(),
            pipes: Pipes::new(P::ENGINE),
            scratch: vec![0; SCRATCH],
            rounds: Rounds::new(options.look_interval()),
            next_pacing: Instant::now(),
            spin: Spin::new(if spins { options.spin } else { Duration::ZERO }),
            retired: false,
            options,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        while !(self.retired && self.carried.is_empty()) {
            self.wait(&mut events);
            let now = Instant::now();
            self.read_messages();
            for event in events.drain(..) {
                self.note(event, now);
            }
            self.work_through_queue(now);
            self.finish_breaking(now);
            self.look(now);
            self.rest(now);
            self.close_ended();
        }
    }

    fn handle(&self) -> &Handle {
        &self.crews.of(self.class)[self.number]
    }

    /// Waits for events, for a message, or for the time of whatever is next.
    fn wait(&mut self, events: &mut Vec<Event>) {
        let limit = self.limit();
        let waited = if limit == Some(Duration::ZERO) || self.handle().inbox.is_full() {
            self.poller.glance(events)
        } else if self.spin(events) {
            Ok(())
        } else if self.handle().inbox.may_sleep() {
            let waited = self.poller.wait(limit, events);
            self.handle().inbox.woke();
            waited
        } else {
            Ok(())
        };
        if let Err(error) = waited {
            // The descriptor is sound and the memory is there: see epoll_wait(2), io_uring_enter(2).
            unreachable!("a loop cannot wait: {error}");
        }
    }

    /// Looks for events or a message for a moment, where that pays; true when there was one.
    fn spin(&mut self, events: &mut Vec<Event>) -> bool {
        let Some(budget) = self.spin.budget().filter(|_| !self.carried.is_empty()) else { return false };
        let until = Instant::now() + budget;
        let found = loop {
            if self.poller.glance(events).is_err() || self.handle().inbox.is_full() || !events.is_empty() {
                break true;
            }
            if Instant::now() >= until {
                break false;
            }
            std::hint::spin_loop();
        };
        self.spin.ended(found);
        found
    }

    /// How long there is nothing to do but for what the kernel reports.
    fn limit(&self) -> Option<Duration> {
        if !self.queue.is_empty() {
            return Some(Duration::ZERO);
        }
        if !self.breaking.is_empty() {
            return Some(LAST_BYTES_POLL);
        }
        let now = Instant::now();
        let look = self.rounds.wait(now)?;
        let pacing = self.next_pacing.saturating_duration_since(now);
        Some(if self.class == Class::Bulk { look.min(pacing) } else { look })
    }

    /// Takes note of an event.
    fn note(&mut self, Event { key, mask }: Event, now: Instant) {
        let id = key.tunnel;
        let Some(carried) = self.carried.get_mut(&id).filter(|carried| carried.stay == key.stay) else { return };
        let leg = carried.pump.source(key.direction);
        if mask.lost() || mask.over() && self.poller.watch(&leg.socket, key).is_err() {
            return self.remove(id, Reason::EngineFailed);
        }
        let error = if mask.broken() { leg.socket.take_error().ok().flatten() } else { None };
        carried.pump.ready(
            key.direction,
            Readiness {
                readable: mask.readable(),
                writable: mask.writable(),
                read_closed: mask.read_closed(),
                urgent: mask.urgent(),
            },
        );
        if let Some(error) = error {
            self.break_off(id, &Fault { source_of: key.direction, error }, now);
        }
        self.enqueue(id);
    }

    fn enqueue(&mut self, id: u64) {
        if let Some(carried) = self.carried.get_mut(&id)
            && !std::mem::replace(&mut carried.queued, true)
        {
            self.queue.push_back(id);
        }
    }

    fn read_messages(&mut self) {
        for message in self.handle().inbox.take() {
            match message {
                Message::Adopt(carried) => self.take_over(carried),
                Message::Stop { id, why } => self.remove(id, why),
                Message::Retire => self.retired = true,
            }
        }
    }

    /// Takes a tunnel from whoever had it. Its first turn comes with what is reported of its sockets.
    fn take_over(&mut self, carried: Box<Carried>) {
        let id = carried.id;
        let watched = Direction::BOTH.into_iter().try_for_each(|direction| {
            let socket = &carried.pump.leg(direction).socket;
            self.poller.watch(socket, carried.key(direction))
        });
        // Who stopped it told every loop, but not those that had it in their inbox.
        let stopped = carried.pump.flow.stopped();
        self.rounds.add((id, carried.stay));
        self.carried.insert(id, carried);
        match (watched, stopped) {
            (_, Some(why)) => self.remove(id, why),
            (Err(_), None) => self.remove(id, Reason::EngineFailed),
            (Ok(()), None) => {}
        }
    }

    /// Gives each tunnel in the queue a turn; those that have more to do stand behind it again.
    fn work_through_queue(&mut self, now: Instant) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { return };
            if let Some(carried) = self.carried.get_mut(&id) {
                carried.queued = false;
                self.give_turn(id, now);
            }
        }
    }

    fn give_turn(&mut self, id: u64, now: Instant) {
        let Self { carried, pipes, scratch, .. } = self;
        let Some(carried) = carried.get_mut(&id) else { return };
        let (pump, last) = (&mut carried.pump, carried.broken.map(|broken| broken.last));
        let mut finished = 0;
        let mut more = false;
        let mut fault = None;
        for direction in Direction::BOTH.into_iter().filter(|direction| last.is_none_or(|last| last == *direction)) {
            match pump.turn(direction, pipes, scratch, now) {
                Turn::Waits => {}
                Turn::More => more = true,
                Turn::Finished => finished += 1,
                Turn::Failed(failed) => {
                    // At once: the kernel tells an error only once, and the other direction, whose turn
                    // is next, would read a plain end from the same socket and pass that on.
                    pump.break_source(failed.source_of);
                    fault = fault.or(Some(failed));
                }
            }
        }
        if let Some(fault) = fault {
            return self.break_off(id, &fault, now);
        }
        if finished == 2 && pump.is_delivered() {
            let why = clean_end(pump.first_end);
            carried.settled = pump.may_close();
            return self.remove(id, why);
        }
        if more {
            self.enqueue(id);
        }
        self.promote(id, now);
    }

    /// Sends a tunnel away that has become bulk.
    fn promote(&mut self, id: u64, now: Instant) {
        let Some(carried) = self.carried.get_mut(&id).filter(|_| self.class == Class::Interactive) else { return };
        let moved = carried.moved();
        if carried.pace.is_bulk(moved, now, &self.options.thresholds) && carried.may_move() {
            self.move_to(Class::Bulk, id);
        }
    }

    /// Sends tunnels back that are bulk no longer.
    fn rest(&mut self, now: Instant) {
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
    }

    /// Hands a tunnel to a loop of another class, as it is: what is under way stays in its pipes.
    fn move_to(&mut self, class: Class, id: u64) {
        let Some(mut carried) = self.carried.remove(&id) else { return };
        for direction in Direction::BOTH {
            self.poller.unwatch(&carried.pump.leg(direction).socket, carried.key(direction));
        }
        carried.stay = carried.stay.wrapping_add(1);
        // A place in the queue here is none there; what is reported there gives it one.
        carried.queued = false;
        self.handle().load.fetch_sub(1, Ordering::Relaxed);
        self.crews.count_move(class);
        if let Err(carried) = self.crews.hand(class, Some(self.number), carried) {
            // Nobody is there: it stays.
            self.handle().load.fetch_add(1, Ordering::Relaxed);
            self.take_over(carried);
        }
    }

    /// A socket failed: nothing more can go to it. What came from it before may still go on, for a
    /// moment; then the other side is reset.
    fn break_off(&mut self, id: u64, fault: &Fault, now: Instant) {
        let Some(carried) = self.carried.get_mut(&id) else { return };
        if let Some(Broken { why, last, .. }) = carried.broken {
            if last != fault.source_of {
                // The other side failed as well: nobody is left.
                self.remove(id, why);
            }
            return;
        }
        carried.broken = Some(Broken { last: fault.source_of, why: fault.reason(), until: now + LAST_BYTES });
        carried.pump.break_source(fault.source_of);
        self.breaking.push(id);
        self.enqueue(id);
    }

    /// Resets the sound side of those broken tunnels whose last bytes have arrived, or had their time.
    fn finish_breaking(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.breaking) {
            let Some(carried) = self.carried.get_mut(&id) else { continue };
            let Some(broken) = carried.broken else { continue };
            let drained = carried.pump.is_drained(broken.last);
            let sound = &carried.pump.leg(broken.last.opposite()).socket;
            if now >= broken.until || (drained && tcp::unacknowledged(sound).is_ok_and(|bytes| bytes == 0)) {
                self.remove(id, broken.why);
            } else {
                self.breaking.push(id);
            }
        }
    }

    /// Ends a tunnel; but for one that is settled, by a reset to both sides.
    fn remove(&mut self, id: u64, why: Reason) {
        let Some(mut carried) = self.carried.remove(&id) else { return };
        carried.pump.look(self.options.user_timeout);
        carried.reset_unless_settled();
        for direction in Direction::BOTH {
            self.poller.release(&carried.pump.leg(direction).socket, carried.key(direction));
        }
        self.handle().load.fetch_sub(1, Ordering::Relaxed);
        self.ended.push((carried, why));
    }

    /// Closes the sockets of what has ended, and says so: they are closed before anybody hears of it.
    fn close_ended(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        self.poller.settle();
        for (mut carried, why) in self.ended.drain(..) {
            let end = carried.end.take();
            drop(carried);
            let _ = end.map(|end| end.send(why));
        }
    }

    /// Looks at those tunnels whose time it is.
    fn look(&mut self, now: Instant) {
        for (id, stay) in self.rounds.due(now) {
            let Some(carried) = self.carried.get_mut(&id).filter(|carried| carried.stay == stay) else { continue };
            self.rounds.add((id, stay));
            carried.pump.look(self.options.user_timeout);
            let silent = now.saturating_duration_since(carried.pump.flow.last_moved());
            if self.options.idle_timeout.is_some_and(|limit| silent >= limit) {
                self.remove(id, Reason::Idle);
            } else if carried.pump.is_finished() {
                self.enqueue(id);
            }
        }
    }
}
