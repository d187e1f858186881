//! Every command that a developer or CI runs, as a library, so that the integration tests use the
//! same migration rig as `cargo xtask demo`.

pub mod bench;
pub mod check;
pub mod demo;
pub mod ebpf;
pub mod failure;
pub mod interrupt;
pub mod migration;
pub mod tidy;
pub mod tools;

use std::path::Path;

/// The root of the workspace: the folder above this crate.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
