//! `cargo xtask ebpf`: builds the kernel program, or checks the committed object against its
//! source.
//!
//! The object is committed, so building the product requires no BPF toolchain.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Failure, Result};
use crate::subprocess::succeed;

mod object;
mod toolchain;

use object::Program;
use toolchain::Toolchain;

/// Path of the committed object, from the root of the workspace.
const COMMITTED: &str = "ebpf/redirect.o";

/// Path of the built object, below cargo's target folder.
const BUILT: &str = "bpfel-unknown-none/release/redirect";

/// Builds the object from source and replaces the committed one.
///
/// # Errors
/// No toolchain can be found or installed, or the build fails.
pub fn build() -> Result<()> {
    let toolchain = Toolchain::find_or_install()?;
    let committed = crate::workspace::root().join(COMMITTED);
    fs::copy(from_source(&toolchain)?, &committed).context(committed.display())?;
    let program = read(&committed)?;
    println!("{COMMITTED}: {} instructions, {} maps, by {toolchain}", program.instructions(), program.maps.len());
    Ok(())
}

/// Builds the object and compares its parts visible to the kernel with the committed one. Returns
/// the path of the built object.
///
/// # Errors
/// The first difference; or the errors of [`build`].
pub fn check() -> Result<PathBuf> {
    let toolchain = Toolchain::find_or_install()?;
    let built = from_source(&toolchain)?;
    let fresh = read(&built)?;
    let committed = read(&crate::workspace::root().join(COMMITTED))?;
    match committed.differs_from(&fresh) {
        None => Ok(built),
        Some(what) => Err(Failure::new(format!(
            "{COMMITTED} is not what {toolchain} makes of the source: {what}; run `cargo xtask ebpf` and commit it"
        ))),
    }
}

fn from_source(toolchain: &Toolchain) -> Result<PathBuf> {
    let target = crate::workspace::root().join("target/ebpf");
    succeed(&mut toolchain.cargo_build(&target))?;
    Ok(target.join(BUILT))
}

fn read(path: &Path) -> Result<Program> {
    let bytes = fs::read(path).context(path.display())?;
    Program::parse(&bytes).map_err(|error| Failure::new(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_object_has_the_program_its_maps_and_no_path_of_a_machine() {
        let path = crate::workspace::root().join(COMMITTED);
        let program = read(&path).unwrap();
        let maps: Vec<&str> = program.maps.keys().map(String::as_str).collect();
        assert_eq!(maps, ["DESTINATIONS", "DIRECTIONS", "FULL", "SLOTS", "SOURCES"]);
        assert!((50..1_000).contains(&program.instructions()), "{}", program.instructions());
        let bytes = fs::read(&path).unwrap();
        for folder in [&b"/root"[..], b"/home", b"/usr", b"/build", b".cargo"] {
            assert!(!bytes.windows(folder.len()).any(|at| at == folder), "{}", String::from_utf8_lossy(folder));
        }
    }

    #[test]
    fn an_object_with_another_instruction_or_another_map_differs() {
        let bytes = fs::read(crate::workspace::root().join(COMMITTED)).unwrap();
        let committed = Program::parse(&bytes).unwrap();
        assert_eq!(committed.differs_from(&Program::parse(&bytes).unwrap()), None);
        for (section, said) in [("sk_skb/stream_verdict", "instructions of"), ("maps", "map DESTINATIONS")] {
            let mut changed = bytes.clone();
            let at = object::place(&bytes, section).unwrap();
            // The first field of a map is its type, and the first of an instruction its operation.
            changed[at] ^= 1;
            let said_of = committed.differs_from(&Program::parse(&changed).unwrap());
            assert!(said_of.as_deref().is_some_and(|it| it.starts_with(said)), "{section}: {said_of:?}");
        }
        assert!(Program::parse(&bytes[..bytes.len() / 2]).is_err());
    }
}
