//! Tests of the engine without a gateway around it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::*;
use crate::reason::Reason;
use crate::relay::SOCKMAP_BACKLOG;
use crate::relay::tests::{DEADLINE, pair};
use crate::sys::capabilities::{FOR_BPF, missing};
use crate::sys::tcp;
use crate::tunnel::Tunnel;

/// Number of pairs in the maps, and of threads opening tunnels.
const ROOM: usize = 4;

fn engine() -> Option<(Arc<Program>, Workers)> {
    let missing = missing(FOR_BPF);
    if !missing.is_empty() {
        eprintln!("skipped: without {}", missing.join(" and "));
        return None;
    }
    let program = Arc::new(Program::load(ROOM, SOCKMAP_BACKLOG).map_err(hint::unavailable).unwrap());
    let options = Options { threads: 2, ..Options::default() };
    let loops = start_workers(&program, &options).unwrap();
    Some((program, loops))
}

fn open(loops: &Workers) -> (TcpStream, TcpStream, tokio::sync::oneshot::Receiver<Reason>) {
    open_as(loops, Arc::default())
}

fn open_as(loops: &Workers, flow: Arc<Flow>) -> (TcpStream, TcpStream, tokio::sync::oneshot::Receiver<Reason>) {
    let ((client, near), (origin, far)) = (pair(), pair());
    for socket in [&near, &far] {
        socket.set_nonblocking(true).unwrap();
    }
    for socket in [&client, &origin] {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
    }
    let tunnel = Tunnel::plain(near, far, Default::default(), flow);
    let ended = loops.adopt(tunnel).map_err(|(_, error)| error).unwrap();
    (client, origin, ended)
}

/// A leaked slot shows up soon: there are four pairs for four threads.
#[test]
fn no_slot_is_lost_however_a_tunnel_ends() {
    let Some((program, loops)) = engine() else { return };
    let full = std::env::var_os("SLUICEGATE_TEST_FULL").is_some_and(|value| value == "1");
    let tunnels = if full { 100_000 } else { 2_000 };
    let next = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..ROOM {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= tunnels {
                        return;
                    }
                    let (mut client, mut origin, ended) = open(&loops);
                    client.write_all(b"up").unwrap();
                    origin.read_exact(&mut [0; 2]).unwrap();
                    let why = match number % 4 {
                        0 => tcp::reset(&client).map(|()| Reason::ClientReset),
                        1 => tcp::reset(&origin).map(|()| Reason::OriginReset),
                        2 => client
                            .shutdown(Shutdown::Write)
                            .and(origin.shutdown(Shutdown::Write))
                            .map(|()| Reason::ClientClosed),
                        _ => origin.write_all(b"down").and(client.shutdown(Shutdown::Write)).and_then(|()| {
                            assert_eq!(origin.read(&mut [0]).unwrap(), 0);
                            origin.shutdown(Shutdown::Write).map(|()| Reason::ClientClosed)
                        }),
                    };
                    let (why, ended) = (why.unwrap(), ended.blocking_recv().unwrap());
                    // Two simultaneous ends may arrive in either order.
                    assert!(ended == why || number % 4 == 2 && ended == Reason::OriginClosed, "{number}: {ended:?}");
                }
            });
        }
    });
    assert_eq!((program.redirector().sockets(), program.redirector().clear()), (0, 0));
    let mut free: Vec<u32> = program.free();
    free.sort_unstable();
    assert_eq!(free, [0, 2, 4, 6]);
    // A tunnel may have ended before any of its bytes were redirected, so redirection is tested
    // here.
    let (mut client, mut origin, _ended) = open(&loops);
    let deadline = std::time::Instant::now() + DEADLINE;
    while program.redirected() == [0, 0] {
        assert!(std::time::Instant::now() < deadline, "nothing is redirected");
        client.write_all(b"up").unwrap();
        origin.read_exact(&mut [0; 2]).unwrap();
    }
}

/// Tunnels without a slot are still carried.
#[test]
fn a_tunnel_without_a_slot_is_carried_by_the_pump() {
    let Some((program, loops)) = engine() else { return };
    let mut tunnels: Vec<_> = (0..3 * ROOM).map(|_| open(&loops)).collect();
    for (client, origin, _) in &mut tunnels {
        client.write_all(b"hello").unwrap();
        origin.read_exact(&mut [0; 5]).unwrap();
    }
    assert_eq!(program.free().len(), 0);
    assert_eq!(program.redirector().sockets(), ROOM * 2);
    for (client, origin, ended) in tunnels {
        drop((client, origin));
        assert!(ended.blocking_recv().is_ok());
    }
    assert_eq!((program.free().len(), program.redirector().sockets()), (ROOM, 0));
    assert_eq!(program.redirector().clear(), 0);
}

/// Redirected, the tunnel would be copied all the time: its sender is faster.
#[test]
fn a_tunnel_is_redirected_as_soon_as_it_is_held_to_no_rate() {
    let Some((program, loops)) = engine() else { return };
    let flow = Arc::<Flow>::default();
    let rate = crate::rate::Rate::new(1 << 30).ok();
    flow.set_rate(rate);
    let (client, origin, ended) = open_as(&loops, flow.clone());
    (0..100).for_each(|_| hello(&client, &origin));
    assert_eq!(program.redirector().sockets(), 0);
    // Nothing comes that would give it a turn.
    flow.set_rate(None);
    let deadline = std::time::Instant::now() + DEADLINE;
    while program.redirector().sockets() == 0 {
        assert!(std::time::Instant::now() < deadline, "it is not redirected");
    }
    let slots = redirected(&program, &client, &origin);
    // A redirected tunnel stays redirected.
    flow.set_rate(rate);
    let counts = |slot: &u32| program.redirector().directions().counts(*slot).redirected;
    let before: Vec<u64> = slots.iter().map(counts).collect();
    let deadline = std::time::Instant::now() + DEADLINE;
    while slots.iter().map(counts).eq(before.iter().copied()) {
        assert!(std::time::Instant::now() < deadline, "{before:?}");
        hello(&client, &origin);
    }
    drop((client, origin));
    assert!(ended.blocking_recv().is_ok());
}

/// Control: a search unable to find an entry would let the leak test pass.
#[test]
fn what_is_in_the_maps_is_found_there() {
    let Some((program, loops)) = engine() else { return };
    let (mut client, mut origin, _ended) = open(&loops);
    client.write_all(b"up").unwrap();
    origin.read_exact(&mut [0; 2]).unwrap();
    let deadline = std::time::Instant::now() + DEADLINE;
    let mut found = 0;
    while found == 0 {
        assert!(std::time::Instant::now() < deadline, "it is not in the maps");
        found = program.redirector().clear();
    }
    assert!(found <= 4 && program.redirector().sockets() == 2, "{found}");
}

/// A stream not known to be complete is not ended by FIN; both sides receive a reset.
#[test]
fn a_stream_that_misses_a_byte_is_torn_off() {
    let Some((program, loops)) = engine() else { return };
    let directions = program.redirector().directions();
    for sender in 0..2 {
        let (mut client, mut origin, ended) = open(&loops);
        redirected(&program, &client, &origin).iter().for_each(|slot| directions.lose_a_byte(*slot));
        let sides = if sender == 0 { [&mut client, &mut origin] } else { [&mut origin, &mut client] };
        sides[0].write_all(b"lost").unwrap();
        assert_eq!(ended.blocking_recv().unwrap(), Reason::EngineFailed);
        for side in sides {
            assert_eq!(side.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
    }
}

/// As while the opposite direction has more bytes than its source has room for.
#[test]
fn a_direction_that_is_kept_with_userspace_goes_on_and_comes_back() {
    let Some((program, loops)) = engine() else { return };
    let directions = program.redirector().directions();
    let (client, origin, _ended) = open(&loops);
    let slots = redirected(&program, &client, &origin);
    let counts = || slots.iter().map(|slot| directions.counts(*slot)).collect::<Vec<_>>();
    let mut before = counts();
    for redirects in [false, true, false, true] {
        slots.iter().for_each(|slot| directions.enable(*slot, redirects));
        // The next bytes may meet bytes of the step before, passed to userspace but not yet
        // recorded.
        hello(&client, &origin);
        let start = counts();
        let deadline = std::time::Instant::now() + DEADLINE;
        while counts().iter().zip(&start).any(|(now, start)| match redirects {
            true => now.redirected == start.redirected,
            false => now.passed == start.passed,
        }) {
            assert!(std::time::Instant::now() < deadline, "{redirects}: {:?}", counts());
            hello(&client, &origin);
        }
        let after = counts();
        if !redirects {
            assert!(after.iter().zip(&before).all(|(now, before)| now.redirected == before.redirected), "{after:?}");
        }
        before = after;
    }
}

/// Sends a word each way.
fn hello(client: &TcpStream, origin: &TcpStream) {
    for (mut from, mut to) in [(client, origin), (origin, client)] {
        from.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        to.read_exact(&mut word).unwrap();
        assert_eq!(&word, b"hello");
    }
}

/// Waits until both directions of a new tunnel are redirected; returns their slots.
fn redirected(program: &Program, client: &TcpStream, origin: &TcpStream) -> Vec<u32> {
    let counts = |slot| program.redirector().directions().counts(slot);
    let before = slots().map(counts).collect::<Vec<_>>();
    loop {
        hello(client, origin);
        let changed: Vec<u32> = slots().filter(|slot| counts(*slot) != before[*slot as usize]).collect();
        if changed.len() == 2 && changed.iter().all(|slot| counts(*slot).redirected > 0) {
            return changed;
        }
    }
}

fn slots() -> std::ops::Range<u32> {
    0..2 * u32::try_from(ROOM).unwrap()
}

/// As when a tunnel ends on one core and its slot is reused while the program still runs for it on
/// a second core.
#[test]
fn a_segment_never_goes_to_another_tunnel_that_has_the_slot() {
    let Some((program, _loops)) = engine() else { return };
    let pairs = [(pair(), pair()), (pair(), pair())];
    let [(own, own_slot), (other, other_slot)] = [0, 1].map(|number| {
        let ((client, near), (origin, far)) = &pairs[number];
        [client, near, origin, far].iter().for_each(|socket| socket.set_read_timeout(Some(DEADLINE)).unwrap());
        let tunnel = OffloadedTunnel::new(&program, number as u64 + 1, [near, far], &Arc::default()).unwrap();
        let slot = tunnel.first_slot();
        (tunnel, slot)
    });
    let ((client, near), (origin, _)) = &pairs[0];
    let [mut client, mut near, mut origin] = [client, near, origin];
    let (_, (other_origin, _)) = &pairs[1];
    let mut other_origin = other_origin;
    let entry = |tunnel: &OffloadedTunnel, slot: u32| [tunnel.cookies()[0], tunnel.cookies()[1], slot.into()];
    let [[source, ..], right, recycled] = [entry(&own, own_slot), entry(&own, own_slot), entry(&other, other_slot)];
    let half_written = [source, recycled[1], recycled[2]];
    for wrong in [recycled, half_written] {
        program.redirector().forge(source, wrong);
        client.write_all(b"mine").unwrap();
        // The segment stays in the socket, where userspace reads it.
        let mut read = [0; 4];
        near.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"mine");
        assert_eq!(program.redirector().directions().counts(other_slot), Default::default());
    }
    program.redirector().forge(source, right);
    client.write_all(b"on").unwrap();
    origin.read_exact(&mut [0; 2]).unwrap();
    assert_eq!(program.redirector().directions().counts(own_slot).redirected, 2);
    other_origin.set_nonblocking(true).unwrap();
    assert_eq!(other_origin.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop((own, other));
}
