//! Causes of refused system calls, as far as the host shows them, and their remedies.

use std::io;

use rustix::io::Errno;
use rustix::process::{getegid, getgroups};
use rustix::thread::CapabilitySet;

use super::host::{Host, HostError, Scope};
use crate::sys::capabilities::with_only;
use crate::sys::probe;

/// System calls of the engine `uring`.
const RING_CALLS: &[&str] = &["io_uring_setup", "io_uring_enter", "io_uring_register"];

/// A cause, and its remedies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The cause, in words.
    pub(super) cause: String,
    /// Commands and settings to remove the cause.
    pub(super) fix: Vec<String>,
}

impl Refusal {
    pub(super) fn new(cause: impl Into<String>, fix: Vec<String>) -> Self {
        Self { cause: cause.into(), fix }
    }
}

/// Results of the system calls of the engines, each made alone.
#[derive(Debug)]
pub(super) struct Trials {
    /// Setting a ring up.
    pub(super) ring: io::Result<()>,
    /// splice(2).
    pub(super) splice: io::Result<()>,
}

impl Trials {
    /// Makes the calls.
    pub(super) fn made() -> Self {
        // With no more capabilities than `serve` has by then.
        let ring = with_only(CapabilitySet::SYS_RESOURCE, probe::ring).flatten();
        Self { ring, splice: probe::splice() }
    }
}

/// Explains an engine's failed self-test: by the first of its calls that fails on its own as well,
/// or by the error.
pub(super) fn of_engine(host: &Host, engine: &str, error: &io::Error, trials: &Trials) -> Refusal {
    match (engine, &trials.ring, &trials.splice) {
        ("uring", Err(refused), _) => of_ring(host, refused),
        ("uring" | "splice", _, Err(refused)) => of_calls(host, SPLICE, refused),
        _ => of_want(error),
    }
}

/// Why there is no ring (io_uring_setup(2)).
pub(super) fn of_ring(host: &Host, error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::PERM) => by_sysctl(host).unwrap_or_else(|unread| Refusal::new(unread.to_string(), Vec::new())),
        // The sysctl is a part of io_uring itself (`io_uring/io_uring.c`), so a kernel with the
        // sysctl has the call, and only a filter answers ENOSYS.
        Some(Errno::NOSYS) if host.try_sysctl("kernel.io_uring_disabled") == Ok(None) && !is_filtered(host) => {
            Refusal::new("this kernel has no io_uring: it is older than 5.1, or built without", Vec::new())
        }
        _ => of_calls(host, RING_CALLS, error),
    }
}

/// System calls for moving bytes by splice(2), splice itself first.
pub(super) const SPLICE: &[&str] = &["splice", "pipe2"];

/// System calls of waiting for many sockets.
pub(super) const EVENT_LOOP: &[&str] = &["epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "eventfd2"];

/// Explains failed calls without a sysctl to turn them off.
pub(super) fn of_calls(host: &Host, calls: &[&str], error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS) if is_filtered(host) => {
            Refusal::new(format!("the seccomp filter refuses {}", calls.join(" or ")), permit(calls))
        }
        Some(Errno::PERM | Errno::ACCESS) => Refusal::new(
            "neither a sysctl nor a seccomp filter, so probably a security module such as SELinux; see `dmesg`",
            Vec::new(),
        ),
        _ => of_want(error),
    }
}

/// The exhausted resource of an error.
fn of_want(error: &io::Error) -> Refusal {
    match Errno::from_io_error(error) {
        Some(Errno::NOMEM | Errno::NOBUFS) => Refusal::new("locked memory is used up (RLIMIT_MEMLOCK)", more_locked()),
        Some(Errno::MFILE | Errno::NFILE) => Refusal::new("descriptors are used up, or pipe pages", more_descriptors()),
        Some(Errno::AGAIN) => Refusal::new("threads are used up", more_threads()),
        _ => Refusal::default(),
    }
}

fn is_filtered(host: &Host) -> bool {
    host.has_seccomp_filter() == Ok(true)
}

/// `kernel.io_uring_disabled` (Documentation/admin-guide/sysctl/kernel.rst, since 6.6): 2 refuses
/// all processes, 1 all but CAP_SYS_ADMIN and the members of `kernel.io_uring_group`. A filter
/// answers before the sysctl, so with both the filter hides the sysctl.
fn by_sysctl(host: &Host) -> Result<Refusal, HostError> {
    let disabled = host.try_sysctl("kernel.io_uring_disabled")?;
    let mut refusal = match disabled.as_deref() {
        Some("2") => Refusal::new(
            "kernel.io_uring_disabled=2 refuses every process",
            vec![host.set(Scope::Machine, "kernel.io_uring_disabled", "0")],
        ),
        Some("1") if !may_pass_one(host)? => Refusal::new(
            "kernel.io_uring_disabled=1 refuses all but the group kernel.io_uring_group (and CAP_SYS_ADMIN, which the \
             gateway gives up)",
            vec![
                host.set(Scope::Machine, "kernel.io_uring_group", &getegid().as_raw().to_string()),
                host.set(Scope::Machine, "kernel.io_uring_disabled", "0"),
            ],
        ),
        _ => return Ok(of_calls(host, RING_CALLS, &io::Error::from(Errno::PERM))),
    };
    if is_filtered(host) {
        refusal.cause.push_str("; a seccomp filter is active as well and may refuse it too");
        refusal.fix.extend(permit(RING_CALLS));
    }
    Ok(refusal)
}

fn may_pass_one(host: &Host) -> Result<bool, HostError> {
    let group = host.sysctl("kernel.io_uring_group")?;
    let mut own = getgroups().unwrap_or_default();
    own.push(getegid());
    // CAP_SYS_ADMIN would pass, but `serve` drops it before it makes a ring.
    Ok(own.iter().any(|own| own.as_raw().to_string() == group))
}

/// Remedies for permitting calls in a container's profile, a list of permitted calls (Podman's is
/// `/usr/share/containers/seccomp.json`, seccomp.json(5); Docker's is built in), or by
/// systemd.exec(5).
fn permit(calls: &[&str]) -> Vec<String> {
    let names = calls.iter().map(|call| format!("\"{call}\"")).collect::<Vec<_>>().join(",");
    vec![
        format!(
            "jq '.syscalls += [{{\"names\":[{names}],\"action\":\"SCMP_ACT_ALLOW\"}}]' \
             /usr/share/containers/seccomp.json >seccomp.json && \
             podman run --security-opt seccomp=seccomp.json ...    # docker run takes such a file as well"
        ),
        format!("systemd unit: SystemCallFilter={}", calls.join(" ")),
    ]
}

fn more_locked() -> Vec<String> {
    ["ulimit -l unlimited    # as root", "systemd unit: LimitMEMLOCK=infinity", "podman run --ulimit memlock=-1 ..."]
        .map(str::to_owned)
        .to_vec()
}

/// Remedies for raising the limit of threads (RLIMIT_NPROC counts all of the user, getrlimit(2);
/// pids.max those of the cgroup).
fn more_threads() -> Vec<String> {
    [
        "ulimit -u unlimited    # as root",
        "systemd unit: TasksMax=infinity, LimitNPROC=infinity",
        "podman run --pids-limit -1 ...",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Remedies for raising the limit of descriptors.
pub(super) fn more_descriptors() -> Vec<String> {
    ["ulimit -Hn 65536    # as root", "systemd unit: LimitNOFILE=65536", "podman run --ulimit nofile=65536:65536 ..."]
        .map(str::to_owned)
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    const FILTER: (&str, &str) = ("proc/self/status", "CapEff:\t0\nSeccomp:\t2\n");
    const NO_FILTER: (&str, &str) = ("proc/self/status", "CapEff:\t0\nSeccomp:\t0\n");
    /// A group without members.
    const GROUP: (&str, &str) = ("proc/sys/kernel/io_uring_group", "4294967294");

    fn ring(files: &[(&str, &str)], error: Errno) -> Refusal {
        let tree = Tree::new(files);
        tree.link("proc/self/ns/user", "user:[4026531837]");
        of_ring(&tree.host(), &error.into())
    }

    #[test]
    fn whoever_refuses_a_ring_is_named_with_the_remedy() {
        let disabled = |value| ("proc/sys/kernel/io_uring_disabled", value);
        let lift = "sysctl -w kernel.io_uring_disabled=0";
        let profile = "podman run --security-opt seccomp=seccomp.json ";
        for (files, error, cause, fix) in [
            (&[disabled("2"), NO_FILTER][..], Errno::PERM, "kernel.io_uring_disabled=2 refuses every process", lift),
            (&[disabled("2"), FILTER], Errno::PERM, "may refuse it too", profile),
            (&[disabled("1"), GROUP, NO_FILTER], Errno::PERM, "refuses all but the group", "kernel.io_uring_group="),
            (&[disabled("0"), FILTER], Errno::PERM, "the seccomp filter refuses", profile),
            (&[FILTER], Errno::PERM, "the seccomp filter refuses io_uring_setup", profile),
            (&[disabled("0"), FILTER], Errno::NOSYS, "the seccomp filter", "SystemCallFilter=io_uring_setup io_"),
            (&[disabled("0"), NO_FILTER], Errno::NOMEM, "RLIMIT_MEMLOCK", "LimitMEMLOCK=infinity"),
            (&[disabled("0"), NO_FILTER], Errno::MFILE, "descriptors", "LimitNOFILE="),
        ] {
            let refusal = ring(files, error);
            assert!(refusal.cause.contains(cause), "{files:?}: {refusal:?}");
            assert!(refusal.fix.iter().any(|line| line.contains(fix)), "{files:?}: {refusal:?}");
        }
    }

    #[test]
    fn an_engine_is_explained_by_the_call_of_its_own_that_fails() {
        let tree = Tree::new(&[FILTER]);
        let error = |errno: Errno| io::Error::from(errno);
        let trials = |ring: Option<Errno>, splice: Option<Errno>| Trials {
            ring: ring.map_or(Ok(()), |errno| Err(errno.into())),
            splice: splice.map_or(Ok(()), |errno| Err(errno.into())),
        };
        let refused = Some(Errno::PERM);
        for (engine, failed, trials, cause) in [
            ("uring", Errno::PERM, trials(refused, None), "refuses io_uring_setup"),
            ("uring", Errno::CONNRESET, trials(None, refused), "refuses splice"),
            ("uring", Errno::NOMEM, trials(None, None), "RLIMIT_MEMLOCK"),
            ("splice", Errno::PERM, trials(refused, refused), "refuses splice"),
            ("splice", Errno::MFILE, trials(refused, None), "descriptors"),
            ("copy", Errno::PERM, trials(refused, refused), ""),
        ] {
            let refusal = of_engine(&tree.host(), engine, &error(failed), &trials);
            assert!(refusal.cause.contains(cause), "{engine}: {refusal:?}");
            assert_eq!(refusal.cause.is_empty(), cause.is_empty(), "{engine}: {refusal:?}");
        }
    }

    #[test]
    fn what_has_no_remedy_is_not_given_one() {
        let none = ring(&[NO_FILTER], Errno::NOSYS);
        assert!(none.cause.starts_with("this kernel has no io_uring") && none.fix.is_empty(), "{none:?}");
        let module = ring(&[NO_FILTER, ("proc/sys/kernel/io_uring_disabled", "0")], Errno::PERM);
        assert!(module.cause.contains("a security module") && module.fix.is_empty(), "{module:?}");
        let blind = ring(&[("proc/sys/kernel/io_uring_disabled", "1"), NO_FILTER], Errno::PERM);
        assert!(blind.cause.contains("io_uring_group: no such file"), "{blind:?}");
    }
}
