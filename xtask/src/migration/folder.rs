//! Temporary folder of a migration.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::process::wait_any;
use crate::failure::{Context, Result};

const DEADLINE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);

/// Folder removed on drop, even while an exiting process still writes to it: the rsyncd process of
/// a connection exits only after noticing the closed peer.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sluicegate-migration-").tempdir().context("temporary folder")?;
        Ok(Self(dir.keep()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while let Err(error) = fs::remove_dir_all(&self.0) {
            let left = error.kind() != ErrorKind::NotFound && self.0.exists();
            if !left || Instant::now() > deadline || wait_any(&[], TICK).is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn a_folder_goes_while_somebody_still_writes_to_it() {
        let folder = Folder::new().unwrap();
        let path = folder.path().to_owned();
        let written = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..3_000 {
                    // Fails after the removal of the folder.
                    let _ = fs::write(path.join(number.to_string()), "x");
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
            while written.load(Ordering::Relaxed) < 100 {
                thread::yield_now();
            }
            drop(folder);
        });
        assert!(!path.exists());
    }
}
