//! rsync processes that copy the volumes: one per volume, all concurrent.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::peers::{RSYNC_PASSWORD, RSYNC_USER};
use super::process::{Process, wait_any};
use crate::failure::Failure;
use crate::interrupt;

const TICK: Duration = Duration::from_millis(100);

/// Result of a successful copy.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Time from the start of the first rsync to the end of the last.
    pub elapsed: Duration,
}

/// Runs one rsync per port, from `source/volN` to the module `volN`. A failure comes with the
/// number of the volume.
pub(super) fn run(dir: &Path, ports: &[u16], tick: &mut dyn FnMut()) -> Result<Transfer, (usize, Failure)> {
    let start = Instant::now();
    let mut running = Vec::new();
    for (number, port) in ports.iter().enumerate() {
        let process = Process::spawn(&format!("rsync-{number}"), &mut command(dir, number, *port), dir);
        running.push((number, process.map_err(|failure| (number, failure))?));
    }
    while !running.is_empty() {
        interrupt::check().map_err(|failure| (0, failure))?;
        let waiting: Vec<&Process> = running.iter().map(|(_, process)| process).collect();
        wait_any(&waiting, TICK).map_err(|failure| (0, failure))?;
        tick();
        reap(&mut running)?;
    }
    Ok(Transfer { elapsed: start.elapsed() })
}

/// Removes successful processes; returns the failure of an unsuccessful one.
fn reap(running: &mut Vec<(usize, Process)>) -> Result<(), (usize, Failure)> {
    let mut index = 0;
    while let Some((number, process)) = running.get_mut(index) {
        match process.wait(Duration::ZERO).map_err(|failure| (*number, failure))? {
            None => index += 1,
            Some(status) if status.success() => drop(running.swap_remove(index)),
            Some(status) => return Err((*number, process.failure(&format!("failed ({status})")))),
        }
    }
    Ok(())
}

/// Options of a Direct Volume Migration, plus `-S`, added by operators for sparse images.
fn command(dir: &Path, number: usize, port: u16) -> Command {
    let mut source = dir.join(format!("source/vol{number}")).into_os_string();
    source.push("/");
    let mut command = Command::new("rsync");
    command
        .args(["-aHS", "--numeric-ids", "--delete", "--partial", "--timeout=120"])
        .arg(source)
        .arg(format!("rsync://{RSYNC_USER}@127.0.0.1:{port}/vol{number}/"))
        .env("RSYNC_PASSWORD", RSYNC_PASSWORD)
        .env_remove("RSYNC_PROXY")
        .env_remove("RSYNC_CONNECT_PROG");
    command
}
