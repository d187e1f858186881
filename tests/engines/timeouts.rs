//! Time-outs depend on the peers alone, with every engine: an idle tunnel, a slow reader and a
//! vanished peer are told apart.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::Signal;
use sluicegate::reason::Reason;

use super::rig::{Ends, Rig, all_engines_over_a_link, all_engines_with};
use crate::support::network::Network;
use crate::support::noise::End;
use crate::support::{Noise, client};

/// Waits for `time`, in tests of elapsed time.
fn pause(time: Duration) {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

/// Sends a byte in each direction.
fn exchange(ends: &Ends) {
    for (from, to) in [(&ends.client, &ends.origin), (&ends.origin, &ends.client)] {
        Noise::new(3).send(from, 1);
        Noise::new(3).expect_exactly(to, 1);
    }
}

/// The slow reader and the other side. The TLS front would buffer for its client, so behind TLS the
/// origin is the slow reader.
fn slow_and_fast<'a>(rig: &Rig, ends: &'a Ends) -> (&'a TcpStream, &'a TcpStream) {
    if rig.is_behind_tls() { (&ends.origin, &ends.client) } else { (&ends.client, &ends.origin) }
}

/// Seconds without activity of the only tunnel, from the API.
fn quiet(rig: &Rig) -> f64 {
    rig.gateway.tunnels()[0]["quiet_seconds"].as_f64().expect("a number")
}

/// The gateway's send buffer holds all bytes and the FIN at once: for a while the engine has
/// nothing to do.
#[test]
fn a_reader_that_never_pauses_keeps_its_tunnel() {
    const LENGTH: usize = 1 << 20;
    const PIECE: usize = 16 << 10;
    all_engines_with(&["--idle-timeout", "2s"], |rig| {
        let ends = rig.tunnel();
        let (slow, fast) = slow_and_fast(rig, &ends);
        set_socket_recv_buffer_size(slow, 64 << 10).expect("a small buffer");
        Noise::new(7).send(fast, LENGTH);
        fast.shutdown(Shutdown::Write).expect("an open stream");
        let mut noise = Noise::new(7);
        for _ in 0..LENGTH / PIECE {
            noise.expect_exactly(slow, PIECE);
            pause(Duration::from_millis(125));
        }
        assert_eq!(client::end_of(slow), End::Clean, "{}", rig.engine);
        slow.shutdown(Shutdown::Write).expect("an open stream");
        assert_eq!(client::end_of(fast), End::Clean, "{}", rig.engine);
        let why = if rig.is_behind_tls() { Reason::ClientClosed } else { Reason::OriginClosed };
        rig.ended(&ends, why);
    });
}

/// A byte arrives between two samples of the gateway, shortly before the limit.
#[test]
fn a_byte_before_the_limit_keeps_a_tunnel_and_its_age_is_told() {
    let between = Duration::from_millis(3_200);
    all_engines_with(&["--idle-timeout", "4s"], |rig| {
        let ends = rig.tunnel();
        exchange(&ends);
        for round in 0..3 {
            let before = Instant::now();
            Noise::new(round).send(&ends.client, 1);
            Noise::new(round).expect_exactly(&ends.origin, 1);
            let after = Instant::now();
            pause(between);
            let asked = Instant::now();
            let quiet = quiet(rig);
            // TCP may delay the acknowledgement.
            let least = asked.duration_since(after).as_secs_f64() - 0.3;
            let most = before.elapsed().as_secs_f64() + 0.01;
            assert!(least <= quiet && quiet <= most, "{}: {quiet} is not in {least}..{most}", rig.engine);
        }
        client::hang_up_both(&ends.client, &ends.origin);
        rig.ended(&ends, Reason::ClientClosed);
    });
}

/// Both peers answer a keepalive probe every second.
#[test]
fn an_answered_probe_is_no_activity() {
    all_engines_with(&["--idle-timeout", "3s", "--user-timeout", "1s"], |rig| {
        let ends = rig.tunnel();
        exchange(&ends);
        assert_eq!(client::end_of(&ends.origin), End::Reset, "{}", rig.engine);
        let line = rig.ended(&ends, Reason::Idle);
        let quiet = line.fraction("quiet_s");
        assert!(quiet >= 3.0, "{}: {}", rig.engine, line.raw);
    });
}

/// The bytes arrive long before the limit; the limit passes before the gateway continues.
#[test]
fn a_gateway_that_stood_still_passes_on_what_came_meanwhile() {
    all_engines_with(&["--idle-timeout", "1s"], |rig| {
        let ends = rig.tunnel();
        exchange(&ends);
        for round in 0..3 {
            rig.gateway.signal(Signal::STOP);
            for (from, seed) in [(&ends.client, 2 * round), (&ends.origin, 2 * round + 1)] {
                assert_eq!(Noise::new(seed).send(from, 1_000), 1_000);
            }
            pause(Duration::from_millis(2_500));
            rig.gateway.signal(Signal::CONT);
            for (to, seed) in [(&ends.origin, 2 * round), (&ends.client, 2 * round + 1)] {
                Noise::new(seed).expect_exactly(to, 1_000);
            }
        }
        client::hang_up_both(&ends.client, &ends.origin);
        rig.settled(&ends, Reason::ClientClosed, 3_001, 3_001);
    });
}

/// A tunnel is reset with bytes left for a slow reader, and their time limit passes before the
/// gateway continues.
#[test]
fn last_bytes_have_their_time_although_the_gateway_stood_still() {
    const LENGTH: usize = 3 << 20;
    all_engines_with(&[], |rig| {
        if rig.is_behind_tls() {
            return;
        }
        let ends = rig.tunnel();
        exchange(&ends);
        set_socket_recv_buffer_size(&ends.client, 64 << 10).expect("a small buffer");
        Noise::new(4).send(&ends.origin, LENGTH);
        client::arrives(&ends.origin);
        client::reset(&ends.origin);
        // Time for the gateway to see the reset, less than the second allowed for the last bytes.
        pause(Duration::from_millis(100));
        rig.gateway.signal(Signal::STOP);
        pause(Duration::from_millis(2_500));
        rig.gateway.signal(Signal::CONT);
        // The gateway's limit passes first, then the reader continues.
        pause(Duration::from_millis(100));
        assert_eq!(Noise::new(4).expect(&ends.client), (LENGTH, End::Reset), "{}", rig.engine);
        rig.ended(&ends, Reason::OriginReset);
    });
}

/// The window stays closed until the kernel probes rarely, then opens by less than a segment: a
/// live reader sends nothing between two probes.
#[test]
fn a_live_reader_with_a_small_window_is_never_given_up() {
    const READERS: usize = 4;
    all_engines_with(&["--user-timeout", "2s"], |rig| {
        let tunnels: Vec<Ends> = (0..READERS).map(|_| rig.tunnel()).collect();
        let readers = || tunnels.iter().map(|ends| slow_and_fast(rig, ends));
        let block = Noise::new(1).take(1 << 20);
        for (slow, fast) in readers() {
            // Less than the window already advertised to the gateway, so that its segments are
            // larger.
            set_socket_recv_buffer_size(slow, 2 << 10).expect("a small buffer");
            [slow, fast].iter().for_each(|socket| socket.set_nonblocking(true).expect("a socket"));
            // Fill the buffers.
            while { fast }.write(&block).is_ok() {}
        }
        for round in 0..2 {
            pause(Duration::from_secs(5));
            for (mut slow, _) in readers() {
                let mut received = 0;
                let end = loop {
                    match slow.read(&mut [0; 4 << 10]) {
                        Ok(bytes) if bytes > 0 => received += bytes,
                        end => break end,
                    }
                };
                let waits = end.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
                assert!(waits && received > 0, "{}, round {round}: {end:?} after {received} bytes", rig.engine);
            }
        }
        pause(Duration::from_secs(2));
        assert_eq!(rig.gateway.tunnels().len(), READERS, "{}", rig.engine);
        for ends in &tunnels {
            client::reset(&ends.client);
            let line = rig.closing_line(ends);
            assert_eq!(line.text("outcome"), Reason::ClientReset.label(), "{}", line.raw);
        }
    });
}

/// Two tunnels: one with a window closed for a while, one without traffic.
#[test]
fn a_peer_that_vanishes_is_found_whatever_it_owed() {
    let Some(network) = Network::new() else { return };
    all_engines_over_a_link(&network, &["--user-timeout", "2s"], |rig| {
        let (silent, stopped) = (rig.tunnel(), rig.tunnel());
        exchange(&silent);
        let (reader, sender) = (&stopped.origin, &stopped.client);
        set_socket_recv_buffer_size(reader, 4 << 10).expect("a small buffer");
        sender.set_nonblocking(true).expect("a socket");
        let block = Noise::new(1).take(1 << 20);
        while { sender }.write(&block).is_ok() {}
        sender.set_nonblocking(false).expect("a socket");
        pause(Duration::from_secs(6));
        assert_eq!(rig.gateway.tunnels().len(), 2, "{}: both answer", rig.engine);
        let vanished = Instant::now();
        for ends in [&silent, &stopped] {
            network.silence(ends.origin.local_addr().expect("an address").port());
        }
        for ends in [&silent, &stopped] {
            rig.ended(ends, Reason::OriginLost);
            eprintln!("{}: given up {:?} after it vanished", rig.engine, vanished.elapsed());
        }
    });
}
