//! HAProxy in TCP mode: a plain TCP proxy with a fixed upstream, by splice(2).

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::instance::Contender;
use super::program::{cores, first_line, says, write};
use crate::machine;
use crate::process::{Process, folder, free_port};
use crate::socket::Proxy;

/// Maximum number of pipes: two for each tunnel that moves bytes in both directions.
const PIPES: u64 = 200;

/// Starts `program`.
///
/// # Errors
/// HAProxy does not start.
pub(super) fn start(program: &Path, origin: SocketAddr) -> io::Result<Contender> {
    let (folder, address) = (folder()?, free_port()?);
    let config = write(folder.path(), "haproxy.cfg", &config(address, origin))?;
    let mut process = Process::start("haproxy", Command::new(program).args(["-db", "-f"]).arg(config), Some(folder))?;
    process.accepts(address)?;
    let version = first_line(&says(program, "-v")?);
    Ok(Contender::started(process, "haproxy", version, Proxy::Plain(address), origin))
}

/// Configuration with pipes of 1 MiB: the default size is slower still. HAProxy requests all
/// descriptors implied by its limits at start, and exits if refused.
pub(super) fn config(address: SocketAddr, origin: SocketAddr) -> String {
    let connections = machine::descriptors().saturating_sub(2 * PIPES + 100).min(100_000) / 2;
    format!(
        "global
    nbthread {cores}
    maxconn {connections}
    maxpipes {PIPES}
    tune.pipesize 1048576
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 1h
    timeout server 1h
frontend clients
    bind {address} backlog 4096
    default_backend origin
backend origin
    server origin {origin}
",
        cores = cores()
    )
}
