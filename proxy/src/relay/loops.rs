//! Loop threads that carry tunnels: the engines `uring` and `splice`, by whichever [`Poller`], and `sockmap`, whose
//! tunnels the kernel carries as soon as it may ([`super::sockmap`]).
//!
//! A loop has its own poller, tunnels and pipes, and shares nothing with the others. There are two
//! crews of them, a thread per core each: **interactive** loops, where every tunnel begins, and **bulk**
//! loops, which give way to others. A tunnel moves there while it behaves like bulk ([`pace`]), so that a
//! message never waits behind somebody's mebibytes.
//!
//! An interactive loop keeps to a core, where all of that can be had, and has the tunnels that were accepted or
//! became calm there: a thread that wakes another on its own core does so at a tenth of what the interrupt costs
//! that wakes one on another, and opening and closing a tunnel takes a dozen such. Where a bulk loop runs is chosen
//! by where its bytes come in ([`seat`]).

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
use super::sockmap::{Program, Watch};
use super::{Adopted, Engine, Options};
use crate::metrics;
use crate::sys::tcp;
use crate::sys::thread::{here, keep_to, never_push_in};
use crate::tunnel::Tunnel;

mod carried;
mod ends;
mod event_loop;
mod inbox;
mod later;
mod moving;
pub(super) mod pace;
mod respite;
mod rounds;
mod seat;
mod spin;
mod waiting;

use carried::Carried;
use event_loop::Loop;
use inbox::{Inbox, Message};
use pace::Class;

/// So many tunnels more than others have an interactive loop may have without a loss worth mention: each moves less
/// than what makes it bulk, and a core moves hundreds of times that.
const MORE_HERE: usize = 16;

/// How long a loop rests after a panic: one that panics at once should not fill the log.
const AFTER_PANIC: Duration = Duration::from_millis(50);

/// The loop threads of one engine.
#[derive(Debug)]
pub(super) struct Loops {
    crews: Arc<Crews>,
    next_id: AtomicU64,
    /// Tells of destinations that do not keep up with what the kernel redirects.
    _watch: Option<Watch>,
}

/// All loops, as they see each other.
#[derive(Debug)]
struct Crews {
    engine: Engine,
    /// What redirects in the kernel, for the engine that does.
    program: Option<Arc<Program>>,
    /// By [`Class`].
    loops: [Vec<Handle>; 2],
    /// The core of each interactive loop, or none if they keep to none.
    cores: Vec<usize>,
    /// Times that a tunnel went to another loop.
    moves: AtomicU64,
}

/// What other threads hold of a loop.
#[derive(Debug)]
struct Handle {
    inbox: Inbox,
    /// Tunnels that it has, for balance.
    load: AtomicUsize,
}

impl Loops {
    /// Starts the threads of the poller's engine.
    ///
    /// # Errors
    /// Those of making a poller, or of starting a thread.
    pub(super) fn start<P: Poller>(options: &Options) -> io::Result<Self> {
        Self::start_as::<P>(P::ENGINE, None, options)
    }

    /// Starts those of the engine `sockmap`, with errors as [`Loops::start`].
    pub(super) fn start_redirecting<P: Poller>(program: Arc<Program>, options: &Options) -> io::Result<Self> {
        // What is redirected sends its loop no message to spin for.
        let options = Options { spin: Duration::ZERO, ..options.clone() };
        Self::start_as::<P>(Engine::Sockmap, Some(program), &options)
    }

    fn start_as<P: Poller>(engine: Engine, program: Option<Arc<Program>>, options: &Options) -> io::Result<Self> {
        let crew = || (0..options.threads.max(1)).map(|_| Handle::new()).collect::<io::Result<Vec<_>>>();
        let cores = if options.cores.len() == options.threads { options.cores.clone() } else { Vec::new() };
        let loops = [crew()?, crew()?];
        let crews = Arc::new(Crews { engine, program: program.clone(), loops, cores, moves: AtomicU64::new(0) });
        let told = crews.clone();
        let watch = program.map(|program| Watch::start(program, move |id| told.tell_all(|| Message::Turn { id })));
        let this = Self { crews, next_id: AtomicU64::new(1), _watch: watch.transpose()? };
        let (started, ready) = mpsc::channel();
        for class in Class::BOTH {
            for number in 0..this.crews.of(class).len() {
                spawn::<P>(&this.crews, class, number, options, started.clone())?;
            }
        }
        drop(started);
        ready.iter().collect::<io::Result<()>>()?;
        Ok(this)
    }

    /// Hands a tunnel to an interactive loop.
    pub(super) fn adopt(&self, tunnel: Tunnel) -> Adopted {
        // Whatever kills the process in mid-stream must not look like the end of the stream.
        let guarded = [&tunnel.client, &tunnel.origin].into_iter().try_for_each(|leg| tcp::reset_on_close(leg, true));
        if let Err(error) = guarded {
            return Err((Box::new(tunnel), error));
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let flow = tunnel.flow.clone();
        let (end, ended) = oneshot::channel();
        // Round the loops, in the order in which tunnels come.
        let home = usize::try_from(id).unwrap_or(0) % self.crews.of(Class::Bulk).len();
        let carried = Box::new(Carried::new(id, home, Pump::new(tunnel), end));
        if let Err(carried) = self.crews.hand(Class::Interactive, carried) {
            return Err((
                Box::new(carried.pump.into_tunnel()),
                io::Error::new(io::ErrorKind::BrokenPipe, "every loop thread has left"),
            ));
        }
        let crews = self.crews.clone();
        flow.on_order(move |order| crews.tell_all(|| Message::of(id, order)));
        Ok(ended)
    }

    /// Tunnels of each bulk loop.
    #[cfg(test)]
    pub(super) fn bulk(&self) -> Vec<usize> {
        self.crews.of(Class::Bulk).iter().map(|handle| handle.load.load(Ordering::Relaxed)).collect()
    }

    /// Times that a tunnel went to another loop so far.
    #[cfg(test)]
    pub(super) fn moves(&self) -> u64 {
        self.crews.moves.load(Ordering::Relaxed)
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        self.crews.tell_all(|| Message::Retire);
    }
}

/// Starts one loop, which says on `started` whether it has a poller.
fn spawn<P: Poller>(
    crews: &Arc<Crews>,
    class: Class,
    number: usize,
    options: &Options,
    started: mpsc::Sender<io::Result<()>>,
) -> io::Result<()> {
    let (crews, options) = (crews.clone(), options.clone());
    let name = format!("{}-{}{number}", crews.engine, if class == Class::Bulk { "bulk" } else { "" });
    thread::Builder::new().name(name).spawn(move || {
        let handle = &crews.of(class)[number];
        let _presence = Presence(handle);
        if class == Class::Bulk {
            // Refused or not: this is for the good of others. A nice value takes too much: at 5 sixty-four
            // tunnels lose a tenth to their own senders and receivers on the same cores.
            let _ = never_push_in();
        } else if let Some(core) = crews.cores.get(number) {
            // It is for speed alone: refused, it runs where the scheduler lets it.
            let _ = keep_to([*core]);
        }
        let mut started = Some(started);
        while let Some(poller) = new_poller::<P>(handle, started.take()) {
            // What it had is dropped with it, and nothing else is shared that a panic could leave half done.
            let run = AssertUnwindSafe(|| Loop::new(poller, &crews, class, number, options.clone()).run());
            if panic::catch_unwind(run).is_ok() {
                return;
            }
            error!("a loop thread has panicked: its tunnels are reset, and it goes on without them; please report it");
            thread::park_timeout(AFTER_PANIC);
        }
    })?;
    Ok(())
}

/// A poller for a loop, and word of it to whoever waits for the loop's start.
fn new_poller<P: Poller>(handle: &Handle, started: Option<mpsc::Sender<io::Result<()>>>) -> Option<P> {
    let (poller, said) = match P::new(handle.inbox.wake()) {
        Ok(poller) => (Some(poller), Ok(())),
        Err(error) => (None, Err(error)),
    };
    match (started, said) {
        (Some(started), said) => drop(started.send(said)),
        (None, Err(error)) => error!(%error, "a loop thread leaves, since it cannot watch sockets any more"),
        (None, Ok(())) => {}
    }
    poller
}

impl Crews {
    fn of(&self, class: Class) -> &[Handle] {
        &self.loops[class as usize]
    }

    /// Hands a tunnel to a loop of a class, and gives it back when none is left.
    ///
    /// A bulk loop is that of the tunnel's own number, unless others have far fewer: tunnels that came one
    /// after the other are bulk side by side, each with the same neighbours however soon it became so. Four
    /// that mixed were slower by a third.
    ///
    /// An interactive loop is the one on this core, unless others have far fewer: a network card with one queue
    /// reports everything to one core.
    fn hand(&self, class: Class, mut carried: Box<Carried>) -> Result<(), Box<Carried>> {
        let load = |number: usize| self.of(class)[number].load.load(Ordering::Relaxed);
        let least = self.fewest(class).map_or(0, |(_, load)| load);
        let (own, more) = match class {
            Class::Bulk => (Some(carried.home), 1),
            Class::Interactive => (self.on_this_core(), MORE_HERE),
        };
        let own = own.filter(|own| load(*own) <= least + more + least / 4);
        // Made only for those that have none of their own, or whose own has left.
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

    /// The interactive loop that keeps to the core of the calling thread.
    fn on_this_core(&self) -> Option<usize> {
        let here = here();
        self.cores.iter().position(|core| *core == here)
    }

    /// The loop of a class with the fewest tunnels, and how many those are.
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
            // A thread that is gone has no tunnels; whoever waits for one learns it from its channel.
            let _ = handle.inbox.tell(message());
        }
    }
}

impl Handle {
    fn new() -> io::Result<Self> {
        Ok(Self { inbox: Inbox::new()?, load: AtomicUsize::new(0) })
    }
}

/// Lets nobody choose a loop whose thread has left.
struct Presence<'a>(&'a Handle);

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
    use crate::sys::thread::whole_cores;
    use crate::tunnel::Flow;

    /// A tunnel with a hand on both its ends, and word of its end.
    pub(super) fn open(loops: &Loops) -> (TcpStream, TcpStream, oneshot::Receiver<Reason>) {
        let ((client, near), (origin, far)) = (pair(), pair());
        for socket in [&near, &far] {
            socket.set_nonblocking(true).unwrap();
        }
        let tunnel = Tunnel::plain(near, far, Default::default(), Arc::new(Flow::default()));
        let ended = loops.adopt(tunnel).map_err(|(_, error)| error).unwrap();
        (client, origin, ended)
    }

    /// The next loop to see a report panics.
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
        let loops = Loops::start::<Tampered<P, Mine>>(&Options { threads: 1, ..Options::default() }).unwrap();
        for round in 0..5 {
            let (client, origin, ended) = open(&loops);
            assert_eq!(echo(&client, &origin).unwrap(), b'x', "{} round {round}", P::ENGINE);
            LOADED.store(true, Ordering::Relaxed);
            let broken = echo(&client, &origin).map_err(|error| error.kind());
            assert_eq!(broken, Err(io::ErrorKind::ConnectionReset), "{} round {round}", P::ENGINE);
            assert!(ended.blocking_recv().is_err(), "the loop that would say why is gone");
            let interactive = &loops.crews.of(Class::Interactive)[0];
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
        let cores = whole_cores();
        let options = Options { threads: cores.len(), cores, ..Options::default() };
        let loops = Loops::start::<Epoll>(&options).unwrap();
        let loads = || {
            let crew = loops.crews.of(Class::Interactive);
            crew.iter().map(|handle| handle.load.load(Ordering::Relaxed)).collect::<Vec<_>>()
        };
        let mut tunnels = Vec::new();
        let mut open_on = |core: usize| {
            let open = || keep_to([core]).map(|()| open(&loops)).unwrap();
            tunnels.push(thread::scope(|scope| scope.spawn(open).join().unwrap()));
        };
        let mut expected = vec![0; options.cores.len()];
        for (number, core) in options.cores.iter().enumerate() {
            open_on(*core);
            expected[number] += 1;
            assert_eq!(loads(), expected);
        }
        if let [first, _, ..] = options.cores[..] {
            (0..3 * MORE_HERE).for_each(|_| open_on(first));
            let loads = loads();
            let least = loads.iter().min().unwrap();
            assert!(loads[0] > MORE_HERE && loads[0] <= least + MORE_HERE + least / 4 + 1, "{loads:?}");
        }
    }
}
