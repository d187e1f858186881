//! The threads that serve handshakes: the main one and, where every core is available without
//! throttling, one more for each further core, pinned to it. Each has its own runtime and listener
//! for the connections received on its core, so that the tasks for client, upstream and relay wake
//! each other without an interrupt: on two cores 1.4 times as many tunnels a second as with one
//! thread (`cargo xtask bench`).

use std::io;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

use super::listen::Listeners;
use super::run::Server;
use super::signals::Signals;
use crate::admin::Admin;
use crate::sys::thread::{permitted, pin_to_cpus};

/// The runtimes for everything except the bytes of tunnels.
#[derive(Debug)]
pub struct Control {
    runtime: Runtime,
    signals: Signals,
    cores: Vec<usize>,
    workers: Vec<Worker>,
}

impl Control {
    /// Starts the threads, each pinned to one of these cores, and begins to watch signals.
    ///
    /// # Errors
    /// Those of the system calls of an event loop, of sigaction(2), and of starting a thread.
    pub fn new(cores: Vec<usize>) -> io::Result<Self> {
        let workers = cores.iter().skip(1).map(|core| Worker::start(*core, &cores)).collect::<io::Result<_>>()?;
        let runtime = runtime(cores.first().copied(), &cores)?;
        let signals = {
            let _context = runtime.enter();
            Signals::watch()?
        };
        Ok(Self { runtime, signals, cores, workers })
    }

    /// Runs a gateway until it has drained.
    ///
    /// # Errors
    /// When a listener cannot be registered.
    pub fn run(self, server: Server, listeners: Listeners, admin: Admin) -> io::Result<()> {
        let Self { runtime, signals, cores, workers } = self;
        if let Some(core) = cores.first() {
            // All other threads were started before.
            let _ = pin_to_cpus([*core]);
        }
        let runtimes = workers.iter().map(|worker| worker.runtime.clone()).collect();
        let result = runtime.block_on(server.run(signals, listeners, admin, runtimes));
        // Does not wait for a look-up that hangs in the resolver.
        runtime.shutdown_background();
        // Their remaining connections are accounted for once the threads are gone.
        workers.into_iter().for_each(Worker::join);
        result
    }
}

/// A thread beside the main one; runs the tasks spawned on its runtime.
#[derive(Debug)]
struct Worker {
    runtime: Handle,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Worker {
    fn start(core: usize, cores: &[usize]) -> io::Result<Self> {
        let own = runtime(Some(core), cores)?;
        let runtime = own.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = thread::Builder::new().name(format!("control-{core}")).spawn(move || {
            // Refused, as by a seccomp filter, it runs where the scheduler lets it.
            let _ = pin_to_cpus([core]);
            let _ = own.block_on(ended);
            own.shutdown_background();
        })?;
        Ok(Self { runtime, end, thread })
    }

    /// Drops the remaining tasks and waits for the thread to end.
    fn join(self) {
        drop(self.end);
        // A panic was reported when it happened.
        let _ = self.thread.join();
    }
}

/// Creates a runtime for a thread pinned to `core`. Its threads for blocking work are not pinned:
/// they may use all of `cores`, unless their affinity was changed since.
fn runtime(core: Option<usize>, cores: &[usize]) -> io::Result<Runtime> {
    let cores = cores.to_vec();
    let let_off = move || {
        if permitted().is_ok_and(|permitted| core.is_some_and(|core| permitted == [core])) {
            let _ = pin_to_cpus(cores.iter().copied());
        }
    };
    Builder::new_current_thread().enable_all().on_thread_start(let_off).build()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::sys::thread::{current_cpu, unthrottled_cpus};

    #[test]
    fn a_worker_is_on_its_core_and_what_blocks_is_where_there_is_room() {
        let cores = unthrottled_cpus();
        let control = Control::new(unthrottled_cpus()).unwrap();
        assert_eq!(control.workers.len(), cores.len().saturating_sub(1));
        for (worker, core) in control.workers.into_iter().zip(cores.iter().skip(1)) {
            let (report, reports) = mpsc::channel();
            worker.runtime.spawn(async move {
                let let_off = tokio::task::spawn_blocking(permitted).await.unwrap().unwrap();
                report.send((current_cpu(), permitted().unwrap(), let_off)).unwrap();
            });
            assert_eq!(reports.recv().unwrap(), (*core, vec![*core], cores.clone()));
            worker.join();
        }
        // Idle workers delay nothing.
        Control::new(unthrottled_cpus()).unwrap().workers.into_iter().for_each(Worker::join);
        assert_eq!(unthrottled_cpus(), cores, "the calling thread keeps to a core before it has a gateway to run");
    }

    #[test]
    fn what_blocks_is_not_let_off_from_where_somebody_else_has_put_the_thread() {
        let cores = unthrottled_cpus();
        let [core, other, ..] = cores[..] else { return };
        let thread = thread::spawn(move || {
            let runtime = runtime(Some(core), &cores).unwrap();
            pin_to_cpus([other]).unwrap();
            runtime.block_on(runtime.spawn_blocking(permitted)).unwrap().unwrap()
        });
        assert_eq!(thread.join().unwrap(), [other]);
    }
}
