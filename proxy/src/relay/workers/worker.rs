//! One worker thread: waits for readiness, runs a step of each ready tunnel, migrates tunnels to
//! other workers, and ends those that are over.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::active_tunnel::{ActiveTunnel, Turn};
use super::affinity::CpuAffinity;
use super::inbox::Message;
use super::periodic_sweep::PeriodicSweep;
use super::traffic_class::Class;
use super::tunnel_table::Tunnels;
use super::waiter::{Waited, Waiter};
use super::worker_pool::{WorkerHandle, WorkerPool};
use crate::reason::Reason;
use crate::relay::fault::Fault;
use crate::relay::last_bytes::LAST_BYTES_POLL;
use crate::relay::options::Options;
use crate::relay::pipes::Pipes;
use crate::relay::poller::{Event, Poller};
use crate::relay::pump::{Attempt, Pump};
use crate::relay::timeouts::{Expired, Timeouts};
use crate::tunnel::Direction;

/// Size of the buffer for bytes that pass without a pipe.
const SCRATCH_BYTES: usize = 64 << 10;

/// Size of the same buffer where tunnels are offloaded: what userspace has to send in the kernel's
/// place because of a closed window. The larger each piece, the sooner the kernel goes on alone.
const OFFLOAD_SCRATCH_BYTES: usize = 2 << 20;

pub(super) struct Worker<P> {
    waiter: Waiter<P>,
    pool: Arc<WorkerPool>,
    class: Class,
    number: usize,
    options: Options,
    timeouts: Timeouts,
    tunnels: Tunnels,
    /// Broken tunnels whose last bytes are being delivered.
    flushing: Vec<u64>,
    /// Tunnels that have ended, and why: their sockets are closed at the end of the turn.
    ended: Vec<(Box<ActiveTunnel>, Reason)>,
    pipes: Pipes,
    scratch: Vec<u8>,
    sweep: PeriodicSweep,
    next_demotion: Instant,
    affinity: CpuAffinity,
    retired: bool,
}

impl<P> Drop for Worker<P> {
    /// Takes the tunnels that it still has, as after a panic, off the load of its successor.
    fn drop(&mut self) {
        self.pool.of(self.class)[self.number].load.fetch_sub(self.tunnels.len(), Ordering::Relaxed);
    }
}

impl<P: Poller> Worker<P> {
    pub(super) fn new(poller: P, pool: &Arc<WorkerPool>, class: Class, number: usize, options: Options) -> Self {
        // On a single core a busy poll keeps others from the work that it waits for.
        let spins = class == Class::Interactive && options.threads > 1;
        Self {
            waiter: Waiter::new(poller, if spins { options.spin } else { Duration::ZERO }),
            pool: pool.clone(),
            class,
            number,
            tunnels: Tunnels::default(),
            flushing: Vec::new(),
            ended: Vec::new(),
            pipes: Pipes::new(pool.engine),
            scratch: vec![0; if pool.offloader.is_some() { OFFLOAD_SCRATCH_BYTES } else { SCRATCH_BYTES }],
            sweep: PeriodicSweep::new(options.sample_interval()),
            timeouts: options.timeouts(),
            next_demotion: Instant::now(),
            affinity: CpuAffinity::new(class),
            retired: false,
            options,
        }
    }

    pub(super) fn run(mut self) {
        let mut events = Vec::new();
        while !(self.retired && self.tunnels.is_empty()) {
            self.wait(&mut events);
            let now = Instant::now();
            self.read_messages();
            for event in events.drain(..) {
                self.handle_event(event, now);
            }
            self.tunnels.enqueue_due(now);
            self.run_queue(now);
            self.check_flushing(now);
            self.sample(now);
            self.demote_idle(now);
            self.pipes.trim(now);
            self.close_ended();
        }
    }

    fn handle(&self) -> &WorkerHandle {
        &self.pool.of(self.class)[self.number]
    }

    // Waiting.

    fn wait(&mut self, events: &mut Vec<Event>) {
        let limit = self.wait_timeout();
        let inbox = &self.pool.of(self.class)[self.number].inbox;
        match self.waiter.wait(limit, inbox, self.tunnels.is_empty(), events) {
            Ok(Waited::Slept) => self.affinity.slept(),
            Ok(Waited::Awake) => {}
            Err(error) => self.reregister_all(&error),
        }
    }

    /// Longest sleep of the worker if the kernel reports nothing.
    fn wait_timeout(&self) -> Option<Duration> {
        if self.tunnels.queued() > 0 {
            return Some(Duration::ZERO);
        }
        if !self.flushing.is_empty() {
            return Some(LAST_BYTES_POLL);
        }
        let now = Instant::now();
        let bulk = self.class == Class::Bulk && !self.tunnels.is_empty();
        let demotion = bulk.then(|| self.next_demotion.saturating_duration_since(now));
        [self.sweep.wait(now), self.pipes.wait(now), self.tunnels.next_due(now), demotion].into_iter().flatten().min()
    }

    /// Registers every socket again, so that its readiness is reported again: short of memory,
    /// io_uring drops completions and reports only that it did (`EBADR`, io_uring_enter(2)).
    fn reregister_all(&mut self, error: &io::Error) {
        self.waiter.handle_failure(self.pool.engine, error);
        // If this fails, the next wait fails too and comes back here.
        let _ = self.waiter.poller.rewatch_wake();
        for id in self.tunnels.ids() {
            if let Some(mut tunnel) = self.tunnels.remove(id) {
                tunnel.deregister(&mut self.waiter.poller);
                self.register(tunnel);
            }
        }
    }

    // Messages and events.

    fn read_messages(&mut self) {
        for message in self.handle().inbox.take() {
            match message {
                Message::Adopt(tunnel) => self.register(tunnel),
                Message::Run { id } => self.tunnels.enqueue(id),
                Message::Stop { id, why } => self.remove(id, why),
                Message::ApplyRate { id } => self.apply_rate(id),
                Message::Retire => self.retired = true,
            }
        }
    }

    fn apply_rate(&mut self, id: u64) {
        self.tunnels.get_mut(id).into_iter().for_each(|tunnel| tunnel.pump.apply_rate());
        // A tunnel without a rate may be offloaded, which is tried at the end of a step.
        self.tunnels.enqueue(id);
    }

    /// Adds a tunnel to this worker. Its first step follows the first event of its sockets.
    fn register(&mut self, mut tunnel: Box<ActiveTunnel>) {
        let id = tunnel.id;
        let watched = tunnel.register(&mut self.waiter.poller);
        // Commands sent while the tunnel was in an inbox were ignored by every worker: catch up
        // with them.
        let stopped = tunnel.pump.flow.stopped();
        tunnel.pump.apply_rate();
        self.sweep.add((id, tunnel.generation));
        self.tunnels.insert(tunnel);
        match (watched, stopped) {
            (_, Some(why)) => self.remove(id, why),
            (Err(_), None) => self.remove(id, Reason::EngineFailed),
            (Ok(()), None) => {}
        }
    }

    fn handle_event(&mut self, Event { key, mask }: Event, now: Instant) {
        let Some(tunnel) = self.tunnels.of_generation(key.tunnel, key.generation) else { return };
        let socket = &tunnel.pump.leg(key.direction).socket;
        if mask.readable() {
            self.affinity.sample(socket);
        }
        // `over`: the kernel has ended this registration; it is renewed.
        let is_lost = mask.lost() || (mask.over() && self.waiter.poller.watch(socket, key).is_err());
        if is_lost {
            return self.remove(key.tunnel, Reason::EngineFailed);
        }
        tunnel.pump.set_ready(key.direction, mask.into());
        if mask.broken()
            && let Some(error) = error_of(&tunnel.pump, key.direction)
        {
            self.break_off(key.tunnel, &Fault::of_source(key.direction, error), now);
        }
        self.tunnels.enqueue(key.tunnel);
    }

    // Steps.

    /// Runs a step of each tunnel in the queue; those with more to do are queued again.
    fn run_queue(&mut self, now: Instant) {
        for _ in 0..self.tunnels.queued() {
            let Some(id) = self.tunnels.next() else { return };
            self.run_tunnel(id, now);
        }
    }

    fn run_tunnel(&mut self, id: u64, now: Instant) {
        let Some(tunnel) = self.tunnels.get_mut(id) else { return };
        match tunnel.step(&mut self.pipes, &mut self.scratch, now) {
            Turn::Failed(fault) => return self.break_off(id, &fault, now),
            Turn::Ended(why) => return self.remove(id, why),
            Turn::Over { has_more, pause } => {
                if let Some(pause) = pause {
                    self.tunnels.enqueue_at(now + pause, id);
                }
                if has_more {
                    self.tunnels.enqueue(id);
                }
            }
        }
        self.offload(id);
        self.promote_to_bulk(id, now);
    }

    /// Hands a tunnel over to the kernel, if this engine does that and nothing is under way.
    fn offload(&mut self, id: u64) {
        let Some(offloader) = &self.pool.offloader else { return };
        let Some(tunnel) = self.tunnels.get_mut(id).filter(|tunnel| tunnel.flush_state().is_none()) else { return };
        match tunnel.pump.try_offload(&**offloader, id) {
            Attempt::NotNow => {}
            Attempt::Resumed | Attempt::Declined | Attempt::Partial => self.tunnels.enqueue(id),
            Attempt::Complete => {
                if tunnel.watch_for_close(&mut self.waiter.poller).is_err() {
                    self.remove(id, Reason::EngineFailed);
                }
            }
        }
    }

    /// Samples the tunnels that are due, and ends those whose timeout has expired.
    fn sample(&mut self, now: Instant) {
        for (id, generation) in self.sweep.due(now) {
            let Some(tunnel) = self.tunnels.of_generation(id, generation) else { continue };
            self.sweep.add((id, generation));
            match tunnel.pump.sample(self.timeouts) {
                Some(Expired::Idle) => self.remove(id, Reason::Idle),
                // Bytes that the peer sent before are still passed on.
                Some(Expired::Peer(gone)) => {
                    self.break_off(id, &Fault::of_source(gone, ErrorKind::TimedOut.into()), now);
                }
                // No event reports the last acknowledgement, nor progress in the kernel.
                None if tunnel.pump.is_finished() || tunnel.pump.has_offload() => self.tunnels.enqueue(id),
                None => {}
            }
        }
    }

    // Ends.

    /// Begins the end of a tunnel of which a socket failed: bytes that this socket had received are
    /// still delivered, for a moment, then the other side is reset.
    fn break_off(&mut self, id: u64, fault: &Fault, now: Instant) {
        let Some(tunnel) = self.tunnels.get_mut(id) else { return };
        if let Some(flush) = tunnel.flush_state() {
            if flush.direction != fault.source_of {
                // The other side failed as well: there is no one to deliver to.
                self.remove(id, flush.why);
            }
            return;
        }
        if fault.reason() == Reason::EngineFailed {
            tracing::warn!(engine = %self.pool.engine, error = %fault.error, "a tunnel is reset: its engine failed");
        }
        tunnel.begin_flush(fault, now);
        self.flushing.push(id);
        self.tunnels.enqueue(id);
    }

    /// Resets the sound side of those broken tunnels whose last bytes have arrived, or make no
    /// progress.
    fn check_flushing(&mut self, now: Instant) {
        for id in std::mem::take(&mut self.flushing) {
            let Some(tunnel) = self.tunnels.get_mut(id) else { continue };
            match tunnel.check_flush(now) {
                Some(why) => self.remove(id, why),
                None => self.flushing.push(id),
            }
        }
    }

    /// Ends a tunnel; unless it ended cleanly, by a reset to both sides.
    fn remove(&mut self, id: u64, why: Reason) {
        let Some(mut tunnel) = self.tunnels.remove(id) else { return };
        // A reset clears the counters: this is the last sample of the activity.
        let _ = tunnel.pump.sample(self.timeouts);
        tunnel.reset_unless_clean();
        for direction in Direction::BOTH {
            self.waiter.poller.release(&tunnel.pump.leg(direction).socket, tunnel.key(direction));
        }
        self.handle().load.fetch_sub(1, Ordering::Relaxed);
        self.ended.push((tunnel, why));
    }

    /// Closes the sockets of ended tunnels, and only then reports the ends.
    fn close_ended(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        self.waiter.poller.settle();
        for (mut tunnel, why) in self.ended.drain(..) {
            let end = tunnel.end.take();
            drop(tunnel);
            let _ = end.map(|end| end.send(why));
        }
    }

    // Migration.

    /// Migrates a tunnel that has become bulk to a bulk worker.
    fn promote_to_bulk(&mut self, id: u64, now: Instant) {
        let Some(tunnel) = self.tunnels.get_mut(id).filter(|_| self.class == Class::Interactive) else { return };
        let moved = tunnel.moved();
        if tunnel.traffic.is_bulk(moved, now, &self.options.thresholds) && tunnel.may_move() {
            self.migrate(Class::Bulk, id);
        }
    }

    /// Migrates tunnels that are bulk no longer back to interactive workers.
    fn demote_idle(&mut self, now: Instant) {
        if self.class == Class::Interactive || now < self.next_demotion {
            return;
        }
        let thresholds = &self.options.thresholds;
        self.next_demotion = now + thresholds.rest;
        let calm = self.tunnels.iter_mut().filter_map(|tunnel| {
            let moved = tunnel.moved();
            (tunnel.traffic.is_calm(moved, now, thresholds) && tunnel.may_move()).then_some(tunnel.id)
        });
        for id in calm.collect::<Vec<_>>() {
            self.migrate(Class::Interactive, id);
        }
        self.rebalance();
    }

    /// Migrates tunnels to the bulk worker with the fewest, until both have as many: after others
    /// have ended, the rest may be together on one worker.
    fn rebalance(&mut self) {
        let Some((number, fewest)) = self.pool.fewest(Class::Bulk) else { return };
        let surplus = self.tunnels.len().saturating_sub(fewest) / 2;
        let movable = self.tunnels.iter_mut().filter(|tunnel| tunnel.may_move()).take(surplus);
        let leaving = movable.map(|tunnel| {
            tunnel.preferred_worker = number;
            tunnel.id
        });
        for id in leaving.collect::<Vec<_>>() {
            self.migrate(Class::Bulk, id);
        }
    }

    /// Hands a tunnel to another worker. Bytes under way stay in its pipes.
    fn migrate(&mut self, class: Class, id: u64) {
        let Some(mut tunnel) = self.tunnels.remove(id) else { return };
        tunnel.deregister(&mut self.waiter.poller);
        // The other worker has its own queue; the first event there enqueues the tunnel.
        tunnel.queued = false;
        match self.pool.assign(class, tunnel) {
            Ok(()) => {
                self.handle().load.fetch_sub(1, Ordering::Relaxed);
                self.pool.count_migration(class);
            }
            // No worker takes it: it stays.
            Err(tunnel) => self.register(tunnel),
        }
    }
}

/// Takes the error of a socket that was reported broken. `None` if a read or write had it already,
/// which reports it then.
fn error_of(pump: &Pump, source_of: Direction) -> Option<io::Error> {
    let error = pump.leg(source_of).socket.take_error().ok().flatten();
    // Of a socket that the kernel redirects to, the kernel's own write may have taken the error,
    // and no one else learns it.
    let taken_by_kernel = pump.is_offloaded(source_of.opposite());
    error.or_else(|| taken_by_kernel.then(|| ErrorKind::ConnectionReset.into()))
}
