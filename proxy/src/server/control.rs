//! The threads that serve handshakes: the main one and, where all of every core can be had, one more for each
//! further core, kept to it. Each has a runtime and a listener of its own, for the connections that come in on its
//! core, so that who connects, who answers and who carries the bytes wake each other without an interrupt: twice as
//! many tunnels a second as one thread opens (`cargo xtask bench`).

use std::io;
use std::pin::Pin;
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Runtime};

use super::{Listeners, Server, Signals};
use crate::admin::Admin;
use crate::sys::thread::{keep_to, whole_cores};

/// What everything runs on but the bytes of tunnels.
#[derive(Debug)]
pub struct Control {
    runtime: Runtime,
    signals: Signals,
    cores: Vec<usize>,
    workers: Vec<Worker>,
}

impl Control {
    /// Starts the threads. From now on signals are watched.
    ///
    /// # Errors
    /// Those of the system calls of an event loop, of sigaction(2), and of starting a thread.
    pub fn new() -> io::Result<Self> {
        let cores = whole_cores();
        let (started, ready) = mpsc::channel();
        let start = |core| Worker::start(core, &cores, started.clone());
        let workers = cores.iter().skip(1).map(|core| start(*core)).collect::<io::Result<_>>()?;
        drop(started);
        ready.iter().collect::<io::Result<()>>()?;
        let runtime = runtime(&cores)?;
        let signals = {
            let _context = runtime.enter();
            Signals::watch()?
        };
        Ok(Self { runtime, signals, cores, workers })
    }

    /// The cores that listeners are wanted for; none if one for all will do.
    #[must_use]
    pub fn cores(&self) -> &[usize] {
        if self.workers.is_empty() { &[] } else { &self.cores }
    }

    /// Runs a gateway until it has drained.
    ///
    /// # Errors
    /// When a listener cannot be registered.
    pub fn run(self, server: Server, listeners: Listeners, admin: Admin) -> io::Result<()> {
        let Self { runtime, signals, cores, workers } = self;
        if let Some(core) = cores.first() {
            // What other threads there have to be were started before.
            let _ = keep_to(&[*core]);
        }
        let result = runtime.block_on(server.run(signals, listeners, admin, &workers));
        // A look-up that hangs in the resolver is not waited for.
        runtime.shutdown_background();
        result
    }
}

/// What a thread does, once.
type Job = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A thread beside the main one. Without a job it leaves.
#[derive(Debug)]
pub(super) struct Worker {
    job: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts it; it says on `started` whether it has a runtime.
    fn start(core: usize, cores: &[usize], started: mpsc::Sender<io::Result<()>>) -> io::Result<Self> {
        let (job, jobs) = mpsc::channel::<Job>();
        let cores = cores.to_vec();
        thread::Builder::new().name(format!("control-{core}")).spawn(move || {
            let runtime = match runtime(&cores) {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            // Refused, as by a seccomp filter, it runs where the scheduler lets it.
            let _ = keep_to(&[core]);
            let _ = started.send(Ok(()));
            drop(started);
            if let Ok(job) = jobs.recv() {
                runtime.block_on(job);
            }
            runtime.shutdown_background();
        })?;
        Ok(Self { job })
    }

    /// Gives it its job.
    pub(super) fn run(&self, job: impl Future<Output = ()> + Send + 'static) {
        // It is there until it has had one.
        let _ = self.job.send(Box::pin(job));
    }
}

/// A runtime for the calling thread. The threads that it starts for what blocks, as for password hashes, are not
/// kept to a core with it.
fn runtime(cores: &[usize]) -> io::Result<Runtime> {
    let cores = cores.to_vec();
    let free = move || {
        if !cores.is_empty() {
            let _ = keep_to(&cores);
        }
    };
    Builder::new_current_thread().enable_all().on_thread_start(free).build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::thread::here;

    #[test]
    fn a_worker_is_on_its_core_and_what_blocks_is_where_there_is_room() {
        let cores = whole_cores();
        let control = Control::new().unwrap();
        assert_eq!(control.workers.len(), cores.len().saturating_sub(1));
        for (worker, core) in control.workers.iter().zip(&cores[1..]) {
            let (report, reports) = mpsc::channel();
            worker.run(async move {
                let blocking = tokio::task::spawn_blocking(whole_cores).await.unwrap();
                report.send((here(), whole_cores(), blocking)).unwrap();
            });
            assert_eq!(reports.recv().unwrap(), (*core, vec![*core], cores.clone()));
        }
        // Nobody is kept waiting by workers that had nothing to do.
        drop(Control::new().unwrap());
        assert_eq!(whole_cores(), cores, "the calling thread was kept to a core before it had a gateway to run");
    }
}
