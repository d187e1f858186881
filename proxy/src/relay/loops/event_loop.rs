//! One loop thread: waits for readiness, gives the ready tunnels their turns, ends those that are
//! over.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::warn;

use super::carried::Carried;
use super::inbox::Message;
use super::pace::Class;
use super::rounds::Rounds;
use super::seat::Seat;
use super::spin::Spin;
use super::{Crews, Handle};
use crate::reason::Reason;
use crate::relay::pipes::Pipes;
use crate::relay::poller::{Event, Poller};
use crate::relay::pump::{Readiness, Turn};
use crate::relay::{Fault, Options, clean_end};
use crate::tunnel::Direction;

/// What a look at a socket may hold when there is no pipe.
const SCRATCH: usize = 64 << 10;

/// Failures to wait that follow each other within this are one.
const LASTING: Duration = Duration::from_secs(1);

/// How long a loop rests that failed to wait, and failed before.
const RETRY: Duration = Duration::from_millis(10);

/// How often a tunnel that broke is asked whether its last bytes have arrived.
const LAST_BYTES_POLL: Duration = Duration::from_millis(2);

pub(super) struct Loop<P> {
    pub(super) poller: P,
    pub(super) crews: Arc<Crews>,
    pub(super) class: Class,
    pub(super) number: usize,
    pub(super) options: Options,
    pub(super) carried: HashMap<u64, Box<Carried>>,
    /// Tunnels that have something to do, in the order of their turns.
    queue: VecDeque<u64>,
    /// Tunnels that broke and have last bytes under way.
    pub(super) breaking: Vec<u64>,
    /// Tunnels that have ended, and why: their sockets are closed at the end of the turn.
    pub(super) ended: Vec<(Box<Carried>, Reason)>,
    pipes: Pipes,
    scratch: Vec<u8>,
    rounds: Rounds,
    pub(super) next_pacing: Instant,
    spin: Spin,
    seat: Seat,
    /// When it last said that it could not wait.
    failed: Option<Instant>,
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
            seat: Seat::new(class),
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
                self.note(event, now);
            }
            self.work_through_queue(now);
            self.finish_breaking(now);
            self.look(now);
            self.rest(now);
            self.pipes.trim(now);
            self.close_ended();
        }
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.crews.of(self.class)[self.number]
    }

    /// Waits for events, for a message, or for the time of whatever is next.
    fn wait(&mut self, events: &mut Vec<Event>) {
        let limit = self.limit();
        let waited = if limit == Some(Duration::ZERO) || self.handle().inbox.is_full() {
            self.poller.glance(events)
        } else {
            match self.spin(events) {
                Ok(false) if self.handle().inbox.may_sleep() => {
                    let waited = self.poller.wait(limit, events);
                    self.seat.slept();
                    self.handle().inbox.woke();
                    waited
                }
                spun => spun.map(drop),
            }
        };
        if let Err(error) = waited {
            self.watch_anew(&error);
        }
    }

    /// Watches every socket anew, which has all reported that it is ready for. Where memory is short io_uring
    /// drops reports, and says so once (`EBADR`, io_uring_enter(2)): which, nobody knows. What lasts is told once
    /// a moment, and meanwhile the loop goes on by looking.
    fn watch_anew(&mut self, error: &io::Error) {
        let lasts = self.failed.is_some_and(|last| last.elapsed() < LASTING);
        if lasts {
            std::thread::park_timeout(RETRY);
        } else {
            warn!(%error, engine = P::ENGINE.label(), "a loop could not wait; every socket is watched anew");
            self.failed = Some(Instant::now());
        }
        // Where even that fails, the next wait does too.
        let _ = self.poller.watch_wake_anew();
        for (_, mut carried) in std::mem::take(&mut self.carried) {
            for direction in Direction::BOTH {
                self.poller.unwatch(&carried.pump.leg(direction).socket, carried.key(direction));
            }
            carried.stay = carried.stay.wrapping_add(1);
            self.take_over(carried);
        }
    }

    /// Looks for events or a message for a moment, where that pays; true when there was one.
    fn spin(&mut self, events: &mut Vec<Event>) -> io::Result<bool> {
        if self.carried.is_empty() {
            return Ok(false);
        }
        let Self { poller, spin, crews, class, number, .. } = self;
        let inbox = &crews.of(*class)[*number].inbox;
        let mut result = Ok(());
        let found = spin.until(|| {
            result = poller.glance(events);
            result.is_err() || inbox.is_full() || !events.is_empty()
        });
        result.map(|()| found)
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
        let bulk = self.class == Class::Bulk && !self.carried.is_empty();
        let pacing = bulk.then(|| self.next_pacing.saturating_duration_since(now));
        [self.rounds.wait(now), self.pipes.wait(now), pacing].into_iter().flatten().min()
    }

    /// Takes note of an event.
    fn note(&mut self, Event { key, mask }: Event, now: Instant) {
        let id = key.tunnel;
        let Some(carried) = self.carried.get_mut(&id).filter(|carried| carried.stay == key.stay) else { return };
        let leg = carried.pump.source(key.direction);
        if self.class == Class::Bulk && mask.readable() {
            self.seat.note(&leg.socket);
        }
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

    pub(super) fn enqueue(&mut self, id: u64) {
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
    pub(super) fn take_over(&mut self, carried: Box<Carried>) {
        let id = carried.id;
        let watched = Direction::BOTH.into_iter().try_for_each(|direction| {
            let (socket, key) = (&carried.pump.leg(direction).socket, carried.key(direction));
            // Once more, since memory may have been short for a moment.
            self.poller.watch(socket, key).or_else(|_| self.poller.watch(socket, key))
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicU32, Ordering};

    use rustix::io::Errno;

    use super::*;
    use crate::relay::loops::Loops;
    use crate::relay::poller::{Epoll, Key, Uring};
    use crate::relay::{Engine, Thresholds};
    use crate::tunnel::{Flow, Tunnel};

    /// Failures of all [`Flaky`] ones.
    static FAILURES: AtomicU32 = AtomicU32::new(0);

    /// One that drops every third lot of reports, and says that it did.
    struct Flaky<P> {
        sound: P,
        lots: u32,
    }

    impl<P> Flaky<P> {
        fn drop_some(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
            self.lots += u32::from(!events.is_empty());
            if self.lots < 3 {
                return Ok(());
            }
            self.lots = 0;
            events.clear();
            FAILURES.fetch_add(1, Ordering::Relaxed);
            Err(Errno::BADR.into())
        }
    }

    impl<P: Poller> Poller for Flaky<P> {
        const ENGINE: Engine = P::ENGINE;

        fn new(wake: &OwnedFd) -> io::Result<Self> {
            Ok(Self { sound: P::new(wake)?, lots: 0 })
        }

        fn watch(&mut self, socket: &TcpStream, key: Key) -> io::Result<()> {
            self.sound.watch(socket, key)
        }

        fn unwatch(&mut self, socket: &TcpStream, key: Key) {
            self.sound.unwatch(socket, key);
        }

        fn settle(&mut self) {
            self.sound.settle();
        }

        fn watch_wake_anew(&mut self) -> io::Result<()> {
            self.sound.watch_wake_anew()
        }

        fn wait(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
            self.sound.wait(limit, events)?;
            self.drop_some(events)
        }

        fn glance(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
            self.sound.glance(events)?;
            self.drop_some(events)
        }
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        one.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let near = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        (one, near)
    }

    fn goes_on<P: Poller>() {
        let thresholds = Thresholds { bulk: 1 << 20, ..Thresholds::default() };
        let options = Options { threads: 2, thresholds, ..Options::default() };
        let loops = Loops::start::<Flaky<P>>(&options).unwrap();
        let ((client, near), (origin, far)) = (pair(), pair());
        let tunnel = Tunnel { client: near, origin: far, prefix: Default::default(), flow: Arc::new(Flow::default()) };
        let ended = loops.adopt(tunnel).map_err(|(_, error)| error).unwrap();
        let sent: Vec<u8> = (0..20 << 20_u32).map(|at| (at / 7 + at / 4093) as u8).collect();
        let before = FAILURES.load(Ordering::Relaxed);
        let received = std::thread::scope(|scope| {
            scope.spawn(|| { &client }.write_all(&sent).and_then(|()| client.shutdown(Shutdown::Write)));
            let mut received = Vec::new();
            { &origin }.read_to_end(&mut received).map(|_| received)
        });
        assert!(received.unwrap() == sent, "{}: other bytes than were sent", P::ENGINE);
        assert!(FAILURES.load(Ordering::Relaxed) > before, "{}: nothing failed", P::ENGINE);
        drop(origin);
        assert_eq!(ended.blocking_recv(), Ok(Reason::ClientClosed), "{}", P::ENGINE);
    }

    #[test]
    fn a_loop_whose_poller_drops_reports_asks_anew_and_loses_nothing() {
        goes_on::<Epoll>();
        goes_on::<Uring>();
    }
}
