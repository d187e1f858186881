//! Network namespace for one run: its own ports, settings and firewall, and one congestion control
//! for all contenders.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use socket2::SockRef;

use crate::netlink;
use crate::socket::CONGESTION_CONTROL;

/// Environment variable set for a run inside the namespace.
const INSIDE: &str = "SLUICEGATE_BENCH_NAMESPACE";

/// Setting missing in older kernels.
const REUSE_DELAY: &str = "ipv4/tcp_tw_reuse_delay";

/// Settings that differ from a new namespace of the kernel, below /proc/sys/net.
const SETTINGS: &[(&str, &str)] = &[
    // Ports for 10,000 tunnels, and for thousands of short tunnels per second in TIME-WAIT for a
    // minute.
    ("ipv4/ip_local_port_range", "1024 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
    // In ms, since Linux 6.14. The default of 1 s makes connect(2) search for a free port from
    // 30,000 tunnels per second on, a rate reached only without a proxy.
    (REUSE_DELAY, "1"),
    ("core/somaxconn", "65535"),
    ("ipv4/tcp_max_syn_backlog", "65535"),
    // Metrics of the path cached by one measurement would affect the next.
    ("ipv4/tcp_no_metrics_save", "1"),
];

/// Tests if this process runs in a namespace of the bench.
#[must_use]
pub fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Re-executes this program in a network namespace of its own if possible: as root, by unshare(1),
/// in the same process. Returns true inside the namespace.
///
/// # Errors
/// The namespace cannot be set up.
pub fn enter() -> io::Result<bool> {
    if inside() {
        return set_up().map(|()| true);
    }
    if !rustix::process::geteuid().is_root() || !may_unshare() {
        return Ok(false);
    }
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let program = env::current_exe()?;
    // Returns only on failure.
    Err(Command::new("unshare").args(["--net", "--"]).arg(program).args(arguments).env(INSIDE, "1").exec())
}

/// Tests if unshare(1) is permitted: root of a container may lack the capability.
fn may_unshare() -> bool {
    let status = Command::new("unshare").args(["--net", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn set_up() -> io::Result<()> {
    for (name, value) in SETTINGS {
        let path = Path::new("/proc/sys/net").join(name);
        if *name == REUSE_DELAY && !path.exists() {
            continue;
        }
        // A container may mount /proc/sys read-only: continue with the present settings.
        if let Err(error) = fs::write(&path, value) {
            eprintln!("{} stays as it is: {error}", path.display());
        }
    }
    netlink::loopback_up()?;
    // Set by the routes: a namespace may set its default only to a congestion control permitted by
    // the host to everyone (`tcp_allowed_congestion_control`).
    for (address, length) in [([127, 0, 0, 0], 8), ([127, 0, 0, 1], 32)] {
        netlink::congestion_control(address, length, CONGESTION_CONTROL)?;
    }
    Ok(())
}

/// Default congestion control of a connection over loopback.
///
/// # Errors
/// Errors of the sockets.
pub fn congestion_control() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    Ok(String::from_utf8_lossy(&SockRef::from(&stream).tcp_congestion()?).trim_end_matches('\0').to_owned())
}
