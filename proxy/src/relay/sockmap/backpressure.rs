//! Thread that receives backpressure events from the program and alerts the workers.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::Program;

/// The thread; dropping the handle ends it.
#[derive(Debug)]
pub(in crate::relay) struct BackpressureWatch {
    leave: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl BackpressureWatch {
    /// Starts the thread. `tell` is called with the id of each tunnel with a direction over its
    /// limit.
    ///
    /// # Errors
    /// Errors of eventfd(2) and of starting a thread.
    pub(in crate::relay) fn start(program: Arc<Program>, tell: impl Fn(u64) + Send + 'static) -> io::Result<Self> {
        let leave = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (full, left) = (program.full()?, leave.try_clone()?);
        let thread = thread::Builder::new().name("sockmap-full".into()).spawn(move || {
            let mut tunnels = Vec::new();
            loop {
                let mut watched = [PollFd::new(&full, PollFlags::IN), PollFd::new(&left, PollFlags::IN)];
                match poll(&mut watched, None) {
                    Ok(_) if watched[1].revents().is_empty() => {}
                    Err(Errno::INTR) => continue,
                    // Asked to exit, or unable to wait. In the latter case the workers' periodic
                    // sweeps have to do.
                    Ok(_) | Err(_) => return,
                }
                program.take_full(&mut tunnels);
                tunnels.drain(..).for_each(&tell);
            }
        })?;
        Ok(Self { leave, thread: Some(thread) })
    }
}

impl Drop for BackpressureWatch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.leave, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // The thread has no work of its own to lose by a panic.
            let _ = thread.join();
        }
    }
}
