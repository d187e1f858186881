//! What a worker is told by other threads, and how it is woken for that.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::active_tunnel::ActiveTunnel;
use crate::reason::Reason;
use crate::tunnel::Command;

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Message {
    /// Carry this tunnel from now on.
    Adopt(Box<ActiveTunnel>),
    /// End this tunnel, if it is yours.
    Stop { id: u64, why: Reason },
    /// Hold this tunnel to its rate, if it is yours.
    ApplyRate { id: u64 },
    /// Give this tunnel a turn, if it is yours.
    Run { id: u64 },
    /// The engine is gone: leave when the last tunnel has.
    Retire,
}

impl Message {
    /// What an order to the engine is for the workers.
    pub(super) const fn of(id: u64, command: Command) -> Self {
        match command {
            Command::Stop(why) => Self::Stop { id, why },
            Command::ApplyRate => Self::ApplyRate { id },
        }
    }
}

/// The messages of one worker.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    /// There are messages; for a look without the lock.
    full: AtomicBool,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    messages: Vec<Message>,
    /// The worker waits, or is about to, and has to be woken.
    asleep: bool,
    /// The worker is gone.
    closed: bool,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { state: Mutex::default(), full: AtomicBool::new(false), wake })
    }

    /// What the worker's poller watches.
    pub(super) const fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    /// Leaves a message, and wakes the worker if it sleeps; gives it back when the worker is gone.
    pub(super) fn tell(&self, message: Message) -> Result<(), Message> {
        let mut state = self.lock();
        if state.closed {
            return Err(message);
        }
        state.messages.push(message);
        self.full.store(true, Ordering::Release);
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            // It could fail only where 2^64 wake-ups were not read (eventfd(2)): each is an edge, and
            // nobody has to read it.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Whether there are messages; costs no lock.
    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Takes all messages.
    pub(super) fn take(&self) -> Vec<Message> {
        if !self.is_full() {
            return Vec::new();
        }
        let mut state = self.lock();
        self.full.store(false, Ordering::Relaxed);
        std::mem::take(&mut state.messages)
    }

    /// The worker is about to wait: false when there are messages to read first. From here on, until it
    /// says [`Inbox::woke`], each first message wakes it.
    pub(super) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.messages.is_empty();
        state.asleep
    }

    /// The worker waits no longer.
    pub(super) fn woke(&self) {
        self.lock().asleep = false;
    }

    /// The worker has left: what was not read is dropped.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let unread = std::mem::take(&mut state.messages);
        drop(state);
        drop(unread);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn woken(inbox: &Inbox) -> bool {
        rustix::io::read(inbox.wake(), &mut [0; 8]).is_ok()
    }

    #[test]
    fn only_a_loop_that_sleeps_is_woken_and_only_once() {
        let inbox = Inbox::new().unwrap();
        inbox.tell(Message::Retire).unwrap();
        assert!(!woken(&inbox) && inbox.is_full() && !inbox.may_sleep());
        assert_eq!(inbox.take().len(), 1);
        assert!(!inbox.is_full() && inbox.may_sleep());
        inbox.tell(Message::Retire).unwrap();
        assert!(woken(&inbox));
        inbox.tell(Message::Retire).unwrap();
        assert!(!woken(&inbox));
        assert_eq!(inbox.take().len(), 2);
        assert!(inbox.may_sleep());
        inbox.woke();
        inbox.tell(Message::Retire).unwrap();
        assert!(!woken(&inbox));
    }

    #[test]
    fn a_loop_that_has_left_takes_nothing() {
        let inbox = Inbox::new().unwrap();
        inbox.close();
        assert!(matches!(inbox.tell(Message::Retire), Err(Message::Retire)));
    }
}
