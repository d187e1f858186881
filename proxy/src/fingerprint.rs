//! Whether a file is another one than before.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::file;

/// What tells one state of a file from another: the file itself, and the times of its last change
/// in content and in owner or mode (a file made readable counts as changed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileFingerprint {
    /// Follows symbolic links; `None` if there is nothing, or it cannot be seen, as on a file system that does
    /// not answer within [`file::TIMEOUT`].
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
