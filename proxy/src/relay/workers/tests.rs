//! Workers: failures of the poller, panics, and the choice of a worker.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32};

use rustix::io::Errno;

use super::worker_pool::LOCAL_SURPLUS;
use super::*;
use crate::reason::Reason;
use crate::relay::ClassThresholds;
use crate::relay::poller::tampered::{Tamper, Tampered};
use crate::relay::poller::{Epoll, Event, Uring};
use crate::relay::tests::pair;
use crate::sys::thread::unthrottled_cpus;
use crate::tunnel::Flow;

/// A tunnel with a hand on both its ends, and word of its end.
pub(super) fn open(loops: &Workers) -> (TcpStream, TcpStream, oneshot::Receiver<Reason>) {
    let ((client, near), (origin, far)) = (pair(), pair());
    for socket in [&near, &far] {
        socket.set_nonblocking(true).unwrap();
    }
    let tunnel = Tunnel::plain(near, far, Default::default(), Arc::new(Flow::default()));
    let ended = loops.adopt(tunnel).map_err(|(_, error)| error).unwrap();
    (client, origin, ended)
}

/// The next worker to see a report panics.
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

/// Failures of all [`Flaky`] ones.
static FAILURES: AtomicU32 = AtomicU32::new(0);

/// Drops every third lot of reports, and says so.
#[derive(Default)]
struct Flaky {
    lots: u32,
}

impl Tamper for Flaky {
    fn tamper(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.lots += u32::from(!events.is_empty());
        if self.lots < 3 {
            return Ok(());
        }
        self.lots = 0;
        events.clear();
        FAILURES.fetch_add(1, Ordering::Relaxed);
        Err(Errno::BADR.into())
    }
}

fn goes_on<P: Poller>() {
    let thresholds = ClassThresholds { bulk: 1 << 20, ..ClassThresholds::default() };
    let options = Options { threads: 2, thresholds, ..Options::default() };
    let loops = Workers::start::<Tampered<P, Flaky>>(&options).unwrap();
    let (client, origin, ended) = open(&loops);
    let sent: Vec<u8> = (0..20 << 20_u32).map(|at| (at / 7 + at / 4093) as u8).collect();
    let before = FAILURES.load(Ordering::Relaxed);
    let received = thread::scope(|scope| {
        scope.spawn(|| { &client }.write_all(&sent).and_then(|()| client.shutdown(Shutdown::Write)));
        let mut received = Vec::new();
        { &origin }.read_to_end(&mut received).map(|_| received)
    });
    assert!(received.unwrap() == sent, "{}: other bytes than were sent", P::ENGINE);
    assert!(FAILURES.load(Ordering::Relaxed) > before, "{}: nothing failed", P::ENGINE);
    drop(origin);
    assert_eq!(ended.blocking_recv(), Ok(Reason::ClientClosed), "{}", P::ENGINE);
}

#[test]
fn a_loop_whose_poller_drops_reports_asks_anew_and_loses_nothing() {
    goes_on::<Epoll>();
    goes_on::<Uring>();
}
