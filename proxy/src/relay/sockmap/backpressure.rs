//! The thread that learns of directions that have exceeded their limit, and notifies their workers.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

use super::program::Program;
use crate::relay::offload::Notify;

/// The thread. Dropped, it has ended.
#[derive(Debug)]
pub(super) struct BackpressureWatch {
    leave: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl BackpressureWatch {
    /// Starts the thread. It calls `notify` with the number of each tunnel of which a direction has
    /// exceeded its limit.
    ///
    /// # Errors
    /// Those of eventfd(2) and of starting a thread.
    pub(super) fn start(program: Arc<Program>, notify: Notify) -> io::Result<Self> {
        let leave = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (over_limit, left) = (program.over_limit_events()?, leave.try_clone()?);
        let thread = thread::Builder::new().name("sockmap-full".into()).spawn(move || {
            let mut tunnels = Vec::new();
            loop {
                let mut watched = [PollFd::new(&over_limit, PollFlags::IN), PollFd::new(&left, PollFlags::IN)];
                match poll(&mut watched, None) {
                    Ok(_) if watched[1].revents().is_empty() => {}
                    Err(Errno::INTR) => continue,
                    // Told to end; or it cannot wait, and the periodic samples of the workers have
                    // to do.
                    Ok(_) | Err(_) => return,
                }
                program.take_over_limit(&mut tunnels);
                tunnels.drain(..).for_each(&notify);
            }
        })?;
        Ok(Self { leave, thread: Some(thread) })
    }
}

impl Drop for BackpressureWatch {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.leave, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // A panic of it has been logged, and it has no result.
            let _ = thread.join();
        }
    }
}
