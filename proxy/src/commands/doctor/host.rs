//! The files of /proc and /sys. Nothing is guessed: an unreadable file is an error with its cause.

use std::fmt;
use std::fs;
use std::path::PathBuf;

/// The file with an error in reading or parsing, and the error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostError(pub(super) String);

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of the first user namespace (`PROC_USER_INIT_INO`, `include/linux/proc_ns.h`).
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// A capability, by its number in `include/uapi/linux/capability.h`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Capability {
    /// CAP_NET_ADMIN.
    NetAdmin = 12,
    /// CAP_SYS_RESOURCE.
    SysResource = 24,
    /// CAP_PERFMON.
    Perfmon = 38,
    /// CAP_BPF.
    Bpf = 39,
}

/// Scope of a sysctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Each network namespace has its own.
    Network,
    /// The whole machine.
    Machine,
}

/// The files of a host.
#[derive(Clone, Debug)]
pub(super) struct Host {
    root: PathBuf,
}

impl Host {
    /// The host of this process, or the container, as far as the container shows it.
    #[must_use]
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/") }
    }

    /// Another one, for tests.
    #[cfg(test)]
    pub(super) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// A file, without the space around its text.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn read(&self, path: &str) -> Result<String, HostError> {
        self.try_read(path)?.ok_or_else(|| HostError(format!("{path}: no such file")))
    }

    /// A file, or `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn try_read(&self, path: &str) -> Result<Option<String>, HostError> {
        match fs::read_to_string(self.root.join(path.trim_start_matches('/'))) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(HostError(format!("{path}: {error}"))),
        }
    }

    /// Tells if the file exists.
    ///
    /// # Errors
    /// A failure to find out.
    pub(super) fn has_file(&self, path: &str) -> Result<bool, HostError> {
        let there = self.root.join(path.trim_start_matches('/')).try_exists();
        there.map_err(|error| HostError(format!("{path}: {error}")))
    }

    /// The value of a sysctl.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub(super) fn sysctl(&self, name: &str) -> Result<String, HostError> {
        self.read(&Self::path(name))
    }

    /// Reads a sysctl; `None` if the kernel has none of this name, or not in this namespace.
    ///
    /// # Errors
    /// A failure to read it.
    pub(super) fn try_sysctl(&self, name: &str) -> Result<Option<String>, HostError> {
        self.try_read(&Self::path(name))
    }

    fn path(sysctl: &str) -> String {
        format!("/proc/sys/{}", sysctl.replace('.', "/"))
    }

    /// Reads the `N` numbers of a sysctl.
    ///
    /// # Errors
    /// A failure to read it, or other content.
    pub(super) fn numbers<const N: usize>(&self, name: &str) -> Result<[u64; N], HostError> {
        let text = self.sysctl(name)?;
        let numbers: Option<Vec<u64>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
        let some = numbers.and_then(|numbers| numbers.get(..N)?.try_into().ok());
        some.ok_or_else(|| HostError(format!("{}: cannot parse '{text}'", Self::path(name))))
    }

    /// Reads a sysctl of one number.
    ///
    /// # Errors
    /// A failure to read it, or other content.
    pub(super) fn number(&self, name: &str) -> Result<u64, HostError> {
        self.numbers::<1>(name).map(|[number]| number)
    }

    /// Reads a field of `/proc/self/status` (proc(5)).
    ///
    /// # Errors
    /// A missing field.
    pub(super) fn status(&self, field: &str) -> Result<String, HostError> {
        let path = "/proc/self/status";
        let text = self.read(path)?;
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned()).ok_or_else(|| HostError(format!("{path}: no line {field}")))
    }

    /// Tells if this process has the capability for the whole machine: in a user namespace of its
    /// own, as in a rootless container, it would apply only to the resources of the namespace.
    ///
    /// # Errors
    /// A failure to find out.
    pub(super) fn has(&self, capability: Capability) -> Result<bool, HostError> {
        let text = self.status("CapEff")?;
        let set = u64::from_str_radix(&text, 16);
        let set = set.map_err(|_| HostError(format!("/proc/self/status: CapEff is '{text}'")))?;
        Ok(set & (1 << capability as u64) != 0 && self.in_first_user_namespace()?)
    }

    fn in_first_user_namespace(&self) -> Result<bool, HostError> {
        let path = "proc/self/ns/user";
        let namespace = fs::read_link(self.root.join(path)).map_err(|error| HostError(format!("/{path}: {error}")))?;
        Ok(namespace.as_os_str() == FIRST_USER_NAMESPACE)
    }

    /// Tells if a seccomp filter is in force on this process (`Seccomp: 2`, proc(5)).
    ///
    /// # Errors
    /// A failure to find out.
    pub(super) fn has_seccomp_filter(&self) -> Result<bool, HostError> {
        Ok(self.status("Seccomp")? == "2")
    }

    /// Command for setting a sysctl: inside a container its files are read-only.
    #[must_use]
    pub(super) fn set(&self, scope: Scope, name: &str, value: &str) -> String {
        let value = if value.contains(' ') { format!("\"{value}\"") } else { value.to_owned() };
        match (self.has_read_only_sysctls(), scope) {
            (false, _) => format!("sysctl -w {name}={value}"),
            (true, Scope::Machine) => format!("sysctl -w {name}={value}    # on the host of this container"),
            (true, Scope::Network) => format!("podman run --sysctl {name}={value} ...    # docker run does the same"),
        }
    }

    /// Podman and Docker mount `/proc/sys` read-only over itself.
    fn has_read_only_sysctls(&self) -> bool {
        let mounts = self.read("/proc/self/mountinfo").unwrap_or_default();
        mounts.lines().any(|line| {
            // The fields are those of proc(5): number, parent, device, root, mount point, options.
            let fields: Vec<&str> = line.split(' ').take(6).collect();
            matches!(fields[..], [_, _, _, _, "/proc/sys", options] if options.split(',').any(|option| option == "ro"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::Tree;
    use super::*;

    #[test]
    fn what_cannot_be_read_says_why() {
        let tree = Tree::new(&[("proc/sys/net/core/somaxconn", "4096\n"), ("proc/sys/fs/odd", "1 x\n")]);
        let host = tree.host();
        assert_eq!(host.number("net.core.somaxconn"), Ok(4_096));
        let no_file = host.number("net.core.other").unwrap_err();
        assert_eq!(no_file.to_string(), "/proc/sys/net/core/other: no such file");
        let odd = host.numbers::<2>("fs.odd").unwrap_err();
        assert_eq!(odd.to_string(), "/proc/sys/fs/odd: cannot parse '1 x'");
        assert!(host.numbers::<2>("net.core.somaxconn").is_err());
        assert_eq!(host.try_sysctl("net.core.other"), Ok(None));
        let folder = host.sysctl("net").unwrap_err();
        assert!(folder.to_string().starts_with("/proc/sys/net: Is a directory"), "{folder}");
    }

    #[test]
    fn a_capability_counts_in_the_first_user_namespace_alone() {
        // CAP_SYS_RESOURCE is bit 24.
        let tree = Tree::new(&[("proc/self/status", "Name:\tx\nCapEff:\t0000000001000000\nSeccomp:\t2\n")]);
        let host = tree.host();
        assert!(host.has(Capability::SysResource).unwrap_err().to_string().starts_with("/proc/self/ns/user: "));
        tree.link("proc/self/ns/user", "user:[4026531837]");
        assert_eq!(host.has(Capability::SysResource), Ok(true));
        assert_eq!(host.has(Capability::Bpf), Ok(false));
        assert_eq!(host.has_seccomp_filter(), Ok(true));
        let own = Tree::new(&[("proc/self/status", "CapEff:\t000001ffffffffff\nSeccomp:\t0\n")]);
        own.link("proc/self/ns/user", "user:[4026532999]");
        assert_eq!(own.host().has(Capability::SysResource), Ok(false));
        assert_eq!(own.host().has_seccomp_filter(), Ok(false));
    }

    #[test]
    fn in_a_container_a_sysctl_is_set_from_outside() {
        let outside = Tree::new(&[("proc/self/mountinfo", "22 1 0:20 / /proc rw,relatime - proc proc rw\n")]);
        let fix = outside.host().set(Scope::Network, "net.ipv4.tcp_rmem", "1 2 3");
        assert_eq!(fix, "sysctl -w net.ipv4.tcp_rmem=\"1 2 3\"");
        let inside = Tree::new(&[(
            "proc/self/mountinfo",
            "22 1 0:20 / /proc rw,relatime - proc proc rw\n23 22 0:20 /sys /proc/sys ro,nosuid - proc proc rw\n",
        )]);
        let set = |scope, name| inside.host().set(scope, name, "7");
        assert!(set(Scope::Network, "net.core.somaxconn").starts_with("podman run --sysctl net.core.somaxconn=7 ..."));
        assert!(set(Scope::Machine, "fs.file-max").ends_with("fs.file-max=7    # on the host of this container"));
    }
}
