//! Streams delivered whole.

use std::net::{Shutdown, TcpStream};
use std::thread;

use sluicegate::reason::Reason;

use super::rig::{Ends, each_engine_and_loss};
use crate::support::noise::End;
use crate::support::{Noise, client, eventually};

const MIB: usize = 1 << 20;

/// Sends a stream and its FIN.
fn send_whole(to: &TcpStream, seed: u64, length: usize) {
    assert_eq!(Noise::new(seed).send(to, length), length);
    to.shutdown(Shutdown::Write).expect("an open stream");
}

/// Receives exactly the expected stream and its FIN.
fn receive_whole(from: &TcpStream, seed: u64, length: usize) {
    assert_eq!(Noise::new(seed).expect(from), (length, End::Clean));
}

/// Sends in both directions at once.
fn exchange(ends: &Ends, up: usize, down: usize) {
    let Ends { client, origin, .. } = ends;
    thread::scope(|scope| {
        scope.spawn(|| send_whole(client, 1, up));
        scope.spawn(|| send_whole(origin, 2, down));
        scope.spawn(|| receive_whole(client, 2, down));
        receive_whole(origin, 1, up);
    });
}

#[test]
fn bytes_in_the_segment_of_the_head() {
    each_engine_and_loss(|rig| {
        // Lengths around the gateway's first read of 1 KiB, its head limit of 16 KiB, and far
        // beyond.
        for length in [1, 900, 1_024, 5_000, 16 << 10, MIB] {
            let ends = rig.tunnel_with(&Noise::new(7).take(length));
            Noise::new(7).expect_exactly(&ends.origin, length);
            // No byte arrives twice.
            client::hang_up_both(&ends.client, &ends.origin);
            rig.settled(&ends, Reason::ClientClosed, length, 0);
        }
    });
}

#[test]
fn one_byte_each_way() {
    each_engine_and_loss(|rig| {
        let ends = rig.tunnel();
        Noise::new(1).send(&ends.client, 1);
        Noise::new(1).expect_exactly(&ends.origin, 1);
        Noise::new(2).send(&ends.origin, 1);
        Noise::new(2).expect_exactly(&ends.client, 1);
        client::hang_up_both(&ends.origin, &ends.client);
        rig.settled(&ends, Reason::OriginClosed, 1, 1);
    });
}

#[test]
fn not_a_byte() {
    each_engine_and_loss(|rig| {
        let ends = rig.tunnel();
        client::hang_up_both(&ends.client, &ends.origin);
        rig.settled(&ends, Reason::ClientClosed, 0, 0);
    });
}

/// A client half-closes after its first bytes, before the answer.
#[test]
fn the_end_of_the_client_before_its_answer() {
    each_engine_and_loss(|rig| {
        for length in [0, 1, 5_000] {
            let ends = rig.tunnel_ended_early(&Noise::new(7).take(length));
            receive_whole(&ends.origin, 7, length);
            send_whole(&ends.origin, 8, MIB);
            receive_whole(&ends.client, 8, MIB);
            rig.settled(&ends, Reason::ClientClosed, length, MIB);
        }
    });
}

/// The FIN arrives together with the bytes, and both before the hand-off to an engine.
#[test]
fn a_few_words_and_an_end() {
    each_engine_and_loss(|rig| {
        let greeting = rig.another_origin().serve(|stream| send_whole(&stream, 9, 25));
        for _ in 0..200 {
            let stream = rig.client_of(greeting.address);
            receive_whole(&stream, 9, 25);
        }
    });
}

#[test]
fn many_mebibytes_each_way_at_once() {
    each_engine_and_loss(|rig| {
        let ends = rig.tunnel();
        exchange(&ends, 64 * MIB, 64 * MIB);
        let line = rig.closing_line(&ends);
        // Either direction may end first.
        let why = if line.text("by") == "client" { Reason::ClientClosed } else { Reason::OriginClosed };
        rig.settled(&ends, why, 64 * MIB, 64 * MIB);
    });
}

#[test]
fn one_way_goes_on_after_the_other_has_ended() {
    each_engine_and_loss(|rig| {
        let ends = rig.tunnel();
        send_whole(&ends.client, 1, 3 * MIB);
        receive_whole(&ends.origin, 1, 3 * MIB);
        thread::scope(|scope| {
            scope.spawn(|| send_whole(&ends.origin, 2, 9 * MIB));
            receive_whole(&ends.client, 2, 9 * MIB);
        });
        rig.settled(&ends, Reason::ClientClosed, 3 * MIB, 9 * MIB);

        let ends = rig.tunnel();
        ends.origin.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client::end_of(&ends.client), End::Clean);
        thread::scope(|scope| {
            scope.spawn(|| send_whole(&ends.client, 3, 9 * MIB));
            receive_whole(&ends.origin, 3, 9 * MIB);
        });
        rig.settled(&ends, Reason::OriginClosed, 9 * MIB, 0);
    });
}

#[test]
fn a_slow_reader_gets_every_byte() {
    const LENGTH: usize = 8 * MIB;
    each_engine_and_loss(|rig| {
        for (up, down) in [(LENGTH, 0), (0, LENGTH)] {
            let ends = rig.tunnel();
            let (sender, reader) = if up > 0 { (&ends.client, &ends.origin) } else { (&ends.origin, &ends.client) };
            // A window of a few segments (64 KiB segments on loopback; with a smaller window TCP
            // waits for timers), read in small pieces: the gateway runs out of room again and
            // again.
            socket2::SockRef::from(reader).set_recv_buffer_size(128 << 10).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| send_whole(sender, 5, LENGTH));
                let mut noise = Noise::new(5);
                for _ in 0..LENGTH / 1_024 {
                    noise.expect_exactly(reader, 1_024);
                }
            });
            assert_eq!(client::end_of(reader), End::Clean);
            reader.shutdown(Shutdown::Write).unwrap();
            let why = if up > 0 { Reason::ClientClosed } else { Reason::OriginClosed };
            rig.settled(&ends, why, up, down);
        }
    });
}

#[test]
fn an_origin_that_stalls_and_goes_on() {
    each_engine_and_loss(|rig| {
        let ends = rig.tunnel();
        let mut noise = Noise::new(6);
        let mut sent = noise.send_what_fits(&ends.client);
        // The client has more to send and the tunnel is quiet: every buffer is full.
        eventually("the tunnel stands still", || {
            sent += noise.send_what_fits(&ends.client);
            rig.is_quiet()
        });
        thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(noise.send(&ends.client, 5 * MIB), 5 * MIB);
                ends.client.shutdown(Shutdown::Write).unwrap();
            });
            receive_whole(&ends.origin, 6, sent + 5 * MIB);
        });
        ends.origin.shutdown(Shutdown::Write).unwrap();
        rig.settled(&ends, Reason::ClientClosed, sent + 5 * MIB, 0);
    });
}

#[test]
fn many_small_writes_each_way() {
    each_engine_and_loss(|rig| {
        let ends = rig.tunnel();
        let sizes = |seed: u64| {
            let mut random = Noise::new(seed);
            (0..6_000).map(move |_| 1 + usize::try_from(random.below(200)).unwrap_or(0))
        };
        let length = |seed| sizes(seed).sum::<usize>();
        let send = |to: &TcpStream, seed| {
            to.set_nodelay(true).unwrap();
            let mut noise = Noise::new(seed);
            sizes(seed).for_each(|size| assert_eq!(noise.send(to, size), size));
            to.shutdown(Shutdown::Write).unwrap();
        };
        thread::scope(|scope| {
            scope.spawn(|| send(&ends.client, 11));
            scope.spawn(|| send(&ends.origin, 12));
            scope.spawn(|| receive_whole(&ends.client, 12, length(12)));
            receive_whole(&ends.origin, 11, length(11));
        });
        let line = rig.closing_line(&ends);
        let why = if line.text("by") == "client" { Reason::ClientClosed } else { Reason::OriginClosed };
        rig.settled(&ends, why, length(11), length(12));
    });
}
