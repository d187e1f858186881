//! What happens where an engine cannot do its work: another does, and it is counted with its cause.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::thread;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};
use sluicegate::metrics;
use sluicegate::reason::Reason;
use sluicegate::relay::Engine;

use super::rig::{Ends, Rig};
use crate::support::process::raise_descriptor_limit;
use crate::support::{Gateway, Noise, Origin, Setup, client, connect};

/// Starts a gateway to which the kernel refuses splice(2), as a container's seccomp profile may: a
/// filter on a thread goes over to the processes that it starts.
fn without_splice(setup: Setup) -> Gateway {
    let started = thread::spawn(move || {
        let arch = std::env::consts::ARCH.try_into().expect("an architecture with seccomp filters");
        let refused = SeccompAction::Errno(u32::try_from(libc::EPERM).expect("positive"));
        let rules = BTreeMap::from([(libc::SYS_splice, Vec::new())]);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch).expect("a filter");
        let program: BpfProgram = filter.try_into().expect("a program");
        apply_filter(&program).expect("a kernel with seccomp filters");
        setup.start()
    });
    started.join().expect("it starts")
}

#[test]
fn where_splice_is_refused_copy_works_and_the_cause_is_told() {
    let gateway = without_splice(Setup::new(&["--no-auth"]));
    let line = gateway.log_line("the cause", |line| line.message().contains("failed its self-test"));
    assert_eq!((line.level(), line.text("engine")), ("WARN", "splice"), "{}", line.raw);
    assert!(line.text("error").contains("Operation not permitted"), "{}", line.raw);
    assert_eq!(gateway.metric(&metrics::ENGINE_FALLBACKS, &["splice", "copy", "not_permitted"]), 1);
    assert_eq!(gateway.metric(&metrics::ENGINE_FALLBACKS, &["", "", ""]), 1);

    let origin = Origin::echo();
    let stream = connect(gateway.address, origin.address);
    client::echoes(&stream, 3 << 20);
    client::hang_up(&stream);
    let line = gateway.closing_line(stream.local_addr().unwrap());
    assert_eq!((line.text("engine"), line.number("to_origin")), ("copy", 3 << 20), "{}", line.raw);
}

#[test]
fn an_engine_that_is_asked_for_and_refused_is_no_start() {
    let outcome = thread::spawn(|| {
        let filter = SeccompFilter::new(
            BTreeMap::from([(libc::SYS_splice, Vec::new())]),
            SeccompAction::Allow,
            SeccompAction::Errno(u32::try_from(libc::EPERM).expect("positive")),
            std::env::consts::ARCH.try_into().expect("an architecture with seccomp filters"),
        );
        let program: BpfProgram = filter.expect("a filter").try_into().expect("a program");
        apply_filter(&program).expect("a kernel with seccomp filters");
        let arguments =
            ["serve", "--no-auth", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--engine", "splice"];
        crate::support::process::sluicegate(&arguments, &[])
    });
    let outcome = outcome.join().unwrap();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    let said = outcome.err.lines().last().unwrap_or_default();
    assert!(said.contains("splice: ") && said.ends_with("try --engine auto"), "{outcome:?}");
}

/// Descriptors that a gateway has in this test, of which 512 are not for tunnels.
const DESCRIPTORS: u32 = 600;

#[test]
fn without_pipes_every_byte_still_arrives() {
    const LENGTH: usize = 3 << 20;
    raise_descriptor_limit();
    let rig = Rig::with(Engine::Splice, Setup::new(&[]).descriptors(DESCRIPTORS));
    let tunnels: Vec<Ends> = (0..30).map(|_| rig.tunnel()).collect();
    // Clients that say nothing take what is left.
    let silent: Vec<TcpStream> = (0..DESCRIPTORS).map(|_| client::dial(rig.gateway.address)).collect();
    rig.gateway.log_line("no descriptor is left", |line| line.message().starts_with("cannot accept"));
    thread::scope(|scope| {
        for ends in &tunnels {
            scope.spawn(|| {
                thread::scope(|scope| {
                    scope.spawn(|| assert_eq!(Noise::new(1).send(&ends.client, LENGTH), LENGTH));
                    scope.spawn(|| assert_eq!(Noise::new(2).send(&ends.origin, LENGTH), LENGTH));
                    scope.spawn(|| Noise::new(1).expect_exactly(&ends.origin, LENGTH));
                    Noise::new(2).expect_exactly(&ends.client, LENGTH);
                });
            });
        }
    });
    drop(silent);
    for ends in &tunnels {
        client::hang_up_both(&ends.client, &ends.origin);
        rig.ended(ends, Reason::ClientClosed);
    }
    let bytes = u64::try_from(tunnels.len() * LENGTH).unwrap();
    assert_eq!(rig.counters(), ((bytes, bytes), (bytes, bytes)));
    assert!(rig.gateway.metric(&metrics::ENGINE_FALLBACKS, &["splice", "copy", "no_pipe"]) > 0);
}
