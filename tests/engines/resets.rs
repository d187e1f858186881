//! Aborted streams: the other side sees a reset, never a FIN, at once, and after all earlier bytes.

use std::io::{ErrorKind, Write};
use std::net::{Shutdown, TcpStream};

use sluicegate::reason::Reason;

use super::rig::{Ends, each_engine};
use crate::support::noise::End;
use crate::support::{Noise, client, eventually};

/// For each side of a tunnel: its socket, the other socket, and the reason logged for its reset.
fn sides(ends: &Ends) -> [(&TcpStream, &TcpStream, Reason); 2] {
    [(&ends.client, &ends.origin, Reason::ClientReset), (&ends.origin, &ends.client, Reason::OriginReset)]
}

/// Bytes to the origin and to the client, given the side that sent them.
fn by_direction(why: Reason, sent: usize) -> (usize, usize) {
    if why == Reason::ClientReset { (sent, 0) } else { (0, sent) }
}

#[test]
fn a_reset_comes_behind_the_bytes_before_it() {
    const LENGTH: usize = 300_000;
    each_engine(|rig| {
        for side in 0..2 {
            let ends = rig.tunnel();
            let (breaks, hears, why) = sides(&ends)[side];
            assert_eq!(Noise::new(3).send(breaks, LENGTH), LENGTH);
            // A reset discards the sender's unsent bytes: wait until the gateway has all of them.
            eventually("all is acknowledged", || sluicegate::sys::tcp::unacknowledged(breaks).unwrap() == 0);
            client::reset(breaks);
            assert_eq!(Noise::new(3).expect(hears), (LENGTH, End::Reset), "{} {why}", rig.engine);
            let (up, down) = by_direction(why, LENGTH);
            rig.settled(&ends, why, up, down);
        }
    });
}

#[test]
fn a_reset_of_a_silent_tunnel() {
    each_engine(|rig| {
        for side in 0..2 {
            let ends = rig.tunnel();
            let (breaks, hears, why) = sides(&ends)[side];
            client::reset(breaks);
            assert_eq!(client::end_of(hears), End::Reset, "{} {why}", rig.engine);
            rig.settled(&ends, why, 0, 0);
        }
    });
}

#[test]
fn a_reset_after_a_half_close() {
    each_engine(|rig| {
        for side in 0..2 {
            // A side resets after its own FIN, while bytes still arrive for it.
            let ends = rig.tunnel();
            let (breaks, hears, why) = sides(&ends)[side];
            breaks.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client::end_of(hears), End::Clean);
            Noise::new(4).send(hears, 1_000);
            Noise::new(4).expect_exactly(breaks, 1_000);
            client::reset(breaks);
            heard_while_sending(hears);
            let line = rig.ended(&ends, why);
            assert!(line.number("to_origin") + line.number("to_client") >= 1_000, "{}", line.raw);
            rig.count(&line);

            // A side resets while sending, after the other side's FIN.
            let ends = rig.tunnel();
            let (breaks, hears, why) = sides(&ends)[side];
            hears.shutdown(Shutdown::Write).unwrap();
            assert_eq!(client::end_of(breaks), End::Clean);
            Noise::new(4).send(breaks, 1_000);
            Noise::new(4).expect_exactly(hears, 1_000);
            client::reset(breaks);
            assert_eq!(client::end_of(hears), End::Reset, "{} {why}", rig.engine);
            let (up, down) = by_direction(why, 1_000);
            rig.settled(&ends, why, up, down);
        }
    });
}

/// Waits for a reset on a socket that has received its FIN: only a write can report the reset.
fn heard_while_sending(mut stream: &TcpStream) {
    eventually("a write fails", || match stream.write(&[0]) {
        Ok(_) => false,
        Err(error) => matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
    });
}

/// Sends to a peer that reads nothing, until every buffer on the way is full.
fn stuff(rig: &super::rig::Rig, sender: &TcpStream) -> usize {
    let mut noise = Noise::new(8);
    let mut sent = 0;
    eventually("the tunnel stands still", || {
        sent += noise.send_what_fits(sender);
        rig.is_quiet()
    });
    sent
}

#[test]
fn a_reset_of_the_sender_reaches_a_side_that_does_not_read() {
    each_engine(|rig| {
        for side in 0..2 {
            let ends = rig.tunnel();
            let (breaks, hears, why) = sides(&ends)[side];
            let sent = stuff(rig, breaks);
            client::reset(breaks);
            // The tunnel ends before the other side has read a byte.
            let line = rig.ended(&ends, why);
            let moved = usize::try_from(line.number("to_origin") + line.number("to_client")).unwrap();
            let (got, end) = Noise::new(8).expect(hears);
            assert_eq!(end, End::Reset, "{} {why}", rig.engine);
            assert!(got <= moved && moved <= sent, "{got} received, {moved} counted, {sent} sent");
            rig.count(&line);
        }
    });
}

#[test]
fn a_reset_of_a_reader_that_stalls_reaches_the_sender() {
    each_engine(|rig| {
        for side in 0..2 {
            let ends = rig.tunnel();
            let (breaks, hears, why) = sides(&ends)[side];
            let sent = stuff(rig, hears);
            client::reset(breaks);
            assert_eq!(client::end_of(hears), End::Reset, "{} {why}", rig.engine);
            let line = rig.ended(&ends, why);
            let moved = usize::try_from(line.number("to_origin") + line.number("to_client")).unwrap();
            assert!(0 < moved && moved <= sent, "{moved} counted, {sent} sent");
            rig.count(&line);
        }
    });
}
