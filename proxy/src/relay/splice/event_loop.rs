//! One loop thread: waits for readiness, gives the ready tunnels their turns, ends those that are
//! over.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use tokio::sync::oneshot;

use super::super::pipes::Pipes;
use super::super::pump::{Pump, Readiness, Turn};
use super::super::{Fault, LAST_BYTES, Options, clean_end};
use super::{Handle, Message, registration};
use crate::reason::Reason;
use crate::sys::tcp;
use crate::tunnel::Direction;

/// The event data of the eventfd: no tunnel has the number 0.
pub(super) const WAKE: u64 = 0;

/// Events taken by one system call.
const EVENTS: usize = 256;

/// What a look at a socket may hold when there is no pipe.
const SCRATCH: usize = 64 << 10;

/// How often a tunnel that broke is asked whether its last bytes have arrived.
const LAST_BYTES_POLL: Duration = Duration::from_millis(2);

/// A tunnel of this loop.
#[derive(Debug)]
struct Carried {
    pump: Box<Pump>,
    /// Taken at the end.
    end: Option<oneshot::Sender<Reason>>,
    /// It stands in the queue.
    queued: bool,
    /// It broke: the direction that is still worth draining, why, and until when.
    broken: Option<Broken>,
    /// Both directions ended well. Otherwise closing the sockets would look like a clean end to a
    /// peer, whatever became of this thread.
    settled: bool,
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !self.settled {
            for direction in Direction::BOTH {
                let _ = tcp::reset(&self.pump.source(direction).socket);
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Broken {
    /// The direction whose source failed.
    last: Direction,
    why: Reason,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Loop {
    handle: Handle,
    inbox: mpsc::Receiver<Message>,
    options: Options,
    carried: HashMap<u64, Carried>,
    /// Tunnels that have something to do, in the order of their turns.
    queue: VecDeque<u64>,
    /// Tunnels that broke and have last bytes under way.
    breaking: Vec<u64>,
    pipes: Pipes,
    scratch: Vec<u8>,
    look_interval: Duration,
    next_look: Instant,
    retired: bool,
}

impl Loop {
    pub(super) fn new(handle: Handle, inbox: mpsc::Receiver<Message>, options: &Options) -> Self {
        Self {
            handle,
            inbox,
            options: options.clone(),
            carried: HashMap::new(),
            queue: VecDeque::new(),
            breaking: Vec::new(),
            pipes: Pipes::default(),
            scratch: vec![0; SCRATCH],
            look_interval: options.look_interval(),
            next_look: Instant::now(),
            retired: false,
        }
    }

    pub(super) fn run(&mut self) {
        let mut events = Vec::with_capacity(EVENTS);
        while !(self.retired && self.carried.is_empty()) {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&*self.handle.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                // Only a descriptor that is no epoll instance could fail otherwise (epoll_wait(2)).
                Err(error) => unreachable!("epoll_wait: {error}"),
            }
            let now = Instant::now();
            for event in &events {
                self.note(event.data.u64(), event.flags, now);
            }
            self.work_through_queue(now);
            self.finish_breaking(now);
            self.look(now);
        }
    }

    /// How long there is nothing to do but for what the kernel reports.
    fn timeout(&self) -> Option<Timespec> {
        let wait = if !self.queue.is_empty() {
            Duration::ZERO
        } else if !self.breaking.is_empty() {
            LAST_BYTES_POLL
        } else if self.carried.is_empty() {
            return None;
        } else {
            self.next_look.saturating_duration_since(Instant::now())
        };
        Timespec::try_from(wait).ok()
    }

    /// Takes note of an event.
    fn note(&mut self, data: u64, flags: epoll::EventFlags, now: Instant) {
        use epoll::EventFlags as Flags;
        if data == WAKE {
            return self.read_messages();
        }
        let (id, direction) = (data >> 1, Direction::BOTH[usize::from(data & 1 == 1)]);
        let Some(carried) = self.carried.get_mut(&id) else { return };
        let closed = flags.intersects(Flags::RDHUP | Flags::HUP | Flags::ERR);
        carried.pump.ready(
            direction,
            Readiness {
                readable: closed || flags.intersects(Flags::IN | Flags::PRI),
                writable: flags.intersects(Flags::OUT | Flags::ERR),
                read_closed: closed,
                urgent: flags.contains(Flags::PRI),
            },
        );
        if flags.contains(Flags::ERR)
            && let Ok(Some(error)) = carried.pump.source(direction).socket.take_error()
        {
            self.break_off(id, &Fault { source_of: direction, error }, now);
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
        let _ = rustix::io::read(&*self.handle.wake, &mut [0; 8]);
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Adopt { id, mut pump, end } => {
                    // The first turn comes with what is reported, not before: see `report_again`.
                    let reported = registration::report_again(&self.handle.epoll, id, &mut pump);
                    self.carried
                        .insert(id, Carried { pump, end: Some(end), queued: false, broken: None, settled: false });
                    if reported.is_err() {
                        self.remove(id, Reason::EngineFailed);
                    }
                }
                Message::Stop { id, why } => self.remove(id, why),
                Message::Retire => self.retired = true,
            }
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
        let Some(Carried { pump, broken, settled, .. }) = carried.get_mut(&id) else { return };
        let last = broken.map(|broken| broken.last);
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
            self.break_off(id, &fault, now);
        } else if finished == 2 && pump.is_delivered() {
            let why = clean_end(pump.first_end);
            *settled = pump.may_close();
            self.remove(id, why);
        } else if more {
            self.enqueue(id);
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
            let sound = &carried.pump.source(broken.last.opposite()).socket;
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
        let end = carried.end.take();
        // The sockets are closed before anybody hears of the end.
        drop(carried);
        self.handle.load.fetch_sub(1, Ordering::Relaxed);
        let _ = end.map(|end| end.send(why));
    }

    /// Looks at every tunnel when it is time to.
    fn look(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + self.look_interval;
        let (mut idle, mut ended) = (Vec::new(), Vec::new());
        for (id, carried) in &mut self.carried {
            carried.pump.look(self.options.user_timeout);
            let silent = now.saturating_duration_since(carried.pump.flow.last_moved());
            if self.options.idle_timeout.is_some_and(|limit| silent >= limit) {
                idle.push(*id);
            } else if carried.pump.is_finished() {
                ended.push(*id);
            }
        }
        ended.into_iter().for_each(|id| self.enqueue(id));
        for id in idle {
            self.remove(id, Reason::Idle);
        }
    }
}
