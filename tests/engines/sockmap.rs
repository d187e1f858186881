//! Further tests of the engine `sockmap`, each named for one pitfall.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
use rustix::process::Signal;
use sluicegate::metrics;
use sluicegate::reason::Reason;
use sluicegate::relay::Engine;
use sluicegate::sys::capabilities::{FOR_BPF, missing};

use super::rig::{Ends, Rig, crowd, over_a_link};
use crate::support::forger::{FIN, Forger};
use crate::support::kernel_log::KernelLog;
use crate::support::network::Network;
use crate::support::noise::End;
use crate::support::process::{peak_memory, program, shared_descriptors};
use crate::support::skipped::skipped;
use crate::support::stranger::Stranger;
use crate::support::{Gateway, Noise, Origin, Setup, client, connect, eventually};

const MIB: usize = 1 << 20;

/// Directions copied by userspace for a while because of a slow reader.
const TAKEN_OVER: &[&str] = &["sockmap", "copy", "backlog"];

/// Returns true if this process may start the engine.
fn possible() -> bool {
    let missing = missing(FOR_BPF);
    if !missing.is_empty() {
        skipped(&format!("the engine sockmap needs {}", missing.join(" and ")));
    }
    missing.is_empty()
}

/// Sends a byte each way and waits for the hand-off to the kernel: the worker then waits only for
/// the ends of both sockets.
fn redirected(rig: &Rig, ends: &Ends) {
    for (from, to) in [(&ends.client, &ends.origin), (&ends.origin, &ends.client)] {
        Noise::new(3).send(from, 1);
        Noise::new(3).expect_exactly(to, 1);
    }
    let only_ends = |line: &str| {
        let mask = line.strip_prefix("tfd:")?.split("events:").nth(1)?.split_whitespace().next()?;
        let mask = u32::from_str_radix(mask, 16).ok()?;
        // EPOLLRDHUP without EPOLLIN.
        Some(mask & 0x2001 == 0x2000)
    };
    eventually("the kernel redirects", || {
        let files = std::fs::read_dir(format!("/proc/{}/fdinfo", rig.gateway.pid())).expect("a process of ours");
        let texts = files.flatten().filter_map(|file| std::fs::read_to_string(file.path()).ok());
        texts.map(|text| text.lines().filter_map(only_ends).filter(|only| *only).count()).sum::<usize>() == 2
    });
}

fn with_backlog(backlog: &str) -> Rig {
    Rig::with(Engine::Sockmap, Setup::new(&["--sockmap-backlog", backlog]))
}

/// Speed of a reader.
#[derive(Clone, Copy)]
enum Pace {
    /// Everything at once, in pieces of any size, with an occasional pause.
    Sprint,
    /// A few bytes at a time.
    Crawl,
}

/// Receives a stream and its FIN, comparing every byte.
fn receive(from: &TcpStream, seed: u64, length: usize, pace: Pace) {
    let (mut noise, mut random, mut left) = (Noise::new(seed), Noise::new(seed ^ 0x5eed), length);
    while left > 0 {
        let most = match pace {
            Pace::Sprint => 1 + random.below(2 << 20),
            Pace::Crawl => 1 + random.below(32 << 10),
        };
        let piece = left.min(usize::try_from(most).expect("a small number"));
        noise.expect_exactly(from, piece);
        left -= piece;
        if random.below(4) == 0 {
            // Not a wait for a condition: a pausing reader is the subject of the test.
            thread::park_timeout(Duration::from_micros(random.below(2_000)));
        }
    }
    assert_eq!(client::end_of(from), End::Clean);
}

/// Sends a stream in pieces of any size, and its FIN.
fn send(mut to: &TcpStream, seed: u64, length: usize) {
    let (mut noise, mut random, mut left) = (Noise::new(seed), Noise::new(seed ^ 0xb1a5), length);
    while left > 0 {
        let most = [100, 5_000, 300_000][usize::try_from(random.below(3)).expect("below three")];
        let piece = left.min(1 + usize::try_from(random.below(most)).expect("a small number"));
        to.write_all(&noise.take(piece)).expect("the gateway reads");
        left -= piece;
    }
    to.shutdown(Shutdown::Write).expect("an open stream");
}

/// Sends in both directions at once, each to a reader of its own speed.
fn exchange(ends: &Ends, seed: u64, lengths: [usize; 2], paces: [Pace; 2]) {
    let Ends { client, origin, .. } = ends;
    thread::scope(|scope| {
        scope.spawn(|| send(client, seed, lengths[0]));
        scope.spawn(|| send(origin, seed + 1, lengths[1]));
        scope.spawn(|| receive(client, seed + 1, lengths[1], paces[1]));
        receive(origin, seed, lengths[0], paces[0]);
    });
}

/// Guards against missing backpressure, and against lost, repeated or reordered bytes at a change
/// between kernel and userspace.
#[test]
fn a_direction_changes_hands_two_thousand_times_and_every_byte_arrives() {
    if !possible() {
        return;
    }
    let mut kernel = KernelLog::from_now();
    let rig = with_backlog("64KiB");
    crowd(1_000, |origin, number| {
        if rig.gateway.metric(&metrics::ENGINE_FALLBACKS, TAKEN_OVER) >= 2_000 {
            return;
        }
        let seed = number * 10;
        let paces = [[Pace::Sprint, Pace::Crawl], [Pace::Crawl, Pace::Sprint]][usize::from(number % 2 == 0)];
        let ends = rig.tunnel_to(origin, &Noise::new(seed + 5).take(5_000));
        Noise::new(seed + 5).expect_exactly(&ends.origin, 5_000);
        exchange(&ends, seed, [3 * MIB, 2 * MIB], paces);
        let line = rig.closing_line(&ends);
        let moved = (line.number("to_origin"), line.number("to_client"));
        assert_eq!(moved, (3 * MIB as u64 + 5_000, 2 * MIB as u64), "{}", line.raw);
    });
    let taken_over = rig.gateway.metric(&metrics::ENGINE_FALLBACKS, TAKEN_OVER);
    assert!(taken_over >= 2_000, "directions changed hands {taken_over} times");
    kernel.holds_no_complaint();
}

/// Guards against a stopped reader swallowing a gigabyte, and against one stopped reader blocking
/// both directions, since the kernel queues both one behind the other.
#[test]
fn a_reader_that_stops_costs_little_and_does_not_hold_up_the_other_way() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Engine::Sockmap);
    for stops in [0, 1] {
        let ends = rig.tunnel();
        let (stopped, sender) = if stops == 0 { (&ends.client, &ends.origin) } else { (&ends.origin, &ends.client) };
        // Small buffers at the peers: their contents do not count for the gateway.
        set_socket_recv_buffer_size(stopped, 64 << 10).expect("a small buffer");
        set_socket_send_buffer_size(sender, 64 << 10).expect("a small buffer");
        sender.set_nonblocking(true).expect("a socket");
        let mut noise = Noise::new(1);
        let mut sent = Vec::new();
        let mut total = 0;
        let mut quiet = 0;
        // Until the sender stalls for longer than any action of the gateway takes.
        while quiet < 300 {
            if sent.is_empty() {
                sent = noise.take(MIB);
            }
            match { sender }.write(&sent) {
                Ok(taken) => {
                    sent.drain(..taken);
                    total += taken;
                    quiet = 0;
                }
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    thread::park_timeout(Duration::from_millis(1));
                    quiet += 1;
                }
            }
            assert!(total <= 64 * MIB, "{total} bytes were swallowed for a reader that stopped");
        }
        sender.set_nonblocking(false).expect("a socket");
        // The other direction, far beyond the backlog, while this one is stopped.
        thread::scope(|scope| {
            scope.spawn(|| send(stopped, 7, 80 * MIB));
            receive(sender, 7, 80 * MIB, Pace::Sprint);
        });
        thread::scope(|scope| {
            scope.spawn(|| {
                { sender }.write_all(&sent).expect("the gateway reads again");
                sender.shutdown(Shutdown::Write).expect("an open stream");
            });
            receive(stopped, 1, total + sent.len(), Pace::Sprint);
        });
        let line = rig.closing_line(&ends);
        assert_eq!(line.number("to_origin") + line.number("to_client"), (80 * MIB + total + sent.len()) as u64);
    }
}

/// A block sent repeatedly; its length is prime.
struct Repeated(Vec<u8>);

impl Repeated {
    fn new() -> Self {
        Self(Noise::new(5).take(1_048_573))
    }

    fn at(&self, place: usize) -> &[u8] {
        &self.0[place % self.0.len()..]
    }

    /// Sends until the socket accepts nothing for longer than any action of the gateway takes;
    /// returns the number of bytes sent.
    fn send_what_is_taken(&self, mut to: &TcpStream) -> usize {
        let (mut sent, mut quiet) = (0, 0);
        to.set_nonblocking(true).expect("a socket");
        while quiet < 500 {
            match to.write(self.at(sent)) {
                Ok(taken) => (sent, quiet) = (sent + taken, 0),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                    thread::park_timeout(Duration::from_millis(1));
                    quiet += 1;
                }
            }
        }
        to.set_nonblocking(false).expect("a socket");
        sent
    }

    fn expect(&self, mut from: &TcpStream, length: usize) {
        let (mut place, mut bytes) = (0, vec![0; MIB]);
        while place < length {
            let expected = self.at(place);
            let most = expected.len().min(length - place).min(MIB);
            let got = from.read(&mut bytes[..most]).expect("more bytes");
            assert!(got > 0 && bytes[..got] == expected[..got], "after {place} of {length} bytes");
            place += got;
        }
    }
}

/// Each tunnel has a share of the process memory; once the share is used up, its sender waits.
#[test]
fn many_stopped_readers_cost_no_more_memory_than_their_bound() {
    const READERS: usize = 24;
    const BOUND: u64 = 64 << 20;
    if !possible() {
        return;
    }
    let rig = Rig::new(Engine::Sockmap);
    let block = Repeated::new();
    let tunnels: Vec<_> = (0..READERS).map(|_| rig.tunnel()).collect();
    let before = peak_memory(rig.gateway.pid());
    let spilled = || rig.gateway.metric(&metrics::SOCKMAP_SPILLED_BYTES, &[]);
    let sent: Vec<usize> = thread::scope(|scope| {
        let sending: Vec<_> =
            tunnels.iter().map(|ends| scope.spawn(|| block.send_what_is_taken(&ends.origin))).collect();
        sending.into_iter().map(|sending| sending.join().expect("it does not panic")).collect()
    });
    let (now, most) = (spilled(), peak_memory(rig.gateway.pid()) - before);
    eprintln!(
        "{} MiB were taken, {} MiB spilled, {} MiB of memory",
        sent.iter().sum::<usize>() / MIB,
        now >> 20,
        most / MIB
    );
    assert!(now > 0 && now <= BOUND, "{now} bytes are spilled");
    // The rest of its memory does not depend on the readers.
    assert!(most < (BOUND as usize) * 2, "{most} bytes of memory");
    thread::scope(|scope| {
        for (ends, sent) in tunnels.iter().zip(&sent) {
            let block = &block;
            scope.spawn(move || {
                block.expect(&ends.client, *sent);
                client::hang_up_both(&ends.origin, &ends.client);
            });
        }
    });
    for (ends, sent) in tunnels.iter().zip(&sent) {
        assert_eq!(rig.ended(ends, Reason::OriginClosed).number("to_client"), *sent as u64);
    }
    assert_eq!(spilled(), 0);
}

/// Sends 30 MiB each way, one at a time: beyond the backlog, userspace takes over the direction of
/// a slow reader.
fn thirty_each_way(ends: &Ends) {
    for round in 0..30 {
        for (from, to) in [(&ends.client, &ends.origin), (&ends.origin, &ends.client)] {
            thread::scope(|scope| {
                scope.spawn(|| assert_eq!(Noise::new(round).send(from, MIB), MIB));
                Noise::new(round).expect_exactly(to, MIB);
            });
        }
    }
}

/// Only this engine continues while the gateway is stopped.
#[test]
fn bytes_go_on_while_the_gateway_stands_still() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Engine::Sockmap);
    let ends = rig.tunnel();
    redirected(&rig, &ends);
    rig.gateway.signal(Signal::STOP);
    thirty_each_way(&ends);
    rig.gateway.signal(Signal::CONT);
    client::hang_up_both(&ends.client, &ends.origin);
    rig.settled(&ends, Reason::ClientClosed, 30 * MIB + 1, 30 * MIB + 1);
}

/// The engine continues even without the gateway, while another process holds its sockets and maps.
#[test]
fn bytes_go_on_when_the_gateway_is_killed() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new(Engine::Sockmap);
    let ends = rig.tunnel();
    redirected(&rig, &ends);
    let held = shared_descriptors(rig.gateway.pid());
    rig.gateway.signal(Signal::KILL);
    rig.gateway.wait();
    thirty_each_way(&ends);
    // These descriptors keep the redirection alive.
    drop(held);
    for end in [&ends.client, &ends.origin] {
        client::end_of(end);
    }
}

/// Guards against replay of a half-read segment as a whole, with the credentials in it.
#[test]
fn credentials_never_reach_an_origin() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Engine::Sockmap);
    crowd(500, |origin, seed| {
        let early = Noise::new(seed).take(1 + usize::try_from(seed * 37 % 9_000).expect("a small number"));
        let ends = rig.tunnel_to(origin, &early);
        Noise::new(seed + 1_000).send(&ends.client, 20_000);
        ends.client.shutdown(Shutdown::Write).expect("an open stream");
        let mut seen = Vec::new();
        Read::read_to_end(&mut &ends.origin, &mut seen).expect("a clean end");
        for word in [&b"CONNECT"[..], b"Authorization", b"Basic", b"HTTP/1.1"] {
            assert!(!seen.windows(word.len()).any(|at| at == word), "seed {seed}: {}", seen.escape_ascii());
        }
        assert!(seen == [early, Noise::new(seed + 1_000).take(20_000)].concat(), "seed {seed}: other bytes");
        ends.origin.shutdown(Shutdown::Write).expect("an open stream");
    });
}

/// Live counts come from the BPF program; the gateway is not told of redirected bytes.
#[test]
fn what_is_redirected_is_counted_while_it_is() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Engine::Sockmap);
    let ends = rig.tunnel();
    redirected(&rig, &ends);
    eventually("the tunnel is listed", || rig.gateway.tunnels().len() == 1);
    for round in 1..=3_u64 {
        Noise::new(round).send(&ends.client, 100_000);
        Noise::new(round).expect_exactly(&ends.origin, 100_000);
        let wanted = round * 100_000 + 1;
        let live = rig.gateway.tunnels().pop().expect("a tunnel");
        assert_eq!(live["bytes_to_origin"], wanted, "{live}");
        assert_eq!(rig.gateway.metric(&metrics::BYTES, &["to_origin", "sockmap"]), wanted);
    }
    let by = |who| rig.gateway.metric(&metrics::SOCKMAP_SECONDS, &[who]);
    eventually("its time is counted", || by("kernel") > 0);
}

/// Every thread drops its capabilities once the program is loaded, and a gateway without the
/// capabilities names the remedy.
#[test]
fn capabilities_are_gone_and_without_them_it_says_which() {
    if !possible() {
        return;
    }
    let rig = Rig::new(Engine::Sockmap);
    let ends = rig.tunnel();
    redirected(&rig, &ends);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", rig.gateway.pid())).expect("a process of ours");
    let mut threads = 0;
    for task in tasks {
        let status = std::fs::read_to_string(task.expect("a thread").path().join("status")).expect("its status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        threads += 1;
    }
    assert!(threads >= 4, "{threads}");
    let Some(stranger) = Stranger::new() else { return };
    let with = |capabilities: &[&str], engines| {
        let wrapper = stranger.wrapper_with(capabilities, "true");
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        Setup::new(&["--no-auth", "--engine", engines]).under(&wrapper)
    };
    let all: Vec<&str> = FOR_BPF.iter().map(|(name, _)| *name).collect();
    let mut cases = vec![(vec![], all.join(" and "))];
    cases.extend(all.iter().map(|one| (all.iter().copied().filter(|other| other != one).collect(), (*one).to_owned())));
    for (capabilities, missing) in cases {
        let refused = with(&capabilities, "sockmap").refused();
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.err.contains(&format!("without {missing}: run as root")), "{refused:?}");
    }
    let enough = with(&all, "sockmap").start();
    assert_eq!(enough.log_line("listening", |line| line.message() == "listening").text("engine"), "sockmap");
    let other = with(&[], "sockmap,splice").start();
    assert_eq!(other.metric(&metrics::ENGINE_FALLBACKS, &["sockmap", "splice", "not_permitted"]), 1);
}

/// TCP repeats lost packets, in both directions of both legs.
#[test]
fn over_a_link_that_loses_packets_every_byte_arrives() {
    if !possible() {
        return;
    }
    let Some(network) = Network::new() else { return };
    let mut kernel = KernelLog::from_now();
    for (loss, backlog) in [(None, "16MiB"), (Some(50), "16MiB"), (Some(50), "256KiB")] {
        if let Some(packets) = loss {
            network.lose_one_in(packets);
        }
        over_a_link(&network, &["--sockmap-backlog", backlog], |rig| {
            for (seed, paces) in [(10, [Pace::Sprint, Pace::Crawl]), (20, [Pace::Crawl, Pace::Sprint])] {
                let ends = rig.tunnel_with(&Noise::new(seed + 5).take(3_000));
                for end in [&ends.client, &ends.origin] {
                    set_socket_recv_buffer_size(end, 32 << 10).expect("a small buffer");
                }
                Noise::new(seed + 5).expect_exactly(&ends.origin, 3_000);
                exchange(&ends, seed, [2 * MIB, MIB], paces);
                let line = rig.closing_line(&ends);
                let moved = (line.number("to_origin"), line.number("to_client"));
                assert_eq!(moved, (2 * MIB as u64 + 3_000, MIB as u64), "{}", line.raw);
            }
        });
    }
    kernel.holds_no_complaint();
}

/// The program redirects whole segments, even partly received ones: a sender may cut a
/// retransmission anywhere (RFC 9293, 3.8).
#[test]
fn what_comes_twice_goes_on_once() {
    if !possible() {
        return;
    }
    let Some(network) = Network::new() else { return };
    over_a_link(&network, &[], |rig| {
        let ends = rig.tunnel();
        redirected(rig, &ends);
        let mut forger = Forger::of(&ends.client);
        let stream = Noise::new(9).take(200_000);
        let sent = 50_000;
        let mut read = Noise::new(9);
        (&ends.client).write_all(&stream[..sent]).expect("the gateway reads");
        read.expect_exactly(&ends.origin, sent);
        forger.catch_up();
        let mut at = sent;
        // The last lengths exceed the program's limit for bytes removed at once.
        for (old, new) in
            [(1, 1), (100, 900), (900, 1), (1, 900), (4_095, 1), (4_096, 100), (40_000, 1_000), (50_000, 9_000)]
        {
            forger.send(old, &stream[at - old..at + new], 0);
            read.expect_exactly(&ends.origin, new);
            at += new;
        }
        // The client's own kernel has sent less, and repeats known bytes.
        (&ends.client).write_all(&stream[sent..]).expect("the gateway reads");
        read.expect_exactly(&ends.origin, stream.len() - at);
        forger.catch_up();
        // Only the FIN is new.
        forger.send(1_000, &stream[stream.len() - 1_000..], FIN);
        assert_eq!(client::end_of(&ends.origin), End::Clean);
        client::hang_up_both(&ends.client, &ends.origin);
        rig.settled(&ends, Reason::ClientClosed, stream.len() + 1, 1);
    });
}

/// A segment filling a hole delivers everything behind it, FIN included; the FIN is reported before
/// the program has seen a byte of that data.
#[test]
fn an_end_behind_a_hole_comes_behind_what_fills_it() {
    const SEGMENT: usize = 100;
    if !possible() {
        return;
    }
    let Some(network) = Network::new() else { return };
    over_a_link(&network, &[], |rig| {
        for seed in 0..100 {
            let ends = rig.tunnel();
            redirected(rig, &ends);
            // The other stream has ended, so this FIN ends the connection.
            ends.origin.shutdown(Shutdown::Write).expect("an open stream");
            assert_eq!(client::end_of(&ends.client), End::Clean);
            let mut forger = Forger::of(&ends.client);
            Noise::new(seed).send(&ends.client, 1);
            Noise::new(seed).expect_exactly(&ends.origin, 1);
            forger.catch_up();
            forger.send_the_first_last(&Noise::new(seed + 1).take(600 * SEGMENT), SEGMENT);
            assert_eq!(Noise::new(seed + 1).expect(&ends.origin), (600 * SEGMENT, End::Clean), "seed {seed}");
            rig.settled(&ends, Reason::OriginClosed, 600 * SEGMENT + 2, 1);
        }
    });
}

/// A vanished peer sends neither FIN nor reset.
#[test]
fn a_peer_that_vanishes_is_found() {
    if !possible() {
        return;
    }
    let Some(network) = Network::new() else { return };
    over_a_link(&network, &["--user-timeout", "1s"], |rig| {
        let ends = rig.tunnel();
        redirected(rig, &ends);
        network.silence(ends.origin.local_addr().expect("an address").port());
        assert_eq!(Noise::new(1).send(&ends.client, 1_000), 1_000);
        assert_eq!(client::end_of(&ends.client), End::Reset);
        assert_eq!(rig.ended(&ends, Reason::OriginLost).number("to_origin"), 1_001);
    });
}

/// A redirected direction with a rate limit would be copied all the time, since its sender is
/// faster; and it must not start before its rate is set.
#[test]
fn what_is_held_to_a_rate_is_not_redirected() {
    if !possible() {
        return;
    }
    let gateway = Gateway::open(&["--engine", "sockmap", "--rate", "1GiB"]);
    let origin = Origin::echo();
    let tunnels = 100;
    for _ in 0..tunnels {
        let mut stream = connect(gateway.address, origin.address);
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut [0; 5]).unwrap();
    }
    gateway.wait_for_metric(&metrics::ENGINE_FALLBACKS, &["sockmap", "splice", "rate"], tunnels);
}

#[test]
fn real_programs_go_through_it() {
    if !possible() || program("curl", "curl").is_none() {
        return;
    }
    let gateway = Gateway::open(&["--engine", "sockmap"]);
    let origin = Origin::http("through the kernel");
    let mut curl = std::process::Command::new("curl");
    let (proxy, target) = (format!("http://{}", gateway.address), format!("http://{}/", origin.address));
    curl.args(["--silent", "--proxytunnel", "--proxy", &proxy, &target]);
    let outcome = crate::support::process::run(curl, b"");
    assert_eq!((outcome.code, outcome.out.as_str()), (Some(0), "through the kernel"), "{outcome:?}");
}
