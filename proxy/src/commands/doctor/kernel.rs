//! The kernel features available to this process: version, seccomp, io_uring, splice, eBPF.

use std::io;

use super::finding::{Found, State};
use super::host::{Capability, Host, HostError, Scope};
use super::refusal::{self, Refusal, Trials};
use crate::sys::capabilities::{FOR_BPF, of_container, of_unit};

/// Before Linux 6.15 the pauses between probes of a closed window cannot be bounded
/// (`TCP_RTO_MAX_MS`, `include/uapi/linux/tcp.h`): they grow to two minutes.
const OLDEST: (u64, u64) = (6, 15);

/// The version of the kernel.
pub(super) fn version(host: &Host) -> Result<Found, HostError> {
    let release = host.sysctl("kernel.osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    let version = numbers.next().zip(numbers.next());
    let version = version.ok_or_else(|| HostError(format!("kernel.osrelease: cannot parse '{release}'")))?;
    Ok(Found::ok(release).unless(version >= OLDEST, |found| {
        found
            .costs(State::Slow, "a peer that vanishes behind a closed window is detected up to two minutes late")
            .fix("install a later kernel, if that matters")
    }))
}

/// The seccomp filter, and the refused ones of the tried calls.
pub(super) fn seccomp(host: &Host, trials: &Trials) -> Result<Found, HostError> {
    let tried = [("io_uring_setup", &trials.ring), ("splice", &trials.splice)];
    let refused = tried.into_iter().filter_map(|(name, result)| {
        let error = result.as_ref().err()?;
        matches!(error.raw_os_error()?, libc::EPERM | libc::ENOSYS).then(|| format!("{name} ({error})"))
    });
    let refused = refused.collect::<Vec<_>>().join(", ");
    Ok(match (host.has_seccomp_filter()?, refused.is_empty()) {
        (false, _) => Found::ok("no filter"),
        (true, true) => Found::ok("a filter that permits both"),
        (true, false) => Found::ok(format!("a filter is active; refused: {refused}"))
            .costs(State::Slow, "see the checks of the refused calls"),
    })
}

/// Setting up a ring, and the cause of a refusal.
pub(super) fn io_uring(host: &Host, ring: &io::Result<()>) -> Found {
    let value = |name: &str| match host.try_sysctl(name) {
        Ok(value) => value.unwrap_or_else(|| "not there".to_owned()),
        Err(unread) => unread.to_string(),
    };
    let sysctls = format!(
        "io_uring_disabled {}, io_uring_group {}",
        value("kernel.io_uring_disabled"),
        value("kernel.io_uring_group")
    );
    let Err(error) = ring else { return Found::ok(format!("a ring works; {sysctls}")) };
    let Refusal { cause, fix } = refusal::of_ring(host, error);
    let found = Found::ok(format!("no ring: {error}; {cause}; {sysctls}"));
    found.costs(State::Slow, "no engine uring: up to a fifth of a tunnel's throughput").fixes(fix)
}

/// splice(2), used by every engine but `copy` for moving bytes.
pub(super) fn splice(host: &Host, splice: &io::Result<()>) -> Found {
    let Err(error) = splice else { return Found::ok("works") };
    let Refusal { cause, fix } = refusal::of_calls(host, refusal::SPLICE, error);
    // `cargo xtask bench`: copy against splice at one to 64 tunnels.
    let costs = "engine copy: half of the throughput, 1.7 times the CPU per byte";
    Found::ok(format!("{error}; {cause}")).costs(State::Fails, costs).fixes(fix)
}

/// The event loop of handshakes, needed by all engines.
pub(super) fn event_loop(host: &Host, failed: Option<&io::Error>) -> Found {
    let Some(error) = failed else { return Found::ok("works") };
    let Refusal { cause, fix } = refusal::of_calls(host, refusal::EVENT_LOOP, error);
    let found = if cause.is_empty() { error.to_string() } else { format!("{error}; {cause}") };
    let found = Found::ok(found).costs(State::Fails, "everything: the gateway does not start");
    Found { degrades: true, ..found.fixes(fix) }
}

/// Why the engine `sockmap` is refused where a warning of the kernel ends the machine.
const PANIC_ON_WARN: &str = "; panic_on_warn is set, and this engine has triggered kernel warnings \
                             (inet_sock_destruct; tcp_sendmsg_locked, ucopysize.h)";

/// The host's support of the engine `sockmap`; its self-test tells if it works.
pub(super) fn sockmap(host: &Host, sockhash: &io::Result<()>) -> Found {
    let yes = |result: Result<bool, HostError>| match result {
        Ok(true) => "yes".to_owned(),
        Ok(false) => "no".to_owned(),
        Err(unread) => unread.to_string(),
    };
    // BTF, for checking a program at its load (Documentation/bpf/btf.rst).
    let btf = host.has_file("/sys/kernel/btf/vmlinux");
    let unprivileged = match host.try_sysctl("kernel.unprivileged_bpf_disabled") {
        Ok(value) => value.unwrap_or_else(|| "not there".to_owned()),
        Err(unread) => unread.to_string(),
    };
    // The file exists in every kernel supported by this engine.
    let panics = host.try_sysctl("kernel.panic_on_warn").ok().flatten().is_some_and(|value| value != "0");
    let map = match sockhash {
        Ok(()) => "a map can be made".to_owned(),
        Err(error) => format!("no map: {error}"),
    };
    let [bpf, net_admin, perfmon] =
        [Capability::Bpf, Capability::NetAdmin, Capability::Perfmon].map(|capability| host.has(capability));
    let lacks = [&bpf, &net_admin, &perfmon].into_iter().any(|has| matches!(has, Ok(false)));
    let found = format!(
        "{map}; BTF {}, CAP_BPF {}, CAP_NET_ADMIN {}, CAP_PERFMON {}, unprivileged_bpf_disabled {unprivileged}{}",
        yes(btf),
        yes(bpf),
        yes(net_admin),
        yes(perfmon),
        if panics { PANIC_ON_WARN } else { "" },
    );
    let found = Found::ok(found);
    let found = found.unless(!panics, |found| found.fix(host.set(Scope::Machine, "kernel.panic_on_warn", "0")));
    found.unless(sockhash.is_ok() && !lacks, |found| {
        let options = of_container(FOR_BPF);
        found
            .fix(format!("podman run {options} ...    # rootful, a profile that permits bpf"))
            .fix(format!("systemd unit: {}", of_unit(FOR_BPF)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;
    use rustix::io::Errno;

    fn error(errno: Errno) -> io::Result<()> {
        Err(errno.into())
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, state) in [
            ("6.18.44-x", State::Ok),
            ("6.15.0", State::Ok),
            ("7.0.1", State::Ok),
            ("6.12.41+deb13-amd64", State::Slow),
            ("5.14.0-427.el9.x86_64", State::Slow),
            ("six", State::Unknown),
        ] {
            let row = version(&Tree::new(&[("proc/sys/kernel/osrelease", release)]).host());
            assert_eq!(row.as_ref().map_or(State::Unknown, |row| row.state), state, "{row:?}");
        }
        let unread = version(&Tree::new(&[]).host()).unwrap_err().to_string();
        assert!(unread.contains("no such file"), "{unread}");
    }

    #[test]
    fn a_filter_is_told_with_what_was_refused() {
        let filter = Tree::new(&[("proc/self/status", "Seccomp:\t2\n")]);
        let without = |errno| Trials { ring: error(errno), splice: Ok(()) };
        let row = seccomp(&filter.host(), &without(Errno::NOSYS)).unwrap();
        assert!(row.state == State::Slow && row.found.contains("refused: io_uring_setup (Function not"), "{row:?}");
        assert_eq!(seccomp(&filter.host(), &without(Errno::NOMEM)).unwrap().state, State::Ok);
        let none = Tree::new(&[("proc/self/status", "Seccomp:\t0\n")]);
        let row = seccomp(&none.host(), &without(Errno::PERM)).unwrap();
        assert_eq!((row.state, row.found.as_str()), (State::Ok, "no filter"));
        assert!(seccomp(&Tree::new(&[]).host(), &without(Errno::PERM)).is_err());
    }

    #[test]
    fn what_is_refused_names_who_and_how_to_lift_it() {
        let filter = Tree::new(&[("proc/self/status", "Seccomp:\t2\n"), ("proc/sys/kernel/io_uring_disabled", "0")]);
        let row = splice(&filter.host(), &error(Errno::PERM));
        assert!(row.state == State::Fails && row.found.contains("the seccomp filter"), "{row:?}");
        assert!(row.fix.iter().any(|fix| fix.contains("\"names\":[\"splice\",\"pipe2\"]")), "{row:?}");
        let row = io_uring(&filter.host(), &error(Errno::PERM));
        assert!(row.found.contains("seccomp") && row.found.contains("io_uring_disabled 0"), "{row:?}");
        assert!(!row.costs.is_empty() && row.fix.iter().any(|fix| fix.contains("io_uring_setup")), "{row:?}");
        assert_eq!(io_uring(&filter.host(), &Ok(())).costs, "");
    }

    #[test]
    fn what_sockmap_would_need_is_listed_and_costs_nothing() {
        let tree = Tree::new(&[
            ("proc/self/status", "CapEff:\t000000c000001000\nSeccomp:\t0\n"),
            ("proc/sys/kernel/unprivileged_bpf_disabled", "2"),
            ("sys/kernel/btf/vmlinux", ""),
        ]);
        tree.link("proc/self/ns/user", "user:[4026531837]");
        let row = sockmap(&tree.host(), &Ok(()));
        let found =
            "a map can be made; BTF yes, CAP_BPF yes, CAP_NET_ADMIN yes, CAP_PERFMON yes, unprivileged_bpf_disabled 2";
        assert_eq!((row.state, row.found.as_str(), row.fix.len()), (State::Ok, found, 0));
        let panics = Tree::new(&[("proc/sys/kernel/panic_on_warn", "1\n")]);
        let row = sockmap(&panics.host(), &Ok(()));
        assert!(row.found.contains("panic_on_warn is set") && row.found.contains("inet_sock_destruct"), "{row:?}");
        assert!(row.fix.iter().any(|fix| fix.starts_with("sysctl -w kernel.panic_on_warn=0")), "{row:?}");
        let row = sockmap(&Tree::new(&[]).host(), &error(Errno::PERM));
        assert!(row.state == State::Ok && !row.fix.is_empty(), "{row:?}");
        assert!(row.found.contains("BTF no, CAP_BPF /proc/self/status: no such file"), "{row:?}");
    }
}
