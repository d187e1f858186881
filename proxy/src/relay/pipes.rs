//! A worker's pool of empty pipes. A pipe is borrowed only while bytes are in flight: an idle
//! tunnel holds none.

use std::io;
use std::time::{Duration, Instant};

use tracing::warn;

use super::engine::Engine;
use crate::metrics;
use crate::sys::descriptors::{self, Purpose};
use crate::sys::pipe::{Pipe, WANTED_CAPACITY};

/// Empty pipes kept by a worker for the next burst; returned pipes beyond this are closed.
const KEPT: usize = 32;

/// Interval of trimming: pipes not needed since the last trimming are closed.
const TRIMMING: Duration = Duration::from_secs(2);

/// Borrowings answered without asking the host after a refusal: asking costs system calls, and a
/// shortage lasts a while.
const PATIENCE: u32 = 64;

/// The pipes of one worker thread.
#[derive(Debug)]
pub(super) struct Pipes {
    engine: Engine,
    free: Vec<Pipe>,
    refusals_left: u32,
    /// The last attempt to borrow failed.
    short: bool,
    /// Minimum number of free pipes since the last trimming: these were not needed.
    spare: usize,
    /// Time of the next trimming.
    next_trim: Instant,
}

impl Pipes {
    pub(super) fn new(engine: Engine) -> Self {
        Self { engine, free: Vec::new(), refusals_left: 0, short: false, spare: 0, next_trim: Instant::now() }
    }

    /// Counts a direction continuing without a pipe.
    pub(super) fn count_shortage(&self) {
        metrics::ENGINE_FALLBACKS.counter(&[self.engine.label(), Engine::Copy.label(), "no_pipe"]).increment(1);
    }

    /// Borrows an empty pipe; `None` if the host is out of descriptors or of the user's pipe pages
    /// (`/proc/sys/fs/pipe-user-pages-soft`).
    pub(super) fn borrow(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.free.pop() {
            self.spare = self.spare.min(self.free.len());
            return Some(pipe);
        }
        if self.refusals_left > 0 {
            self.refusals_left -= 1;
            return None;
        }
        match Self::make() {
            Ok(pipe) => {
                self.short = false;
                Some(pipe)
            }
            Err(error) => {
                self.refusals_left = PATIENCE;
                if !std::mem::replace(&mut self.short, true) {
                    warn!(engine = %self.engine, %error, "cannot make a pipe: tunnels are copied instead, which is slower");
                }
                None
            }
        }
    }

    fn make() -> io::Result<Pipe> {
        let pipe = Pipe::worthwhile()?;
        // Pipes must not take the descriptors needed by handshakes, dials and the admin address.
        descriptors::admit(pipe.write_end(), Purpose::Pipe)?;
        metrics::PIPE_BYTES.gauge(&[]).increment(size(&pipe));
        Ok(pipe)
    }

    /// Time until the next trimming; `None` if the pool is empty.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        (!self.free.is_empty()).then(|| self.next_trim.saturating_duration_since(now))
    }

    /// Closes pipes not needed for a while: other workers share the user's pipe pages.
    pub(super) fn trim(&mut self, now: Instant) {
        if now < self.next_trim {
            return;
        }
        self.next_trim = now + TRIMMING;
        let spare = self.spare.min(self.free.len());
        self.free.drain(..spare).for_each(Self::close);
        self.spare = self.free.len();
    }

    /// Returns an empty pipe to the pool.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        // A small pipe dates from a shortage, which may be over.
        if self.free.len() < KEPT && pipe.capacity() >= WANTED_CAPACITY {
            self.free.push(pipe);
        } else {
            Self::close(pipe);
        }
    }

    /// Closes a pipe, with any bytes it still holds.
    pub(super) fn close(pipe: Pipe) {
        metrics::PIPE_BYTES.gauge(&[]).decrement(size(&pipe));
        drop(pipe);
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        self.free.drain(..).for_each(Self::close);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float; a pipe's size is far below 2^52")]
fn size(pipe: &Pipe) -> f64 {
    pipe.capacity() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_is_closed() {
        let mut pipes = Pipes::new(Engine::Splice);
        let start = Instant::now();
        let borrowed: Vec<Pipe> = (0..5).map_while(|_| pipes.borrow()).collect();
        assert_eq!((borrowed.len(), pipes.wait(start)), (5, None));
        borrowed.into_iter().for_each(|pipe| pipes.give_back(pipe));
        let at = |looks: u32| start + TRIMMING * looks + Duration::from_millis(1);
        // All five were in use since the last trimming, one since this one, and none after.
        pipes.trim(at(1));
        assert_eq!(pipes.free.len(), 5);
        let pipe = pipes.borrow().unwrap();
        pipes.give_back(pipe);
        pipes.trim(at(2));
        assert_eq!(pipes.free.len(), 1);
        assert!(pipes.wait(at(2)).is_some_and(|wait| wait <= TRIMMING));
        pipes.trim(at(3));
        assert_eq!((pipes.free.len(), pipes.wait(at(3))), (0, None));
    }
}
