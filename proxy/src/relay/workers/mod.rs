//! Worker threads that carry tunnels: the engines `uring` and `splice`, each with its [`Poller`],
//! and `sockmap`, which hands tunnels over to the kernel ([`super::offload`]).
//!
//! A worker has its own poller, tunnels and pipes, and shares nothing with the others. There is a
//! thread per core of each class: **interactive** workers, where every tunnel begins, and **bulk**
//! workers, which give way to others. A tunnel migrates to a bulk worker while it moves much
//! ([`traffic_class`]), so that a short message never waits behind megabytes of another tunnel.
//!
//! An interactive worker is pinned to a core if possible, and has the tunnels that were accepted or
//! became calm on that core: waking a thread of the same core costs a tenth of the interrupt that
//! wakes one of another, and opening and closing a tunnel takes a dozen wake-ups. A bulk worker
//! moves to the core that its bytes come in on ([`affinity`]).
//!
//! | file | contents |
//! |---|---|
//! | `worker` | one thread: events, steps, ends, migration |
//! | `tunnel_table` | its tunnels and run queue |
//! | `active_tunnel` | one tunnel: its phase and its turns |
//! | `waiter`, `busy_poll` | waiting for events, with and without sleep |
//! | `worker_pool`, `inbox` | all workers, and messages to them |
//! | `traffic_class` | thresholds between interactive and bulk |
//! | `periodic_sweep`, `timer_queue`, `backoff` | times at which there is something to do |
//! | `affinity` | the core of a bulk worker |

use std::fmt::Debug;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::error;

use super::engine::{Adopted, Engine};
use super::offload::Offloader;
use super::options::Options;
use super::poller::Poller;
use super::pump::Pump;
use crate::sys::tcp;
use crate::sys::thread::{pin_to_cpus, set_sched_batch};
use crate::tunnel::Tunnel;

mod active_tunnel;
mod affinity;
mod backoff;
mod busy_poll;
mod inbox;
mod periodic_sweep;
mod timer_queue;
pub(super) mod traffic_class;
mod tunnel_table;
mod waiter;
mod worker;
mod worker_pool;

#[cfg(test)]
mod tests;

use active_tunnel::ActiveTunnel;
use inbox::Message;
use traffic_class::Class;
use worker::Worker;
use worker_pool::{WorkerHandle, WorkerPool};

/// Pause of a worker after a panic, so that one that panics at once does not fill the log.
const PANIC_PAUSE: Duration = Duration::from_millis(50);

/// The worker threads of one engine.
#[derive(Debug)]
pub(super) struct Workers {
    pool: Arc<WorkerPool>,
    next_id: AtomicU64,
    /// Reports offloaded tunnels that need a step.
    _notifier: Option<Box<dyn Debug + Send + Sync>>,
}

impl Workers {
    /// Starts the threads of the poller's engine.
    ///
    /// # Errors
    /// Those of making a poller, or of starting a thread.
    pub(super) fn start<P: Poller>(options: &Options) -> io::Result<Self> {
        Self::start_as::<P>(P::ENGINE, None, options)
    }

    /// Starts the threads of the engine `sockmap`, with errors as [`Workers::start`].
    pub(super) fn start_offloading<P: Poller>(offloader: Arc<dyn Offloader>, options: &Options) -> io::Result<Self> {
        // No busy-polling: offloaded tunnels rarely need their worker.
        let options = Options { spin: Duration::ZERO, ..options.clone() };
        Self::start_as::<P>(Engine::Sockmap, Some(offloader), &options)
    }

    fn start_as<P: Poller>(
        engine: Engine,
        offloader: Option<Arc<dyn Offloader>>,
        options: &Options,
    ) -> io::Result<Self> {
        let cores = if options.cores.len() == options.threads { options.cores.clone() } else { Vec::new() };
        let pool = Arc::new(WorkerPool::new(engine, offloader.clone(), options.threads.max(1), cores)?);
        let notified = pool.clone();
        let notifier = offloader
            .map(|offloader| offloader.start_notifier(Box::new(move |id| notified.tell_all(|| Message::Run { id }))));
        let this = Self { pool, next_id: AtomicU64::new(1), _notifier: notifier.transpose()? };
        let (started, ready) = mpsc::channel();
        for class in Class::BOTH {
            for number in 0..this.pool.of(class).len() {
                spawn::<P>(&this.pool, class, number, options, started.clone())?;
            }
        }
        drop(started);
        ready.iter().collect::<io::Result<()>>()?;
        Ok(this)
    }

    /// Hands a tunnel to an interactive worker.
    pub(super) fn adopt(&self, tunnel: Tunnel) -> Adopted {
        // A crash of the process in mid-stream must not look like the end of the stream.
        let guarded = [&tunnel.client, &tunnel.origin].into_iter().try_for_each(|leg| tcp::reset_on_close(leg, true));
        if let Err(error) = guarded {
            return Err((Box::new(tunnel), error));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let flow = tunnel.flow.clone();
        let (end, ended) = oneshot::channel();
        // Bulk workers in turn, in the order in which tunnels are opened.
        let preferred_worker = usize::try_from(id).unwrap_or(0) % self.pool.of(Class::Bulk).len();
        let active = Box::new(ActiveTunnel::new(id, preferred_worker, Pump::new(tunnel), end));
        if let Err(active) = self.pool.assign(Class::Interactive, active) {
            return Err((
                Box::new(active.pump.into_tunnel()),
                io::Error::new(io::ErrorKind::BrokenPipe, "every worker thread has left"),
            ));
        }
        let pool = self.pool.clone();
        flow.attach_control(move |command| pool.tell_all(|| Message::of(id, command)));
        Ok(ended)
    }

    /// Tunnels of each bulk worker.
    #[cfg(test)]
    pub(super) fn bulk(&self) -> Vec<usize> {
        self.pool.of(Class::Bulk).iter().map(|handle| handle.load.load(Ordering::Relaxed)).collect()
    }

    /// Number of migrations so far.
    #[cfg(test)]
    pub(super) fn migrations(&self) -> u64 {
        self.pool.migrations()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool.tell_all(|| Message::Retire);
    }
}

/// Starts one worker, which sends the result of making its poller to `started`.
fn spawn<P: Poller>(
    pool: &Arc<WorkerPool>,
    class: Class,
    number: usize,
    options: &Options,
    started: mpsc::Sender<io::Result<()>>,
) -> io::Result<()> {
    let (pool, options) = (pool.clone(), options.clone());
    let name = format!("{}-{}{number}", pool.engine, if class == Class::Bulk { "bulk" } else { "" });
    thread::Builder::new().name(name).spawn(move || {
        let handle = &pool.of(class)[number];
        let _presence = Presence(handle);
        if class == Class::Bulk {
            // For the good of others, so that a refusal does not matter. A nice value costs too
            // much: at 5, sixty-four tunnels lose a tenth to their own senders and receivers on the
            // same cores.
            let _ = set_sched_batch();
        } else if let Some(core) = pool.cores.get(number) {
            // For speed alone: if refused, the scheduler places it.
            let _ = pin_to_cpus([*core]);
        }
        let mut started = Some(started);
        while let Some(poller) = new_poller::<P>(handle, started.take()) {
            // The worker's state is dropped on a panic; what it shares (inbox, load) stays
            // consistent.
            let run = AssertUnwindSafe(|| Worker::new(poller, &pool, class, number, options.clone()).run());
            if panic::catch_unwind(run).is_ok() {
                return;
            }
            error!("a worker thread panicked: its tunnels are reset, and it goes on; please report it");
            thread::park_timeout(PANIC_PAUSE);
        }
    })?;
    Ok(())
}

/// Makes the poller of a worker, and sends the result to `started` if that is still awaited.
fn new_poller<P: Poller>(handle: &WorkerHandle, started: Option<mpsc::Sender<io::Result<()>>>) -> Option<P> {
    let (poller, result) = match P::new(handle.inbox.wake()) {
        Ok(poller) => (Some(poller), Ok(())),
        Err(error) => (None, Err(error)),
    };
    match (started, result) {
        (Some(started), result) => drop(started.send(result)),
        (None, Err(error)) => error!(%error, "a worker thread ends: it cannot poll sockets any more"),
        (None, Ok(())) => {}
    }
    poller
}

/// Closes the inbox of a worker when its thread ends, so that no tunnel is handed to it.
struct Presence<'a>(&'a WorkerHandle);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.inbox.close();
    }
}
