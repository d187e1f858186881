//! Place of the workspace on disk.

use std::path::Path;

/// Root of the workspace: the folder above this crate.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
