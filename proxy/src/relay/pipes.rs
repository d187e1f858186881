//! A loop's stock of empty pipes. A pipe is borrowed only while bytes are in flight, so that an idle
//! tunnel costs none.

use std::io;

use tracing::warn;

use super::Engine;
use crate::metrics;
use crate::sys::pipe::{LEAST_CAPACITY, Pipe};

/// Empty pipes that a loop keeps for the next burst; more are closed when they come back.
const KEPT: usize = 32;

/// After a refusal the host is not asked again for so many borrowings: asking costs system calls, and
/// what is short stays short for a while.
const PATIENCE: u32 = 64;

/// The pipes of one loop thread.
#[derive(Debug)]
pub(super) struct Pipes {
    engine: Engine,
    free: Vec<Pipe>,
    refusals_left: u32,
    /// The last try gave none.
    short: bool,
}

impl Pipes {
    pub(super) const fn new(engine: Engine) -> Self {
        Self { engine, free: Vec::new(), refusals_left: 0, short: false }
    }

    /// A direction goes on without a pipe.
    pub(super) fn count_shortage(&self) {
        metrics::ENGINE_FALLBACKS.counter(&[self.engine.label(), Engine::Copy.label(), "no_pipe"]).increment(1);
    }

    /// An empty pipe, or `None` when the host has none to give that is worth having: descriptors are
    /// used up, or the user's pipe pages (`/proc/sys/fs/pipe-user-pages-soft`).
    pub(super) fn borrow(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.free.pop() {
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
                    warn!(engine = %self.engine, %error, "no pipe is to be had: tunnels go on without, slower");
                }
                None
            }
        }
    }

    fn make() -> io::Result<Pipe> {
        let pipe = Pipe::new()?;
        if pipe.capacity() < LEAST_CAPACITY {
            return Err(pipe.too_small());
        }
        metrics::PIPE_BYTES.gauge(&[]).increment(size(&pipe));
        Ok(pipe)
    }

    /// Takes an empty pipe back.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.free.len() < KEPT {
            self.free.push(pipe);
        } else {
            Self::close(pipe);
        }
    }

    /// Closes a pipe, with what it may still hold.
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
