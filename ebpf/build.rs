//! Says which object of the kernel program is linked: the committed one, unless
//! `SLUICEGATE_EBPF_OBJECT` names another, as `cargo xtask test` does with the one that it has just
//! built from source.

use std::env;
use std::path::PathBuf;

fn main() {
    const CHOSEN: &str = "SLUICEGATE_EBPF_OBJECT";
    println!("cargo::rerun-if-env-changed={CHOSEN}");
    let committed = || PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("redirect.o");
    let object = env::var_os(CHOSEN).filter(|path| !path.is_empty()).map_or_else(committed, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    println!("cargo::rustc-env=OBJECT={}", object.display());
}
