//! One worker thread: waits for readiness, runs the ready tunnels, ends finished ones.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::active_tunnel::ActiveTunnel;
use super::affinity::CpuAffinity;
use super::busy_poll::BusyPoll;
use super::inbox::Message;
use super::periodic_sweep::PeriodicSweep;
use super::timer_queue::TimerQueue;
use super::traffic_class::Class;
use super::{WorkerHandle, WorkerPool};
use crate::reason::Reason;
use crate::relay::pipes::Pipes;
use crate::relay::poller::{Event, Poller};
use crate::relay::pump::{Readiness, Redirect, Step};
use crate::relay::timeouts::{Expired, Timeouts};
use crate::relay::{Fault, Options, clean_end};
use crate::tunnel::Direction;

/// Bytes peeked from a socket when there is no pipe.
const SCRATCH: usize = 64 << 10;

/// Bytes peeked in the engine `sockmap`: the larger a piece of a closed window is passed on, the
/// sooner nothing is left and the kernel redirects again.
const SCRATCH_OF_WINDOW: usize = 2 << 20;

pub(super) struct Worker<P> {
    pub(super) poller: P,
    pub(super) pool: Arc<WorkerPool>,
    pub(super) class: Class,
    pub(super) number: usize,
    pub(super) options: Options,
    pub(super) timeouts: Timeouts,
    pub(super) carried: HashMap<u64, Box<ActiveTunnel>>,
    /// Tunnels with work to do, in the order of their steps.
    pub(super) queue: VecDeque<u64>,
    /// Tunnels with work due at a given time.
    pub(super) timers: TimerQueue,
    /// Broken tunnels with last bytes under way.
    pub(super) breaking: Vec<u64>,
    /// Ended tunnels and their reasons; their sockets are closed at the end of the iteration.
    pub(super) ended: Vec<(Box<ActiveTunnel>, Reason)>,
    pub(super) pipes: Pipes,
    scratch: Vec<u8>,
    pub(super) sweep: PeriodicSweep,
    pub(super) next_demotion: Instant,
    pub(super) busy_poll: BusyPoll,
    pub(super) affinity: CpuAffinity,
    /// Time of the last report of a failed wait.
    pub(super) failed: Option<Instant>,
    retired: bool,
}

impl<P> Drop for Worker<P> {
    /// Subtracts the remaining tunnels, as after a panic, from the load seen by the worker's
    /// successor.
    fn drop(&mut self) {
        self.pool.of(self.class)[self.number].load.fetch_sub(self.carried.len(), Ordering::Relaxed);
    }
}

impl<P: Poller> Worker<P> {
    pub(super) fn new(poller: P, pool: &Arc<WorkerPool>, class: Class, number: usize, options: Options) -> Self {
        // On a single core, a busy-polling thread keeps its peers from the work it waits for.
        let spins = class == Class::Interactive && options.threads > 1;
        Self {
            poller,
            pool: pool.clone(),
            class,
            number,
            carried: HashMap::new(),
            queue: VecDeque::new(),
            timers: TimerQueue::default(),
            breaking: Vec::new(),
            ended: Vec::new(),
            pipes: Pipes::new(pool.engine),
            scratch: vec![0; if pool.program.is_some() { SCRATCH_OF_WINDOW } else { SCRATCH }],
            sweep: PeriodicSweep::new(options.sample_interval()),
            timeouts: Timeouts::of(&options),
            next_demotion: Instant::now(),
            busy_poll: BusyPoll::new(if spins { options.spin } else { Duration::ZERO }),
            affinity: CpuAffinity::new(class),
            failed: None,
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
                self.handle_event(event, now);
            }
            while let Some(id) = self.timers.due(now) {
                self.enqueue_again(id);
            }
            self.run_queue(now);
            self.finish_breaking(now);
            self.sample(now);
            self.demote_idle(now);
            self.pipes.trim(now);
            self.close_ended();
        }
    }

    pub(super) fn handle(&self) -> &WorkerHandle {
        &self.pool.of(self.class)[self.number]
    }

    /// Handles an event.
    fn handle_event(&mut self, Event { key, mask }: Event, now: Instant) {
        let id = key.tunnel;
        let Some(carried) = self.carried.get_mut(&id).filter(|carried| carried.generation == key.generation) else {
            return;
        };
        let leg = carried.pump.source(key.direction);
        if mask.readable() {
            self.affinity.note(&leg.socket);
        }
        if mask.lost() || mask.over() && self.poller.watch(&leg.socket, key).is_err() {
            return self.remove(id, Reason::EngineFailed);
        }
        let error = if mask.broken() { leg.socket.take_error().ok().flatten() } else { None };
        // An error is reported once. If the kernel's worker, which writes to the destination of a
        // redirected direction, has taken it, no other caller sees it.
        let taken = mask.broken() && error.is_none() && carried.pump.redirects(key.direction.opposite());
        let error = error.or_else(|| taken.then(|| ErrorKind::ConnectionReset.into()));
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

    pub(super) fn enqueue(&mut self, id: u64) {
        if let Some(carried) = self.carried.get_mut(&id)
            && !std::mem::replace(&mut carried.queued, true)
        {
            self.queue.push_back(id);
        }
    }

    fn enqueue_again(&mut self, id: u64) {
        if let Some(carried) = self.carried.get_mut(&id) {
            carried.has_timer = false;
        }
        self.enqueue(id);
    }

    fn read_messages(&mut self) {
        for message in self.handle().inbox.take() {
            match message {
                Message::Adopt(carried) => self.register(carried),
                Message::Run { id } => self.enqueue(id),
                Message::Stop { id, why } => self.remove(id, why),
                Message::ApplyRate { id } => self.apply_rate(id),
                Message::Retire => self.retired = true,
            }
        }
    }

    fn apply_rate(&mut self, id: u64) {
        self.carried.get_mut(&id).into_iter().for_each(|carried| carried.pump.apply_rate());
        // Without a rate limit the kernel may redirect the tunnel; it is asked at the end of a
        // step.
        self.enqueue(id);
    }

    /// Adds a tunnel from another worker or from the engine. Its first step follows the first event
    /// of its sockets.
    pub(super) fn register(&mut self, mut carried: Box<ActiveTunnel>) {
        let id = carried.id;
        let watched = Direction::BOTH.into_iter().try_for_each(|direction| {
            let (socket, key) = (&carried.pump.leg(direction).socket, carried.key(direction));
            // Retries once: memory may have been short for a moment.
            self.poller.watch(socket, key).or_else(|_| self.poller.watch(socket, key))
        });
        let redirected = Direction::BOTH.into_iter().all(|direction| carried.pump.redirects(direction));
        let watched = watched.and_then(|()| if redirected { watch_ends(&mut self.poller, &carried) } else { Ok(()) });
        // A stop or a new rate goes to every worker, but misses a tunnel still in an inbox.
        let stopped = carried.pump.flow.stopped();
        carried.pump.apply_rate();
        self.sweep.add((id, carried.generation));
        self.carried.insert(id, carried);
        match (watched, stopped) {
            (_, Some(why)) => self.remove(id, why),
            (Err(_), None) => self.remove(id, Reason::EngineFailed),
            (Ok(()), None) => {}
        }
    }

    /// Runs each tunnel in the queue once; a tunnel with more to do goes to the end of the queue.
    fn run_queue(&mut self, now: Instant) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { return };
            if let Some(carried) = self.carried.get_mut(&id) {
                carried.queued = false;
                self.run_tunnel(id, now);
            }
        }
    }

    fn run_tunnel(&mut self, id: u64, now: Instant) {
        let Self { carried, pipes, scratch, .. } = self;
        let Some(carried) = carried.get_mut(&id) else { return };
        let (pump, last) = (&mut carried.pump, carried.broken.map(|broken| broken.last));
        let mut finished = 0;
        let mut more = false;
        let mut again: Option<Duration> = None;
        let mut fault = None;
        for direction in Direction::BOTH.into_iter().filter(|direction| last.is_none_or(|last| last == *direction)) {
            match pump.step(direction, pipes, scratch, now) {
                Step::Blocked => {}
                Step::Yielded => more = true,
                Step::RetryAfter(pause) => again = Some(again.map_or(pause, |other| other.min(pause))),
                Step::Finished => finished += 1,
                Step::Failed(failed) => {
                    // Marked at once: the kernel reports an error only once, and the other
                    // direction, next in line, would read a plain end from the same socket and pass
                    // it on.
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
            carried.clean_close = pump.may_close();
            return self.remove(id, why);
        }
        if let Some(pause) = again.filter(|_| !std::mem::replace(&mut carried.has_timer, true)) {
            self.timers.add(now + pause, id);
        }
        if more {
            self.enqueue(id);
        }
        self.redirect(id);
        self.migrate_to_bulk(id, now);
    }

    /// Asks the kernel to redirect a tunnel, in the engine `sockmap` and if no bytes are under way.
    fn redirect(&mut self, id: u64) {
        let Some(program) = &self.pool.program else { return };
        let Some(carried) = self.carried.get_mut(&id).filter(|carried| carried.broken.is_none()) else { return };
        match carried.pump.redirect(program, id, &self.options) {
            Redirect::NotNow => return,
            Redirect::GoOn | Redirect::Refused => return self.enqueue(id),
            Redirect::Both => {}
        }
        if watch_ends(&mut self.poller, carried).is_err() {
            self.remove(id, Reason::EngineFailed);
        }
    }

    /// Samples the tunnels due, and ends those whose time-out has expired.
    fn sample(&mut self, now: Instant) {
        for (id, generation) in self.sweep.due(now) {
            let Some(carried) = self.carried.get_mut(&id).filter(|carried| carried.generation == generation) else {
                continue;
            };
            self.sweep.add((id, generation));
            match carried.pump.sample(self.timeouts) {
                Some(Expired::Idle) => self.remove(id, Reason::Idle),
                // Bytes sent earlier by the peer are still passed on.
                Some(Expired::Peer(gone)) => {
                    self.break_off(id, &Fault::of_source(gone, ErrorKind::TimedOut.into()), now);
                }
                None if carried.pump.is_finished() || carried.pump.is_redirected() => self.enqueue(id),
                None => {}
            }
        }
    }
}

/// Watches only for the ends of both sockets, for a redirected tunnel.
fn watch_ends(poller: &mut impl Poller, carried: &ActiveTunnel) -> io::Result<()> {
    Direction::BOTH
        .into_iter()
        .try_for_each(|direction| poller.watch_end(&carried.pump.leg(direction).socket, carried.key(direction)))
}
