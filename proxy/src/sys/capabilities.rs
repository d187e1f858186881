//! Privileges of the process beyond its user's, and dropping them (capabilities(7)).

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, geteuid, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities, set_no_new_privs,
};

/// Drops every capability except those in `kept`, for good, in the calling thread and all threads
/// and processes it starts from now on: no program executed later regains any.
///
/// # Errors
/// The errors of capset(2) and prctl(2), as from a seccomp filter.
pub fn keep_only(kept: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let kept = kept & capabilities(None)?.permitted;
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: none })?)
}

/// Runs `work` with only the capabilities in `kept` in effect, and restores the others afterwards.
///
/// # Errors
/// The error of capset(2).
pub fn with_only<T>(kept: CapabilitySet, work: impl FnOnce() -> T) -> io::Result<T> {
    let before = capabilities(None)?;
    let effective = kept & before.permitted;
    set_capabilities(None, CapabilitySets { effective, ..before })?;
    let done = work();
    set_capabilities(None, before)?;
    Ok(done)
}

/// Keeps the permitted capabilities when the calling thread changes from root to another user,
/// until [`keep_only`].
///
/// # Errors
/// The error of prctl(2).
pub fn survive_change_of_user() -> io::Result<()> {
    Ok(set_keep_capabilities(true)?)
}

/// Protects the memory of the process from other processes of its user, and from being written to
/// files: no ptrace(2), no `/proc/PID/mem`, no core dump, not even to a handler of
/// `kernel.core_pattern`, which a core limit of zero would not stop. A change of user undoes a part
/// of it.
///
/// # Errors
/// The error of prctl(2) or setrlimit(2).
pub fn conceal_memory() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Cause and remedy if the process runs as root.
#[must_use]
pub fn root_warning() -> Option<(&'static str, &'static str)> {
    let warning =
        ("the gateway runs as root, which owns most files of a host", "set an unprivileged user with --run-as");
    geteuid().is_root().then_some(warning)
}

/// Names of the capabilities in `wanted` missing in the calling thread, by their numbers in
/// `linux/capability.h`.
#[must_use]
pub fn missing(wanted: &[(&'static str, CapabilitySet)]) -> Vec<&'static str> {
    let has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    wanted.iter().filter(|(_, flag)| !has.contains(*flag)).map(|(name, _)| *name).collect()
}

/// Capabilities for loading the program of the engine `sockmap`; CAP_PERFMON for the helper reading
/// kernel memory (`kernel/bpf/helpers.c`, `bpf_base_func_proto`).
pub const FOR_BPF: &[(&str, CapabilitySet)] = &[
    ("CAP_BPF", CapabilitySet::BPF),
    ("CAP_NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("CAP_PERFMON", CapabilitySet::PERFMON),
];

/// The line of a systemd unit granting these (systemd.exec(5)).
#[must_use]
pub fn of_unit(wanted: &[(&str, CapabilitySet)]) -> String {
    let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
    format!("AmbientCapabilities={}", names.join(" "))
}

/// The options of podman-run(1) and docker granting these to a container.
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
    fn what_is_kept_outlives_a_change_of_user_and_the_rest_does_not() {
        if !geteuid().is_root() {
            return;
        }
        let kept = CapabilitySet::NET_RAW & capabilities(None).unwrap().permitted;
        let left = std::thread::spawn(move || {
            survive_change_of_user().unwrap();
            let user = rustix::process::Uid::from_raw(2_000_000_096);
            // Changes only this thread's user.
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            let effective = |kept| with_only(kept, || capabilities(None).unwrap().effective).unwrap();
            assert_eq!((effective(kept), effective(CapabilitySet::empty())), (kept, CapabilitySet::empty()));
            keep_only(kept).unwrap();
            let sets = capabilities(None).unwrap();
            (sets.effective, sets.permitted, sets.inheritable)
        });
        assert_eq!(left.join().unwrap(), (kept, kept, CapabilitySet::empty()));
    }

    #[test]
    fn what_is_dropped_is_gone_for_the_thread_and_for_those_that_it_starts() {
        let left = std::thread::spawn(|| {
            keep_only(CapabilitySet::empty()).unwrap();
            let of = || capabilities(None).map(|sets| sets.permitted | sets.effective | sets.inheritable).unwrap();
            [of(), std::thread::spawn(of).join().unwrap()]
        });
        assert_eq!(left.join().unwrap(), [CapabilitySet::empty(); 2]);
        let gone = std::thread::spawn(|| keep_only(CapabilitySet::empty()).map(|()| missing(FOR_BPF)));
        assert_eq!(gone.join().unwrap().unwrap(), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
    }
}
