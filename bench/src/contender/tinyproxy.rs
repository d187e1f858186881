//! tinyproxy: CONNECT with Basic.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::instance::Contender;
use super::program::{USER, first_line, says, write};
use crate::process::{Process, folder, free_port};
use crate::socket::Proxy;

/// Starts `program`.
///
/// # Errors
/// tinyproxy does not start.
pub(super) fn start(program: &Path, origin: SocketAddr) -> io::Result<Contender> {
    let (folder, address) = (folder()?, free_port()?);
    let config = write(folder.path(), "tinyproxy.conf", &config(address))?;
    let mut process = Process::start("tinyproxy", Command::new(program).args(["-d", "-c"]).arg(config), Some(folder))?;
    process.accepts(address)?;
    let version = first_line(&says(program, "-v")?);
    let proxy = Proxy::Connect { address, user: Some(format!("{USER}:{USER}")) };
    Ok(Contender::started(process, "tinyproxy", version, proxy, origin))
}

/// Configuration. Without a `ConnectPort` every port is permitted.
fn config(address: SocketAddr) -> String {
    format!(
        "Port {}
Listen {}
Timeout 3600
MaxClients 10000
LogLevel Error
BasicAuth {USER} {USER}
",
        address.port(),
        address.ip()
    )
}
