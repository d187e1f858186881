//! Squid: CONNECT with Basic, caching nothing.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::instance::Contender;
use super::program::{USER, first_line, says, write};
use crate::machine;
use crate::process::{Process, folder, free_port};
use crate::socket::Proxy;

/// Paths of the htpasswd helper in the distributions.
const HELPERS: [&str; 3] =
    ["/usr/lib/squid/basic_ncsa_auth", "/usr/lib64/squid/basic_ncsa_auth", "/usr/libexec/squid/basic_ncsa_auth"];

/// Entry of the user, with its name as password, hashed by `openssl passwd -5`.
const HASH: &str = "$5$sluicegatebench$YTxrilgMOIgK5asfR478PISQbpe486OL/VaeHzOhX0D";

/// Starts `program`.
///
/// # Errors
/// Squid does not start, or its helper is missing.
pub(super) fn start(program: &Path, origin: SocketAddr) -> io::Result<Contender> {
    let (folder, address) = (folder()?, free_port()?);
    let config = write(folder.path(), "squid.conf", &config(folder.path(), address)?)?;
    let mut process =
        Process::start("squid", Command::new(program).args(["-N", "-d1", "-f"]).arg(config), Some(folder))?;
    process.accepts(address)?;
    let version = first_line(&says(program, "-v")?);
    let proxy = Proxy::Connect { address, user: Some(format!("{USER}:{USER}")) };
    Ok(Contender::started(process, "squid", version, proxy, origin))
}

pub(super) fn config(folder: &Path, address: SocketAddr) -> io::Result<String> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "squid has no basic_ncsa_auth where it is looked for");
    let helper = HELPERS.into_iter().find(|helper| Path::new(helper).is_file()).ok_or_else(missing)?;
    let users = write(folder, "users", &format!("{USER}:{HASH}\n"))?;
    Ok(format!(
        "http_port {address}
auth_param basic program {helper} {users}
auth_param basic children 2
acl known proxy_auth REQUIRED
http_access allow known
http_access deny all
cache deny all
access_log none
cache_log /dev/null
pid_filename none
coredump_dir {folder}
visible_hostname bench
shutdown_lifetime 0 seconds
max_filedescriptors {descriptors}
",
        descriptors = machine::descriptors().min(100_000),
        users = users.display(),
        folder = folder.display()
    ))
}
