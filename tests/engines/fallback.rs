//! What happens where an engine cannot do its work: another does, and it is counted with its cause.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use sluicegate::metrics;
use sluicegate::reason::Reason;
use sluicegate::relay::Engine;

use super::rig::{Ends, Rig};
use crate::support::process::{raise_descriptor_limit, sluicegate};
use crate::support::{Gateway, Noise, Origin, Setup, client, connect, eventually};

/// Runs something to whose child processes the kernel refuses splice(2), as a container's seccomp profile
/// may: a filter on a thread goes over to what it starts.
fn without_splice<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(|| {
        let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp filters");
        let refused = SeccompAction::Errno(u32::try_from(libc::EPERM).expect("positive"));
        let rules = BTreeMap::from([(libc::SYS_splice, Vec::new())]);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
        let program: BpfProgram = filter.try_into().expect("a program");
        apply_filter(&program).expect("a kernel with seccomp filters");
        run()
    });
    thread.join().expect("it does not panic")
}

#[test]
fn where_splice_is_refused_copy_works_and_the_cause_is_told() {
    let gateway = without_splice(|| Gateway::open(&[]));
    for engine in ["uring", "splice"] {
        let line = gateway.log_line("the cause", |line| {
            line.message().contains("failed its self-test") && line.text("engine") == engine
        });
        assert_eq!((line.level(), line.text("what")), ("WARN", "splice"), "{}", line.raw);
        assert!(line.text("error").contains("Operation not permitted"), "{}", line.raw);
        assert!(line.text("remedy").contains("seccomp"), "{}", line.raw);
        assert_eq!(gateway.metric(&metrics::ENGINE_FALLBACKS, &[engine, "copy", "not_permitted"]), 1);
    }
    assert_eq!(gateway.metric(&metrics::ENGINE_FALLBACKS, &["", "", ""]), 2);

    let origin = Origin::echo();
    let stream = connect(gateway.address, origin.address);
    client::echoes(&stream, 3 << 20);
    client::hang_up(&stream);
    let line = gateway.closing_line(stream.local_addr().unwrap());
    assert_eq!((line.text("engine"), line.number("to_origin")), ("copy", 3 << 20), "{}", line.raw);
}

#[test]
fn an_engine_that_is_asked_for_and_refused_is_no_start() {
    let arguments = ["serve", "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--engine", "splice"];
    let outcome = without_splice(move || sluicegate(&arguments, &[]));
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let said = outcome.err.lines().last().unwrap_or_default();
    assert!(said.contains("splice: ") && said.ends_with("try --engine auto"), "{outcome:?}");
}

/// Descriptors that a gateway has in this test, of which 512 are not for tunnels.
const DESCRIPTORS: u32 = 600;

#[test]
fn without_pipes_every_byte_still_arrives() {
    raise_descriptor_limit();
    let rig = Rig::with(Engine::Splice, Setup::new(&[]).descriptors(DESCRIPTORS));
    let tunnels: Vec<Ends> = (0..30).map(|_| rig.tunnel()).collect();
    // Clients that say nothing take what is left.
    let silent: Vec<TcpStream> = (0..DESCRIPTORS).map(|_| client::dial(rig.gateway.address)).collect();
    rig.gateway.log_line("no descriptor is left", |line| line.message().starts_with("cannot accept"));
    // Nobody reads, so that every tunnel with a pipe keeps it, and most have none.
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
    drop(silent);
    for ends in &tunnels {
        client::hang_up_both(&ends.client, &ends.origin);
        rig.ended(ends, Reason::ClientClosed);
    }
    let bytes = sent.iter().map(|of_one| of_one.1 as u64).sum();
    assert_eq!(rig.counters(), ((bytes, 0), (bytes, 0)));
    assert!(rig.gateway.metric(&metrics::ENGINE_FALLBACKS, &["splice", "copy", "no_pipe"]) > 0);
}
