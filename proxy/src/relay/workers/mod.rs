//! Worker threads: the engines `uring` and `splice`, which differ only in their [`Poller`], and
//! `sockmap`, whose tunnels the kernel redirects as soon as it can ([`super::sockmap`]).
//!
//! A worker has its own poller, tunnels and pipes, and shares nothing with the others. There are
//! two pools, each with one thread per core: **interactive** workers, where every tunnel begins,
//! and **bulk** workers, which give way to others. A tunnel moves to a bulk worker while it behaves
//! like bulk ([`traffic_class`]), so a message never waits behind mebibytes of another tunnel.
//!
//! If enough cores are available, an interactive worker is pinned to one core and carries the
//! tunnels accepted there or calmed down there: waking a thread on the same core costs a tenth of
//! the interrupt needed to wake one on another core, and opening and closing a tunnel takes a dozen
//! wake-ups. A bulk worker's core follows its incoming bytes ([`affinity`]).

use std::io;
use std::iter;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::error;

use super::poller::Poller;
use super::pump::Pump;
use super::sockmap::{BackpressureWatch, Program};
use super::{Adopted, Engine, Options};
use crate::metrics;
use crate::sys::tcp;
use crate::sys::thread::{current_cpu, pin_to_cpus, set_sched_batch};
use crate::tunnel::Tunnel;

mod active_tunnel;
mod affinity;
mod backoff;
mod busy_poll;
mod closing;
mod inbox;
mod migration;
mod periodic_sweep;
mod timer_queue;
pub(super) mod traffic_class;
mod waiting;
mod worker;

use active_tunnel::ActiveTunnel;
use inbox::{Inbox, Message};
use traffic_class::Class;
use worker::Worker;

/// Tunnels an interactive worker may have above the least loaded one without a noticeable loss:
/// each moves less than the bulk threshold, and a core moves hundreds of times as much.
const LOCAL_SURPLUS: usize = 16;

/// Pause after a panic: a worker that panics at once should not fill the log.
const PANIC_PAUSE: Duration = Duration::from_millis(50);

/// The worker threads of one engine.
#[derive(Debug)]
pub(super) struct Workers {
    pool: Arc<WorkerPool>,
    next_id: AtomicU64,
    /// Reports destinations that do not keep up with the bytes redirected by the kernel.
    _watch: Option<BackpressureWatch>,
}

/// All workers of an engine, shared between them.
#[derive(Debug)]
struct WorkerPool {
    engine: Engine,
    /// The BPF program, for the engine `sockmap`.
    program: Option<Arc<Program>>,
    /// Indexed by [`Class`].
    loops: [Vec<WorkerHandle>; 2],
    /// The core of each interactive worker; empty if they are not pinned.
    cores: Vec<usize>,
    /// Tunnels migrated between workers so far.
    moves: AtomicU64,
}

/// Other threads' view of a worker.
#[derive(Debug)]
struct WorkerHandle {
    inbox: Inbox,
    /// Number of tunnels at the worker, for load balancing.
    load: AtomicUsize,
}

impl Workers {
    /// Starts the worker threads of the poller's engine.
    ///
    /// # Errors
    /// Failure to create a poller or to start a thread.
    pub(super) fn start<P: Poller>(options: &Options) -> io::Result<Self> {
        Self::start_as::<P>(P::ENGINE, None, options)
    }

    /// Starts the worker threads of the engine `sockmap`; errors as for [`Workers::start`].
    pub(super) fn start_redirecting<P: Poller>(program: Arc<Program>, options: &Options) -> io::Result<Self> {
        // Redirected tunnels send their worker no messages, so busy polling gains nothing.
        let options = Options { spin: Duration::ZERO, ..options.clone() };
        Self::start_as::<P>(Engine::Sockmap, Some(program), &options)
    }

    fn start_as<P: Poller>(engine: Engine, program: Option<Arc<Program>>, options: &Options) -> io::Result<Self> {
        let workers = || (0..options.threads.max(1)).map(|_| WorkerHandle::new()).collect::<io::Result<Vec<_>>>();
        let cores = if options.cores.len() == options.threads { options.cores.clone() } else { Vec::new() };
        let loops = [workers()?, workers()?];
        let pool = Arc::new(WorkerPool { engine, program: program.clone(), loops, cores, moves: AtomicU64::new(0) });
        let told = pool.clone();
        let watch =
            program.map(|program| BackpressureWatch::start(program, move |id| told.tell_all(|| Message::Run { id })));
        let this = Self { pool, next_id: AtomicU64::new(1), _watch: watch.transpose()? };
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
        // A process killed in mid-stream must not look like the end of the stream.
        let guarded = [&tunnel.client, &tunnel.origin].into_iter().try_for_each(|leg| tcp::reset_on_close(leg, true));
        if let Err(error) = guarded {
            return Err((Box::new(tunnel), error));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let flow = tunnel.flow.clone();
        let (end, ended) = oneshot::channel();
        // Round robin over the workers, in the order of arrival.
        let preferred_worker = usize::try_from(id).unwrap_or(0) % self.pool.of(Class::Bulk).len();
        let carried = Box::new(ActiveTunnel::new(id, preferred_worker, Pump::new(tunnel), end));
        if let Err(carried) = self.pool.hand(Class::Interactive, carried) {
            return Err((
                Box::new(carried.pump.into_tunnel()),
                io::Error::new(io::ErrorKind::BrokenPipe, "every worker thread has left"),
            ));
        }
        let pool = self.pool.clone();
        flow.attach_control(move |command| pool.tell_all(|| Message::of(id, command)));
        Ok(ended)
    }

    /// Number of tunnels at each bulk worker.
    #[cfg(test)]
    pub(super) fn bulk(&self) -> Vec<usize> {
        self.pool.of(Class::Bulk).iter().map(|handle| handle.load.load(Ordering::Relaxed)).collect()
    }

    /// Number of migrations between workers so far.
    #[cfg(test)]
    pub(super) fn moves(&self) -> u64 {
        self.pool.moves.load(Ordering::Relaxed)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool.tell_all(|| Message::Retire);
    }
}

/// Starts one worker; the worker reports on `started` if it could create a poller.
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
            // A failure does no harm: SCHED_BATCH only favours the other threads. A nice value
            // takes too much: at nice 5, sixty-four tunnels lose a tenth to their own senders and
            // receivers on the same cores.
            let _ = set_sched_batch();
        } else if let Some(core) = pool.cores.get(number) {
            // Pinning only adds speed: if refused, the scheduler places the thread.
            let _ = pin_to_cpus([*core]);
        }
        let mut started = Some(started);
        while let Some(poller) = new_poller::<P>(handle, started.take()) {
            // The worker's tunnels are dropped with it, and a panic can leave nothing else half
            // done: nothing else is shared.
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

/// Creates a worker's poller and reports the result to the thread awaiting the worker's start.
fn new_poller<P: Poller>(handle: &WorkerHandle, started: Option<mpsc::Sender<io::Result<()>>>) -> Option<P> {
    let (poller, said) = match P::new(handle.inbox.wake()) {
        Ok(poller) => (Some(poller), Ok(())),
        Err(error) => (None, Err(error)),
    };
    match (started, said) {
        (Some(started), said) => drop(started.send(said)),
        (None, Err(error)) => error!(%error, "a worker thread ends: it cannot poll sockets any more"),
        (None, Ok(())) => {}
    }
    poller
}

impl WorkerPool {
    fn of(&self, class: Class) -> &[WorkerHandle] {
        &self.loops[class as usize]
    }

    /// Hands a tunnel to a worker of `class`; returns it if no worker is left.
    ///
    /// A bulk tunnel goes to its preferred worker unless others have far fewer tunnels: tunnels
    /// opened one after the other become neighbours on a worker, however soon they become bulk.
    /// Four tunnels with mixed neighbours were slower by a third.
    ///
    /// An interactive tunnel goes to the worker on this core unless others have far fewer tunnels:
    /// a network card with a single queue delivers all packets to one core.
    fn hand(&self, class: Class, mut carried: Box<ActiveTunnel>) -> Result<(), Box<ActiveTunnel>> {
        let load = |number: usize| self.of(class)[number].load.load(Ordering::Relaxed);
        let least = self.fewest(class).map_or(0, |(_, load)| load);
        let (own, more) = match class {
            Class::Bulk => (Some(carried.preferred_worker), 1),
            Class::Interactive => (self.on_this_core(), LOCAL_SURPLUS),
        };
        let own = own.filter(|own| load(*own) <= least + more + least / 4);
        // Evaluated only if there is no own worker, or it has exited.
        let others = iter::once_with(|| {
            let mut numbers: Vec<usize> = (0..self.of(class).len()).collect();
            numbers.sort_by_key(|number| load(*number));
            numbers
        });
        for number in own.into_iter().chain(others.flatten()) {
            let handle = &self.of(class)[number];
            handle.load.fetch_add(1, Ordering::Relaxed);
            match handle.inbox.tell(Message::Adopt(carried)) {
                Err(Message::Adopt(back)) => {
                    handle.load.fetch_sub(1, Ordering::Relaxed);
                    carried = back;
                }
                _ => return Ok(()),
            }
        }
        Err(carried)
    }

    /// The interactive worker pinned to the calling thread's core.
    fn on_this_core(&self) -> Option<usize> {
        let here = current_cpu();
        self.cores.iter().position(|core| *core == here)
    }

    /// The worker of `class` with the fewest tunnels, and its number of tunnels.
    fn fewest(&self, class: Class) -> Option<(usize, usize)> {
        let loads = self.of(class).iter().map(|handle| handle.load.load(Ordering::Relaxed));
        loads.enumerate().min_by_key(|(_, load)| *load)
    }

    fn count_move(&self, to: Class) {
        self.moves.fetch_add(1, Ordering::Relaxed);
        metrics::LOOP_MOVES.counter(&[self.engine.label(), to.label()]).increment(1);
    }

    fn tell_all(&self, message: impl Fn() -> Message) {
        for handle in self.loops.iter().flatten() {
            // An exited worker has no tunnels; a task awaiting the end of one learns of it by its
            // channel.
            let _ = handle.inbox.tell(message());
        }
    }
}

impl WorkerHandle {
    fn new() -> io::Result<Self> {
        Ok(Self { inbox: Inbox::new()?, load: AtomicUsize::new(0) })
    }
}

/// Closes the inbox of an exiting worker thread, so it is no longer chosen.
struct Presence<'a>(&'a WorkerHandle);

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        self.0.inbox.close();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::reason::Reason;
    use crate::relay::poller::tampered::{Tamper, Tampered};
    use crate::relay::poller::{Epoll, Event, Uring};
    use crate::relay::tests::pair;
    use crate::sys::thread::unthrottled_cpus;
    use crate::tunnel::Flow;

    /// Opens a tunnel; returns both its ends and the receiver of its end.
    pub(super) fn open(loops: &Workers) -> (TcpStream, TcpStream, oneshot::Receiver<Reason>) {
        let ((client, near), (origin, far)) = (pair(), pair());
        for socket in [&near, &far] {
            socket.set_nonblocking(true).unwrap();
        }
        let tunnel = Tunnel::plain(near, far, Default::default(), Arc::new(Flow::default()));
        let ended = loops.adopt(tunnel).map_err(|(_, error)| error).unwrap();
        (client, origin, ended)
    }

    /// The next worker to see an event panics.
    static LOADED: AtomicBool = AtomicBool::new(false);

    #[derive(Default)]
    struct Mine;

    impl Tamper for Mine {
        fn tamper(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
            assert!(events.is_empty() || !LOADED.swap(false, Ordering::Relaxed), "as the test wants it");
            Ok(())
        }
    }

    fn echo(mut client: &TcpStream, mut origin: &TcpStream) -> io::Result<u8> {
        client.write_all(b"x")?;
        let mut byte = [0];
        origin.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn survives<P: Poller>() {
        let loops = Workers::start::<Tampered<P, Mine>>(&Options { threads: 1, ..Options::default() }).unwrap();
        for round in 0..5 {
            let (client, origin, ended) = open(&loops);
            assert_eq!(echo(&client, &origin).unwrap(), b'x', "{} round {round}", P::ENGINE);
            LOADED.store(true, Ordering::Relaxed);
            let broken = echo(&client, &origin).map_err(|error| error.kind());
            assert_eq!(broken, Err(io::ErrorKind::ConnectionReset), "{} round {round}", P::ENGINE);
            assert!(ended.blocking_recv().is_err(), "the loop that would say why is gone");
            let interactive = &loops.pool.of(Class::Interactive)[0];
            assert_eq!(interactive.load.load(Ordering::Relaxed), 0, "{} round {round}", P::ENGINE);
        }
    }

    #[test]
    fn a_loop_that_panics_resets_its_tunnels_and_carries_the_next() {
        survives::<Epoll>();
        survives::<Uring>();
    }

    #[test]
    fn a_tunnel_goes_to_the_loop_on_its_core_unless_that_has_far_more_than_others() {
        let cores = unthrottled_cpus();
        let options = Options { threads: cores.len(), cores, ..Options::default() };
        let loops = Workers::start::<Epoll>(&options).unwrap();
        let loads = || {
            let workers = loops.pool.of(Class::Interactive);
            workers.iter().map(|handle| handle.load.load(Ordering::Relaxed)).collect::<Vec<_>>()
        };
        let mut tunnels = Vec::new();
        let mut open_on = |core: usize| {
            let open = || pin_to_cpus([core]).map(|()| open(&loops)).unwrap();
            tunnels.push(thread::scope(|scope| scope.spawn(open).join().unwrap()));
        };
        let mut expected = vec![0; options.cores.len()];
        for (number, core) in options.cores.iter().enumerate() {
            open_on(*core);
            expected[number] += 1;
            assert_eq!(loads(), expected);
        }
        if let [first, _, ..] = options.cores[..] {
            (0..3 * LOCAL_SURPLUS).for_each(|_| open_on(first));
            let loads = loads();
            let least = loads.iter().min().unwrap();
            assert!(loads[0] > LOCAL_SURPLUS && loads[0] <= least + LOCAL_SURPLUS + least / 4 + 1, "{loads:?}");
        }
    }
}
