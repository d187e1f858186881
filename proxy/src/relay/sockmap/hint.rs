//! Remedies for a kernel or process unable to run the engine, naming the setting to change.

use std::fs;
use std::io;

use rustix::io::Errno;

use crate::relay::engine::Engine;
use crate::relay::unavailable::{Component, EngineUnavailable};
use crate::sys::capabilities::{self, FOR_BPF};

/// Sysctl: the kernel panics at its first warning (Documentation/admin-guide/sysctl/kernel.rst).
pub(super) const PANIC_ON_WARN: &str = "/proc/sys/kernel/panic_on_warn";

/// Refuses a kernel set to panic on a warning, by the text of [`PANIC_ON_WARN`]. Two warnings were
/// seen in the paths of this engine: in `inet_sock_destruct` (`net/ipv4/af_inet.c`) and, from
/// `tcp_sendmsg_locked`, in a copy from user memory (`include/linux/ucopysize.h`).
///
/// # Errors
/// The sysctl is set.
pub(super) fn outlives_warnings(setting: &str) -> io::Result<()> {
    match setting.trim() {
        "" | "0" => Ok(()),
        set => Err(io::Error::other(format!("{set}: the kernel panics on warnings, which this engine has triggered"))),
    }
}

/// State of the host after a refusal.
#[derive(Debug, Default)]
struct Host {
    /// Capabilities missing in this process.
    missing: Vec<&'static str>,
    /// `/sys/kernel/security/lockdown` (kernel_lockdown(7)); the level in force is in brackets.
    lockdown: String,
}

/// The engine's unavailability, with the remedy if the host shows one.
pub(in crate::relay) fn unavailable((part, error): (Component, io::Error)) -> EngineUnavailable {
    EngineUnavailable { engine: Engine::Sockmap, part, hint: hint(part, &error), error }
}

/// Remedy for `error`, if the state of the host shows its cause.
fn hint(part: Component, error: &io::Error) -> Option<String> {
    let lockdown = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    Host { missing: capabilities::missing(FOR_BPF), lockdown }.hint(part, error)
}

impl Host {
    fn hint(&self, part: Component, error: &io::Error) -> Option<String> {
        let confidential = self.lockdown.contains("[confidentiality]");
        let said = match (part, Errno::from_io_error(error)) {
            (Component::PanicOnWarn, _) => {
                "set it by `sysctl -w kernel.panic_on_warn=0`, or choose another engine, as --engine auto does".to_owned()
            }
            (Component::Types, _) if error.kind() == io::ErrorKind::NotFound => {
                "this kernel has no BTF: it needs CONFIG_DEBUG_INFO_BTF=y".to_owned()
            }
            // A helper the process may not call is treated as unknown: EINVAL.
            (Component::Maps, Some(Errno::PERM | Errno::ACCESS))
            | (Component::Program, Some(Errno::PERM | Errno::ACCESS | Errno::INVAL))
                if !self.missing.is_empty() =>
            {
                format!(
                    "without {}: run as root, add `{}` to the systemd unit, or `{}` to a rootful podman or docker run",
                    self.missing.join(" and "),
                    capabilities::of_unit(FOR_BPF),
                    capabilities::of_container(FOR_BPF),
                )
            }
            (Component::Program, _) if confidential => {
                "the kernel is locked down (lockdown=confidentiality), so that no BPF program may read its memory: boot \
                 with lockdown=integrity or none"
                    .to_owned()
            }
            (Component::Maps | Component::Program, Some(Errno::PERM | Errno::ACCESS)) => {
                "the capabilities are there: a seccomp filter or a security module refuses bpf(2), or they hold only in \
                 a user namespace, as in a rootless container; see `dmesg`, and try `--security-opt seccomp=...` with \
                 a profile that permits bpf"
                    .to_owned()
            }
            (Component::Maps | Component::Program, Some(Errno::NOSYS)) => {
                "this kernel has no bpf(2), or a filter hides it: it needs CONFIG_BPF_SYSCALL=y".to_owned()
            }
            (Component::Maps | Component::Program, Some(Errno::INVAL | Errno::OPNOTSUPP)) => {
                "the engine needs Linux 5.10 or later with CONFIG_BPF_STREAM_PARSER=y and CONFIG_NET_SOCK_MSG=y".to_owned()
            }
            (Component::Maps | Component::Program, Some(Errno::NOMEM)) => {
                "not enough memory, or the control group's limit is too low: the maps take 80 bytes for each of --max-tunnels"
                    .to_owned()
            }
            _ => return None,
        };
        Some(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_told_with_the_name_of_what_to_change() {
        let host =
            |missing: &[&'static str], lockdown: &str| Host { missing: missing.to_vec(), lockdown: lockdown.into() };
        let (all, open) = (&[][..], "[none] integrity confidentiality");
        let table = [
            (host(&["CAP_BPF"], open), Component::Maps, Errno::PERM, "without CAP_BPF: run as root"),
            (
                host(&["CAP_BPF", "CAP_NET_ADMIN"], ""),
                Component::Program,
                Errno::PERM,
                "without CAP_BPF and CAP_NET_ADMIN:",
            ),
            (host(&["CAP_PERFMON"], open), Component::Program, Errno::INVAL, "without CAP_PERFMON: run as root"),
            (
                host(all, "none integrity [confidentiality]"),
                Component::Program,
                Errno::INVAL,
                "lockdown=confidentiality",
            ),
            (host(all, open), Component::Maps, Errno::PERM, "a seccomp filter or a security module refuses bpf(2)"),
            (host(all, open), Component::Maps, Errno::NOSYS, "CONFIG_BPF_SYSCALL"),
            (host(all, open), Component::Maps, Errno::INVAL, "CONFIG_BPF_STREAM_PARSER"),
            (host(all, open), Component::Program, Errno::NOMEM, "--max-tunnels"),
            (host(all, open), Component::Types, Errno::NOENT, "CONFIG_DEBUG_INFO_BTF"),
        ];
        for (host, part, errno, words) in table {
            let said = host.hint(part, &errno.into());
            assert!(said.as_ref().is_some_and(|said| said.contains(words)), "{host:?} {part:?} {errno:?}: {said:?}");
        }
        assert_eq!(host(all, open).hint(Component::Tunnel, &Errno::IO.into()), None);
    }

    #[test]
    fn a_kernel_that_a_warning_ends_is_refused() {
        assert!(outlives_warnings("0\n").is_ok() && outlives_warnings("").is_ok());
        let error = outlives_warnings("1\n").unwrap_err();
        assert!(error.to_string().starts_with("1: the kernel panics"), "{error}");
        let hint = Host::default().hint(Component::PanicOnWarn, &error);
        assert!(hint.unwrap().contains("sysctl -w kernel.panic_on_warn=0"));
    }
}
