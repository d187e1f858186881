//! Messages from other threads to a worker, and its wake-up.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use super::active_tunnel::ActiveTunnel;
use crate::reason::Reason;
use crate::tunnel::Command;

/// A message to a worker.
#[derive(Debug)]
pub(super) enum Message {
    /// Carries this tunnel from now on.
    Adopt(Box<ActiveTunnel>),
    /// Ends this tunnel, if the worker has it.
    Stop { id: u64, why: Reason },
    /// Applies this tunnel's rate limit, if the worker has it.
    ApplyRate { id: u64 },
    /// Schedules a step of this tunnel, if the worker has it.
    Run { id: u64 },
    /// The engine is gone: the worker exits after its last tunnel.
    Retire,
}

impl Message {
    /// The message to the workers for a command to the engine.
    pub(super) const fn of(id: u64, command: Command) -> Self {
        match command {
            Command::Stop(why) => Self::Stop { id, why },
            Command::ApplyRate => Self::ApplyRate { id },
        }
    }
}

/// The message queue of one worker.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    /// There are messages; read without the lock.
    has_any: AtomicBool,
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
        Ok(Self { state: Mutex::default(), has_any: AtomicBool::new(false), wake })
    }

    /// The eventfd watched by the worker's poller.
    pub(super) const fn wake(&self) -> &OwnedFd {
        &self.wake
    }

    /// Queues a message and wakes the worker if it sleeps. Returns the message if the worker is
    /// gone.
    pub(super) fn tell(&self, message: Message) -> Result<(), Message> {
        let mut state = self.lock();
        if state.closed {
            return Err(message);
        }
        state.messages.push(message);
        self.has_any.store(true, Ordering::Release);
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            // Fails only at 2^64 unread wake-ups (eventfd(2)): each wake-up is an edge and need not
            // be read.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
        Ok(())
    }

    /// Tests for messages without taking the lock.
    pub(super) fn has_messages(&self) -> bool {
        self.has_any.load(Ordering::Acquire)
    }

    /// Takes all messages.
    pub(super) fn take(&self) -> Vec<Message> {
        if !self.has_messages() {
            return Vec::new();
        }
        let mut state = self.lock();
        self.has_any.store(false, Ordering::Relaxed);
        std::mem::take(&mut state.messages)
    }

    /// Announces a wait; returns false if there are messages to read first. From here until
    /// [`Inbox::woke`], each first message wakes the worker.
    pub(super) fn may_sleep(&self) -> bool {
        let mut state = self.lock();
        state.asleep = state.messages.is_empty();
        state.asleep
    }

    /// Ends the wait.
    pub(super) fn woke(&self) {
        self.lock().asleep = false;
    }

    /// Closes the queue of a worker about to exit and drops unread messages.
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
    fn only_a_sleeping_worker_is_woken_and_only_once() {
        let inbox = Inbox::new().unwrap();
        inbox.tell(Message::Retire).unwrap();
        assert!(!woken(&inbox) && inbox.has_messages() && !inbox.may_sleep());
        assert_eq!(inbox.take().len(), 1);
        assert!(!inbox.has_messages() && inbox.may_sleep());
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
    fn a_worker_that_has_exited_takes_no_message() {
        let inbox = Inbox::new().unwrap();
        inbox.close();
        assert!(matches!(inbox.tell(Message::Retire), Err(Message::Retire)));
    }
}
