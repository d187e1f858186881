//! Both pollers report the same events for the same sockets.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::poll_source::WAKE;
use super::*;
use crate::relay::tests::pair;
use crate::tunnel::Direction;

const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until the events of a socket, taken together, meet the condition.
fn until<P: Poller>(poller: &mut P, key: Key, condition: impl Fn(Mask) -> bool) {
    let (deadline, mut seen) = (Instant::now() + DEADLINE, 0);
    while !condition(Mask(seen)) {
        assert!(Instant::now() < deadline, "{}: only {seen:#x} of {key:?}", P::ENGINE);
        let mut events = Vec::new();
        poller.wait(Some(DEADLINE), &mut events).unwrap();
        seen |= events.iter().filter(|event| event.key == key).fold(0, |all, event| all | event.mask.0);
    }
}

fn reports<P: Poller>() {
    let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let mut poller = P::new(&wake).unwrap();
    let (one, mut two) = pair();
    let key = Key { tunnel: 5, generation: 3, direction: Direction::ToClient };
    // First the present state, then changes.
    two.write_all(b"x").unwrap();
    poller.watch(&one, key).unwrap();
    until(&mut poller, key, |mask| mask.readable() && mask.writable() && !mask.read_closed());
    (&one).read_exact(&mut [0; 1]).unwrap();
    two.write_all(b"y").unwrap();
    until(&mut poller, key, Mask::readable);
    rustix::net::send(&two, b"!", rustix::net::SendFlags::OOB).unwrap();
    until(&mut poller, key, Mask::urgent);
    two.shutdown(Shutdown::Write).unwrap();
    until(&mut poller, key, |mask| mask.read_closed() && !mask.broken());
    crate::sys::tcp::reset(&two).unwrap();
    until(&mut poller, key, |mask| mask.broken() && mask.writable());

    // A second generation: no more events arrive under the key of the first.
    let (one, mut two) = pair();
    poller.watch(&one, key).unwrap();
    poller.unwatch(&one, key);
    let again = Key { generation: 4, ..key };
    poller.watch(&one, again).unwrap();
    until(&mut poller, again, Mask::writable);
    poller.settle();
    poller.poll_now(&mut Vec::new()).unwrap();
    two.write_all(b"z").unwrap();
    let mut events = Vec::new();
    poller.wait(Some(DEADLINE), &mut events).unwrap();
    assert!(events.iter().all(|event| event.key == again), "{}: {events:?}", P::ENGINE);
}

#[test]
fn everything_is_reported_by_both() {
    reports::<Epoll>();
    reports::<Uring>();
}

fn wakes<P: Poller>() {
    let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    let mut poller = P::new(&wake).unwrap();
    for _ in 0..3 {
        rustix::io::write(&wake, &1_u64.to_ne_bytes()).unwrap();
        let start = Instant::now();
        poller.wait(Some(DEADLINE), &mut Vec::new()).unwrap();
        assert!(start.elapsed() < DEADLINE, "{}: a write did not wake it", P::ENGINE);
    }
}

#[test]
fn each_write_to_the_eventfd_wakes_though_nobody_reads_it() {
    wakes::<Epoll>();
    wakes::<Uring>();
}

#[test]
fn a_released_socket_is_closed_for_good_when_its_poller_has_settled() {
    fn closes<P: Poller>() {
        let wake = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
        let mut poller = P::new(&wake).unwrap();
        let (one, mut two) = pair();
        let key = Key { tunnel: 1, generation: 0, direction: Direction::ToOrigin };
        poller.watch(&one, key).unwrap();
        until(&mut poller, key, Mask::writable);
        poller.release(&one, key);
        poller.settle();
        drop(one);
        two.set_read_timeout(Some(DEADLINE)).unwrap();
        assert_eq!(two.read(&mut [0; 1]).unwrap(), 0, "{}", P::ENGINE);
    }
    closes::<Epoll>();
    closes::<Uring>();
}

#[test]
fn a_key_survives_the_kernel() {
    for key in [
        Key { tunnel: 1, generation: 0, direction: Direction::ToOrigin },
        Key { tunnel: (1 << 54) - 1, generation: 255, direction: Direction::ToClient },
    ] {
        assert_eq!(Key::unpack(key.pack()), key);
        assert_ne!(key.pack(), WAKE);
    }
}
