//! A network namespace for one run: nobody else's ports, settings or firewall, and the same congestion
//! control for all that are compared.

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

/// Set in the environment of a run that is inside.
const INSIDE: &str = "SLUICEGATE_BENCH_NAMESPACE";

/// The one that not every kernel has.
const REUSE_DELAY: &str = "ipv4/tcp_tw_reuse_delay";

/// What differs from a new namespace of the kernel, below /proc/sys/net.
const SETTINGS: &[(&str, &str)] = &[
    // 10,000 tunnels, and what thousands of short ones a second leave behind for a minute.
    ("ipv4/ip_local_port_range", "1024 65535"),
    ("ipv4/tcp_tw_reuse", "1"),
    // In ms, since Linux 6.14. A second, as it is otherwise, lets connect(2) search for a free port from
    // 30,000 tunnels a second on, which only the way without a proxy reaches.
    (REUSE_DELAY, "1"),
    ("core/somaxconn", "65535"),
    ("ipv4/tcp_max_syn_backlog", "65535"),
    // What one measurement learned of the path would change the next.
    ("ipv4/tcp_no_metrics_save", "1"),
];

/// Whether this process runs in a namespace that the bench made.
#[must_use]
pub fn inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Goes on inside a namespace of its own when that is possible: as root, by unshare(1), in the same
/// process. Returns whether this is inside one.
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
    // Only returns when it fails.
    Err(Command::new("unshare").args(["--net", "--"]).arg(program).args(arguments).env(INSIDE, "1").exec())
}

/// Root of a container may not.
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
        // A container may have /proc/sys for reading only; the run goes on with what there is.
        if let Err(error) = fs::write(&path, value) {
            eprintln!("{} stays as it is: {error}", path.display());
        }
    }
    netlink::loopback_up()?;
    // By the routes: a namespace may not make it the default unless the host permits it to everybody
    // (`tcp_allowed_congestion_control`).
    for (address, length) in [([127, 0, 0, 0], 8), ([127, 0, 0, 1], 32)] {
        netlink::congestion_control(address, length, CONGESTION_CONTROL)?;
    }
    Ok(())
}

/// The congestion control that a connection over loopback gets which does not choose.
///
/// # Errors
/// Those of the sockets.
pub fn congestion_control() -> io::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    Ok(String::from_utf8_lossy(&SockRef::from(&stream).tcp_congestion()?).trim_end_matches('\0').to_owned())
}
