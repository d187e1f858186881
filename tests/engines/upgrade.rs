//! Tunnels started by an origin's 101: bytes after the heads arrive first, and once.

use std::net::{Shutdown, TcpStream};
use std::thread;

use sluicegate::metrics;
use sluicegate::reason::Reason;

use super::rig::each_engine;
use crate::support::noise::End;
use crate::support::{Noise, client};

/// Upper bound for the longer head together with the bytes after it.
const LONGEST: usize = 200;

#[test]
fn however_the_heads_and_what_is_behind_them_are_cut() {
    each_engine(|rig| {
        let early = [Noise::new(1).take(40), Noise::new(2).take(50)];
        for cut in 0..LONGEST {
            let ends = rig.upgraded([&early[0], &early[1]], cut);
            Noise::new(1).expect_exactly(&ends.origin, early[0].len());
            Noise::new(2).expect_exactly(&ends.client, early[1].len());
            client::hang_up_both(&ends.client, &ends.origin);
            let line = rig.ended(&ends, Reason::ClientClosed);
            assert_eq!((line.number("to_origin"), line.number("to_client")), (40, 50), "{}", line.raw);
            assert_eq!(line.text("upgrade"), "x/1", "{}", line.raw);
        }
        let established = |code| rig.gateway.metric(&metrics::CONNECT_REQUESTS, &[code, "established"]);
        assert_eq!((established("101"), established("200")), (LONGEST as u64, 0));
    });
}

#[test]
fn streams_of_mebibytes_behind_the_heads() {
    const LENGTH: usize = 5 << 20;
    each_engine(|rig| {
        let early = [Noise::new(1).take(30_000), Noise::new(2).take(20_000)];
        let ends = rig.upgraded([&early[0], &early[1]], 1_000);
        let send_rest = |to: &TcpStream, seed, sent| {
            let mut noise = Noise::new(seed);
            noise.take(sent);
            assert_eq!(noise.send(to, LENGTH - sent), LENGTH - sent);
            to.shutdown(Shutdown::Write).unwrap();
        };
        thread::scope(|scope| {
            scope.spawn(|| send_rest(&ends.client, 1, early[0].len()));
            scope.spawn(|| send_rest(&ends.origin, 2, early[1].len()));
            scope.spawn(|| assert_eq!(Noise::new(2).expect(&ends.client), (LENGTH, End::Clean)));
            assert_eq!(Noise::new(1).expect(&ends.origin), (LENGTH, End::Clean));
        });
        let line = rig.closing_line(&ends);
        assert_eq!((line.number("to_origin"), line.number("to_client")), (LENGTH as u64, LENGTH as u64));
    });
}
