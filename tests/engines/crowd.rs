//! Thousands of concurrent tunnels ending in every way at any moment.

use std::net::{Shutdown, TcpStream};
use std::thread;

use sluicegate::metrics;
use sluicegate::relay::Engine;

use super::rig::{self, Ends, Rig};
use crate::support::gateway::engines;
use crate::support::kernel_log::KernelLog;
use crate::support::noise::End;
use crate::support::process::{descriptors, sees_descriptors};
use crate::support::{Noise, client, eventually};

const TUNNELS: u64 = 2_000;
const LARGEST: u64 = 256 << 10;

/// End of a side's own stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Sends everything, then FIN.
    Clean,
    /// Waits for the other side's FIN, then sends everything and FIN.
    Last,
    /// Sends this many bytes, then resets.
    Reset(usize),
}

/// Course of one tunnel, determined by its seed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    seed: u64,
    lengths: [usize; 2],
    endings: [Ending; 2],
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut random = Noise::new(seed);
        let mut length = || usize::try_from(random.below(LARGEST)).expect("a small number");
        let lengths = [length(), length()];
        let cut = length();
        let mut endings = [Ending::Clean; 2];
        let side = usize::from(random.below(2) == 1);
        match random.below(5) {
            0 | 1 => {}
            2 => endings[side] = Ending::Last,
            _ => endings[side] = Ending::Reset(cut.min(lengths[side])),
        }
        Self { seed, lengths, endings }
    }

    /// The resetting side.
    fn breaks(&self) -> Option<usize> {
        self.endings.iter().position(|ending| matches!(ending, Ending::Reset(_)))
    }
}

/// Received bytes, all correct, and the end of the stream.
type Seen = (usize, End);

/// Plays one side of the plan.
fn play(plan: &Plan, side: usize, stream: &TcpStream) -> Seen {
    let (length, noise) = (plan.lengths[side], || Noise::new(2 * plan.seed + side as u64));
    let mut other = Noise::new(2 * plan.seed + 1 - side as u64);
    match plan.endings[side] {
        Ending::Reset(cut) => {
            noise().send(stream, cut);
            client::reset(stream);
            (0, End::Reset)
        }
        Ending::Last => {
            let seen = other.expect(stream);
            send(stream, noise(), length);
            seen
        }
        Ending::Clean => thread::scope(|scope| {
            let sending = scope.spawn(|| send(stream, noise(), length));
            let (got, end) = other.expect(stream);
            // The kernel reports an error once, to the first call.
            let whole = sending.join().expect("it does not panic");
            (got, if whole { end } else { End::Reset })
        }),
    }
}

/// Sends everything and FIN; false if the stream broke before.
fn send(stream: &TcpStream, mut noise: Noise, length: usize) -> bool {
    noise.send(stream, length) == length && stream.shutdown(Shutdown::Write).is_ok()
}

fn check(plan: &Plan, rig: &Rig, ends: &Ends, seen: [Seen; 2]) {
    let line = rig.closing_line(ends);
    let counted = ["to_origin", "to_client"].map(|way| usize::try_from(line.number(way)).expect("few bytes"));
    let Some(breaks) = plan.breaks() else {
        // Each side received the other's whole stream.
        assert_eq!(seen, [(plan.lengths[1], End::Clean), (plan.lengths[0], End::Clean)], "{plan:?}");
        assert_eq!(counted, plan.lengths, "{plan:?} {}", line.raw);
        assert!(["client_closed", "origin_closed"].contains(&line.text("outcome")), "{plan:?} {}", line.raw);
        return;
    };
    let hears = 1 - breaks;
    let (got, end) = seen[hears];
    assert_eq!(end, End::Reset, "{plan:?} {}", line.raw);
    let Ending::Reset(cut) = plan.endings[breaks] else { unreachable!("it breaks") };
    assert!(got <= counted[breaks] && counted[breaks] <= cut, "{plan:?}: {got} received, {}", line.raw);
    assert!(counted[hears] <= plan.lengths[hears], "{plan:?} {}", line.raw);
    assert_eq!(line.text("outcome"), ["client_reset", "origin_reset"][breaks], "{plan:?} {}", line.raw);
}

fn crowd(engine: Engine) {
    crowd_of(TUNNELS / 2, engine);
}

fn crowd_of(tunnels: u64, engine: Engine) {
    let rig = Rig::new(engine);
    let before = sees_descriptors().then(|| descriptors(rig.gateway.pid()));
    rig::crowd(tunnels, |origin, seed| {
        let plan = Plan::new(seed + 1_000_000 * engine as u64);
        let ends = rig.tunnel_to(origin, b"");
        let seen = thread::scope(|scope| {
            let client = scope.spawn(|| play(&plan, 0, &ends.client));
            let origin = play(&plan, 1, &ends.origin);
            [client.join().expect("the client's side is right"), origin]
        });
        check(&plan, &rig, &ends, seen);
    });
    let lines = |way| rig.gateway.log.sum(way, |line| line.message() == "tunnel closed");
    let sums = (lines("to_origin"), lines("to_client"));
    assert_eq!(rig.counters(), (sums, sums));
    assert_eq!(rig.gateway.metric(&metrics::TUNNELS, &[engine.label(), ""]), tunnels);
    assert_eq!(rig.gateway.metric(&metrics::TUNNELS_ACTIVE, &[engine.label()]), 0);
    if let Some(before) = before {
        let held = || descriptors(rig.gateway.pid());
        eventually("the descriptors are given back, and the pipes for the next burst soon after", || held() <= before);
    }
}

#[test]
fn uring_in_a_crowd() {
    crowd(Engine::Uring);
}

#[test]
fn splice_in_a_crowd() {
    crowd(Engine::Splice);
}

/// Random bursts around the hand-off to the kernel, a place of lost bytes in the past.
#[test]
fn sockmap_in_a_crowd() {
    if engines().contains(&Engine::Sockmap) {
        let mut kernel = KernelLog::from_now();
        crowd_of(5 * TUNNELS / 2, Engine::Sockmap);
        kernel.holds_no_complaint();
    }
}

#[test]
fn copy_in_a_crowd() {
    crowd(Engine::Copy);
}

/// Also after a transfer: an engine returns its borrowed pipes.
#[test]
fn an_idle_tunnel_costs_two_descriptors() {
    const TUNNELS: usize = 200;
    if !sees_descriptors() {
        return;
    }
    for &engine in engines() {
        let rig = Rig::new(engine);
        let before = descriptors(rig.gateway.pid());
        let tunnels: Vec<Ends> = (0..TUNNELS).map(|_| rig.tunnel()).collect();
        for Ends { client, origin, .. } in &tunnels {
            Noise::new(1).send(client, 100_000);
            Noise::new(1).expect_exactly(origin, 100_000);
        }
        let held = || descriptors(rig.gateway.pid());
        // The pool of pipes kept for the next burst has shrunk. The count may be lower: an admin
        // connection about to close may be in the first count.
        eventually("two are held for each tunnel", || held() <= before + 2 * TUNNELS);
        drop(tunnels);
        eventually("all are given back", || held() <= before);
    }
}
