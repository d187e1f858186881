//! Second proxy on the path, like the egress proxy of a network: Squid, with a user of its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::peers::start_listener;
use super::process::Process;
use crate::failure::{Context, Failure, Result};
use crate::tools;

/// User name.
const USER: &str = "onward";
/// Password of the user, percent-encoded for a URL.
const PASSWORD_IN_URL: &str = "onward%3A%40%25";

/// Password as hashed by `openssl passwd -5`.
const HASH: &str = "$5$onward$SvGpM16LQoUrXoZHoh9tr6q8wfD/CtCYVcD7aD95wI1";

/// Path of the htpasswd helper on Debian.
const HELPER: &str = "/usr/lib/squid/basic_ncsa_auth";

/// A running Squid that permits CONNECT to this user only.
#[derive(Debug)]
pub struct Parent {
    _process: Process,
    port: u16,
    folder: TempDir,
}

impl Parent {
    /// Starts Squid. Its output goes to a file in `dir`.
    ///
    /// # Errors
    /// Squid is missing or does not start; the error has the end of its log.
    pub fn start(dir: &Path) -> Result<Self> {
        let squid = tools::SQUID.find().ok_or_else(|| Failure::new(tools::apt_line(&[tools::SQUID])))?;
        // Squid started by root drops to another user, and must be able to read its files.
        let folder = tempfile::tempdir().context("a folder for Squid")?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).context(folder.path().display())?;
        let (users, config) = (folder.path().join("users"), folder.path().join("squid.conf"));
        fs::write(&users, format!("{USER}:{HASH}\n")).context(users.display())?;
        let (process, port) = start_listener("squid", dir, |port| {
            fs::write(&config, text(port, &users, folder.path())).context(config.display())?;
            let mut command = Command::new(&squid);
            command.args(["-N", "-d1", "-n", &service(port), "-f"]).arg(&config);
            Ok(command)
        })?;
        Ok(Self { _process: process, port, folder })
    }

    /// Value for `--parent`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{USER}:{PASSWORD_IN_URL}@127.0.0.1:{}", self.port)
    }

    /// Access log: a line for each closed tunnel.
    #[must_use]
    pub fn tunnels(&self) -> Vec<String> {
        let log = fs::read_to_string(access_log(self.folder.path())).unwrap_or_default();
        log.lines().filter(|line| line.contains("CONNECT")).map(str::to_owned).collect()
    }
}

impl Drop for Parent {
    /// Removes the shared memory, which Squid leaves behind when it is killed.
    fn drop(&mut self) {
        for segment in ["metadata", "queues", "readers"] {
            let _ = fs::remove_file(format!("/dev/shm/{}-cf__{segment}.shm", service(self.port)));
        }
    }
}

/// Service name, which is that of the shared memory as well: by its default name two Squids, of
/// different users even, would meet there.
fn service(port: u16) -> String {
    format!("sluicegate{}x{port}", std::process::id())
}

fn access_log(folder: &Path) -> PathBuf {
    folder.join("log/access.log")
}

fn text(port: u16, users: &Path, folder: &Path) -> String {
    let log = access_log(folder);
    // Writable for the unprivileged user of Squid.
    if let Some(place) = log.parent() {
        let _ = fs::create_dir_all(place).and_then(|()| fs::set_permissions(place, Permissions::from_mode(0o777)));
    }
    format!(
        "http_port 127.0.0.1:{port}\nauth_param basic program {HELPER} {users}\nauth_param basic children 2\n\
         acl known proxy_auth REQUIRED\nacl tunnel method CONNECT\nhttp_access allow tunnel known\nhttp_access deny all\ncache deny all\n\
         access_log stdio:{log}\ncache_log /dev/null\npid_filename none\ncoredump_dir {folder}\n\
         visible_hostname parent\nshutdown_lifetime 0 seconds\n",
        users = users.display(),
        log = log.display(),
        folder = folder.display(),
    )
}
