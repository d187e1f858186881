//! Library of all commands of developers and CI. The integration tests share its migration rig with
//! `cargo xtask demo`.

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

/// Root of the workspace: the folder above this crate.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
