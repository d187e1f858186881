//! Programs for the demo and the tests: finds them and installs missing ones.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Context, Failure, Result};

/// A program with its alternative names, or a file by its path, and its Debian package.
#[derive(Clone, Copy, Debug)]
pub struct Tool {
    /// Names, the preferred one first, or a path.
    pub programs: &'static [&'static str],
    /// Name of the Debian package.
    pub package: &'static str,
}

/// Copier: rsync is client and daemon in one.
pub const RSYNC: Tool = Tool { programs: &["rsync"], package: "rsync" };
/// TLS around rsync. Releases without version 3 name the program plain stunnel.
pub const STUNNEL: Tool = Tool { programs: &["stunnel4", "stunnel"], package: "stunnel4" };
/// Router.
pub const HAPROXY: Tool = Tool { programs: &["haproxy"], package: "haproxy" };
/// Certificates.
pub const OPENSSL: Tool = Tool { programs: &["openssl"], package: "openssl" };

/// Proxy with users of its own.
pub const SQUID: Tool = Tool { programs: &["squid"], package: "squid" };

/// Programs for a migration.
pub const MIGRATION: &[Tool] = &[RSYNC, STUNNEL, HAPROXY, OPENSSL];

/// Programs for the tests: a migration, and every client tested with the gateway.
pub const TESTS: &[Tool] = &[
    RSYNC,
    STUNNEL,
    HAPROXY,
    OPENSSL,
    SQUID,
    Tool { programs: &["curl"], package: "curl" },
    Tool { programs: &["wget"], package: "wget" },
    Tool { programs: &["ncat"], package: "ncat" },
    Tool { programs: &["socat"], package: "socat" },
    Tool { programs: &["promtool"], package: "prometheus" },
    Tool { programs: &["node"], package: "nodejs" },
    Tool { programs: &["python3"], package: "python3" },
    Tool { programs: &["/usr/lib/python3/dist-packages/websockets/client.py"], package: "python3-websockets" },
    Tool { programs: &["kubectl"], package: "kubernetes-client" },
    Tool { programs: &["ip"], package: "iproute2" },
    Tool { programs: &["nft"], package: "nftables" },
];

/// Contenders of the gateway. nginx needs two packages.
pub const CONTENDERS: &[Tool] = &[
    HAPROXY,
    Tool { programs: &["nginx"], package: "nginx-light" },
    Tool { programs: &["nginx"], package: "libnginx-mod-stream" },
    SQUID,
    Tool { programs: &["tinyproxy"], package: "tinyproxy-bin" },
];

impl Tool {
    /// Preferred name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.programs[0]
    }

    /// Path of the program. Searches the folders of daemons too: they are not in an ordinary user's
    /// `PATH`.
    #[must_use]
    pub fn find(&self) -> Option<PathBuf> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> =
            env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from)).collect();
        let is_it = |name: &str, path: &Path| if name.starts_with('/') { path.is_file() } else { is_executable(path) };
        self.programs.iter().find_map(|name| folders.iter().map(|f| f.join(name)).find(|p| is_it(name, p)))
    }
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// Tools not yet installed.
#[must_use]
pub fn missing(tools: &[Tool]) -> Vec<Tool> {
    tools.iter().filter(|tool| tool.find().is_none()).copied().collect()
}

/// Tests if this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Command line that installs `tools`, to be typed by the user.
#[must_use]
pub fn apt_line(tools: &[Tool]) -> String {
    let sudo = if is_root() { "" } else { "sudo " };
    format!("{sudo}apt-get install --yes --no-install-recommends {}", packages(tools).join(" "))
}

fn packages(tools: &[Tool]) -> Vec<&'static str> {
    tools.iter().map(|tool| tool.package).collect()
}

/// Installs `tools` with apt-get, as root or by sudo without a password.
///
/// # Errors
/// Neither is possible or apt-get fails; the error has the command to type.
pub fn install(tools: &[Tool]) -> Result<()> {
    let line = apt_line(tools);
    let refused = |why: &str| Failure::new(format!("{why}; install what is missing by:\n  {line}"));
    let apt = Tool { programs: &["apt-get"], package: "apt" };
    if apt.find().is_none() {
        return Err(refused("there is no apt-get here"));
    }
    if !is_root() && !succeeds(Command::new("sudo").args(["-n", "true"]).stderr(Stdio::null())) {
        return Err(refused("only root can install packages"));
    }
    // Package lists of a fresh container are empty: fetch them if a package is not found.
    if succeeds(&mut apt_get(&["install"], &packages(tools))) {
        return Ok(());
    }
    let updated = succeeds(&mut apt_get(&["update"], &[]));
    if updated && succeeds(&mut apt_get(&["install"], &packages(tools))) {
        Ok(())
    } else {
        Err(refused("apt-get failed"))
    }
}

fn apt_get(verb: &[&str], packages: &[&str]) -> Command {
    let options = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2", "--yes", "--no-install-recommends"];
    let (program, before): (&str, &[&str]) = if is_root() { ("env", &[]) } else { ("sudo", &["-n", "env"]) };
    let mut command = Command::new(program);
    command.args(before).args(options).args(verb).args(packages).stdout(Stdio::null());
    command
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Installs a cargo subcommand unless present.
///
/// # Errors
/// `cargo install` fails.
pub fn cargo_subcommand(name: &'static str) -> Result<()> {
    let present = Command::new("cargo").args([name, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if present.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    let package = format!("cargo-{name}");
    let status = Command::new("cargo").args(["install", "--locked", &package]).status().context("starting cargo")?;
    if status.success() { Ok(()) } else { Err(Failure::new(format!("cargo install --locked {package} failed"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_missing() {
        let shell = Tool { programs: &["no-such-program", "sh"], package: "dash" };
        let file = Tool { programs: &["/etc/passwd"], package: "base-passwd" };
        assert_eq!(file.find(), Some(PathBuf::from("/etc/passwd")));
        let absent = Tool { programs: &["no-such-program"], package: "no-such-package" };
        assert!(shell.find().is_some_and(|path| path.ends_with("sh")));
        let missing = missing(&[shell, absent]);
        assert_eq!(packages(&missing), ["no-such-package"]);
        assert!(apt_line(&missing).ends_with(" no-such-package"));
    }
}
