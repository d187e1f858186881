//! Detection of a changed file.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::file;

/// Fingerprint of a file's state: the file itself, and the times of its last change in content and
/// in owner or mode (a file made readable counts as changed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileFingerprint {
    /// Follows symbolic links. `None` for a missing or inaccessible file, as on a file system
    /// without an answer within [`file::TIMEOUT`].
    #[must_use]
    pub fn of(path: &Path) -> Option<Self> {
        file::metadata(path).ok().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileFingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
