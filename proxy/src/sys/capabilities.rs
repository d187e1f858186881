//! What the process is allowed beyond its user, and how it gives that up (capabilities(7)).

use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_no_new_privs};

/// Gives every capability up, of the calling thread and of all that it starts from then on, for good: no program that
/// it might execute gets one back.
///
/// # Errors
/// Those of capset(2) and prctl(2), as where a seccomp filter refuses them.
pub fn drop_all() -> io::Result<()> {
    set_no_new_privs(true)?;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Names of those capabilities of `wanted` that the calling thread lacks, by their numbers in `linux/capability.h`.
#[must_use]
pub fn missing(wanted: &[(&'static str, CapabilitySet)]) -> Vec<&'static str> {
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    wanted.iter().filter(|(_, flag)| !has.contains(*flag)).map(|(name, _)| *name).collect()
}

/// What loading the program of the engine `sockmap` takes; the last for the helper that reads the kernel's memory
/// (`kernel/bpf/helpers.c`, `bpf_base_func_proto`).
pub const FOR_BPF: &[(&str, CapabilitySet)] = &[
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_PERFMON", CapabilitySet::PERFMON),
];

/// How a systemd unit gives these (systemd.exec(5)).
#[must_use]
pub fn of_unit(wanted: &[(&str, CapabilitySet)]) -> String {
    let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
    format!("AmbientCapabilities={}", names.join(" "))
}

/// How podman-run(1) and docker give these to a container.
#[must_use]
pub fn of_container(wanted: &[(&str, CapabilitySet)]) -> String {
    let names: Vec<_> = wanted.iter().map(|(name, _)| name.trim_start_matches("CAP_")).collect();
    format!("--cap-add {}", names.join(" --cap-add "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_them_is_told() {
        assert_eq!(of_unit(FOR_BPF), "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON");
        assert_eq!(of_container(FOR_BPF), "--cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON");
    }

    #[test]
    fn what_is_dropped_is_gone_for_the_thread_and_for_those_that_it_starts() {
        let left = std::thread::spawn(|| {
            drop_all().unwrap();
            let of = || capabilities(None).map(|sets| sets.permitted | sets.effective | sets.inheritable).unwrap();
            [of(), std::thread::spawn(of).join().unwrap()]
        });
        assert_eq!(left.join().unwrap(), [CapabilitySet::empty(); 2]);
        let gone = std::thread::spawn(|| drop_all().map(|()| missing(FOR_BPF)));
        assert_eq!(gone.join().unwrap().unwrap(), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
    }
}
