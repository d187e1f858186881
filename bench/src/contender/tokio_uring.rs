//! The tokio-uring relay of this tool, in a process of its own.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::process::Command;

use super::instance::Contender;
use crate::process::Process;
use crate::socket::Proxy;

/// Starts the relay.
///
/// # Errors
/// The relay does not start, for example if io_uring is refused.
pub(super) fn start(origin: SocketAddr) -> io::Result<Contender> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["relay", "--target", &origin.to_string()]);
    let mut process = Process::start("tokio-uring", &mut command, None)?;
    let address = process.ready(|process| process.log().lines().next().and_then(|line| line.parse().ok()))?;
    Ok(Contender::started(process, "tokio-uring", "tokio-uring 0.5".into(), Proxy::Plain(address), origin))
}
