//! Defaults of a run: engines of the gateway, and an origin of its own.

use std::io;
use std::net::SocketAddr;

use sluicegate_bench::origin;
use sluicegate_bench::process::Process;

/// Engines measured by default. `sockmap` needs capabilities to start.
pub(crate) fn usual_engines() -> Vec<String> {
    let all = ["uring", "uring --spin 0s", "splice", "sockmap", "copy"];
    let may = |engine: &&str| *engine != "sockmap" || rustix::process::geteuid().is_root();
    all.into_iter().filter(may).map(str::to_owned).collect()
}

/// Returns the origin at `target`, or starts one for the lifetime of the returned process.
pub(crate) fn far_end(target: Option<SocketAddr>, mixed: bool) -> io::Result<(Option<Process>, SocketAddr)> {
    if let Some(target) = target {
        return Ok((None, target));
    }
    let (process, address) = origin::spawn(SocketAddr::from(([127, 0, 0, 1], 0)), mixed)?;
    Ok((Some(process), address))
}
