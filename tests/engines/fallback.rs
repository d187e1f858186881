//! Fallback of an unavailable engine to another one, counted by its cause.

use sluicegate::metrics;
use sluicegate::reason::Reason;
use sluicegate::relay::Engine;
use sluicegate::server::descriptors::divide;

use super::rig::{Ends, Rig};
use crate::support::process::{raise_descriptor_limit, sluicegate};
use crate::support::ring_sysctl::Changed;
use crate::support::seccomp::{DOCKER, NO_SPLICE, PODMAN, Refused, refusing};
use crate::support::stranger::Stranger;
use crate::support::{Gateway, Noise, Origin, Setup, client, connect, eventually};

/// Unavailable engines in order of preference: engine, refused component, counted cause.
type EngineUnavailable = [(&'static str, &'static str, &'static str)];

const NO_RING: &EngineUnavailable = &[("uring", "io_uring", "not_permitted")];
const NO_CALL: &EngineUnavailable = &[("uring", "io_uring", "not_supported")];
const NO_MEMORY: &EngineUnavailable = &[("uring", "io_uring", "memory")];
const NO_SPLICING: &EngineUnavailable = &[("uring", "splice", "not_permitted"), ("splice", "splice", "not_permitted")];
const NO_PIPES: &EngineUnavailable = &[("uring", "splice", "pipe_budget"), ("splice", "splice", "pipe_budget")];

/// Asserts that the gateway runs `engine`, has logged and counted the cause of each better engine's
/// failure, and moves bytes.
fn falls_back(gateway: &Gateway, engine: &str, unavailable: &EngineUnavailable) {
    for (from, what, cause) in unavailable {
        let is_it = |line: &crate::support::log::Line| {
            line.message().contains("failed its self-test") && line.text("engine") == *from
        };
        let line = gateway.log_line("the cause", is_it);
        assert_eq!((line.level(), line.text("what")), ("WARN", *what), "{}", line.raw);
        assert!(!line.text("error").is_empty(), "{}", line.raw);
        assert_eq!(gateway.metric(&metrics::ENGINE_FALLBACKS, &[from, engine, cause]), 1);
    }
    assert_eq!(gateway.metric(&metrics::ENGINE_FALLBACKS, &["", "", ""]), unavailable.len() as u64);

    let origin = Origin::echo();
    let stream = connect(gateway.address, origin.address);
    client::echoes(&stream, 3 << 20);
    client::hang_up(&stream);
    let line = gateway.closing_line(stream.local_addr().unwrap());
    assert_eq!((line.text("engine"), line.number("to_origin")), (engine, 3 << 20), "{}", line.raw);
}

#[test]
fn what_a_seccomp_profile_refuses_another_engine_does_without() {
    falls_back(&Gateway::open(&[]), "uring", &[]);
    let under = |refused: &[Refused]| refusing(refused, || Gateway::open(&[]));
    falls_back(&under(DOCKER), "splice", NO_RING);
    falls_back(&under(PODMAN), "splice", NO_CALL);
    falls_back(&under(NO_SPLICE), "copy", NO_SPLICING);
}

#[test]
fn what_the_sysctl_refuses_another_engine_does_without() {
    {
        let Some(_changed) = Changed::to(2) else { return };
        falls_back(&Gateway::open(&[]), "splice", NO_RING);
        let outcome = sluicegate(&["doctor"], &[]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.out.contains("sysctl -w kernel.io_uring_disabled=0"), "{outcome:?}");
    }
    let Some(stranger) = Stranger::new() else { return };
    let Some(_changed) = Changed::to(1) else { return };
    // Root has CAP_SYS_ADMIN, and drops it before creating a ring.
    falls_back(&Gateway::open(&[]), "splice", NO_RING);
    let wrapper = stranger.wrapper(":");
    let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
    falls_back(&Setup::new(&["--no-auth"]).under(&wrapper).start(), "splice", NO_RING);
}

#[test]
fn what_a_user_has_no_budget_for_another_engine_does_without() {
    let Some(stranger) = Stranger::new() else { return };
    let start = |line: &str| {
        let wrapper = stranger.wrapper(line);
        Setup::new(&["--no-auth"]).under(&wrapper.iter().map(String::as_str).collect::<Vec<_>>()).start()
    };
    falls_back(&start("ulimit -l 0"), "splice", NO_MEMORY);
    let Some(_held) = stranger.every_pipe() else { return };
    falls_back(&start(":"), "copy", NO_PIPES);
}

#[test]
fn an_engine_that_is_asked_for_and_refused_is_no_start() {
    for (engine, refused) in [("splice", NO_SPLICE), ("uring", DOCKER)] {
        let arguments = ["serve", "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--engine", engine];
        let outcome = refusing(refused, || sluicegate(&arguments, &[]));
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        let said = outcome.err.lines().last().unwrap_or_default();
        assert!(said.contains(&format!("{engine}: ")) && said.ends_with("or use --engine auto"), "{outcome:?}");
    }
}

/// Tunnels without descriptors for a pipe.
const TUNNELS: usize = 30;

/// A descriptor limit with hardly more room than the sockets of these tunnels need: pipes never
/// take the descriptors reserved for the gateway itself and for connections without a tunnel.
fn few_descriptors() -> u32 {
    let has_room = |limit: &u32| divide(None, (*limit).into(), 1).is_ok_and(|division| division.tunnels >= TUNNELS + 5);
    (1..).find(has_room).expect("some limit is enough")
}

#[test]
fn without_pipes_every_byte_still_arrives() {
    raise_descriptor_limit();
    for engine in [Engine::Uring, Engine::Splice] {
        without_pipes(engine);
    }
}

fn without_pipes(engine: Engine) {
    let rig = Rig::with(engine, Setup::new(&[]).descriptors(few_descriptors()));
    let tunnels: Vec<Ends> = (0..TUNNELS).map(|_| rig.tunnel()).collect();
    // No peer reads, so a tunnel with a pipe would keep it.
    let mut sent: Vec<(Noise, usize)> = tunnels.iter().map(|_| (Noise::new(1), 0)).collect();
    let mut quiet_rounds = 0;
    eventually("hardly a byte is taken any more", || {
        let before: usize = sent.iter().map(|of_one| of_one.1).sum();
        for (ends, (noise, length)) in tunnels.iter().zip(&mut sent) {
            *length += noise.send_what_fits(&ends.client);
        }
        let after: usize = sent.iter().map(|of_one| of_one.1).sum();
        quiet_rounds = if after == before { quiet_rounds + 1 } else { 0 };
        quiet_rounds == 5
    });
    for (ends, (_, length)) in tunnels.iter().zip(&sent) {
        Noise::new(1).expect_exactly(&ends.origin, *length);
    }
    for ends in &tunnels {
        client::hang_up_both(&ends.client, &ends.origin);
        rig.ended(ends, Reason::ClientClosed);
    }
    let bytes = sent.iter().map(|of_one| of_one.1 as u64).sum();
    assert_eq!(rig.counters(), ((bytes, 0), (bytes, 0)));
    assert!(rig.gateway.metric(&metrics::ENGINE_FALLBACKS, &[engine.label(), "copy", "no_pipe"]) > 0);
    rig.gateway
        .log_line("the shortage", |line| line.level() == "WARN" && line.message().starts_with("cannot make a pipe"));
}
