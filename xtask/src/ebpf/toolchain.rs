//! Rust toolchain for BPF: a compiler with the source of its standard library, and `bpf-linker`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};
use crate::tools::{self, Tool};

/// Path of LLVM on Debian, for building bpf-linker.
const LLVM: &str = "/usr/lib/llvm-22";

/// Debian's Rust packages for browsers, hence the suffix web: newer than the release's Rust.
const DEBIAN: &[Tool] = &[
    Tool { programs: &["/usr/bin/rustc"], package: "rustc-web" },
    Tool { programs: &["/usr/bin/cargo"], package: "cargo-web" },
    Tool { programs: &["/usr/lib/rustlib/src/rust/library/core/src/lib.rs"], package: "rust-web-src" },
    Tool { programs: &["/usr/lib/llvm-22/bin/llvm-config"], package: "llvm-22-dev" },
];

const LINKER: Tool = Tool { programs: &["bpf-linker"], package: "bpf-linker" };

/// Compiler and cargo of the build.
#[derive(Debug)]
pub(super) enum Toolchain {
    /// Debian's packages, under /usr.
    Debian,
    /// rustup's nightly, with its component rust-src.
    Nightly,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = output(self.program("rustc").arg("--version")).unwrap_or_default();
        f.write_str(if version.is_empty() { "rustc" } else { &version })
    }
}

impl Toolchain {
    /// Finds a toolchain and the linker, or installs Debian's.
    ///
    /// # Errors
    /// Neither is present and the packages cannot be installed; the error has the commands to type.
    pub(super) fn find_or_install() -> Result<Self> {
        let toolchain = if has_debian() {
            Self::Debian
        } else if has_nightly() {
            Self::Nightly
        } else {
            Self::install()?
        };
        toolchain.install_linker()?;
        Ok(toolchain)
    }

    fn install() -> Result<Self> {
        println!("{}", tools::apt_line(DEBIAN));
        tools::install(DEBIAN).map_err(|failure| {
            let other = "or have rustup's: rustup toolchain install nightly --component rust-src";
            Failure::new(format!("the kernel program needs a Rust with the source of its library: {failure}\n{other}"))
        })?;
        if has_debian() {
            Ok(Self::Debian)
        } else {
            Err(Failure::new("Debian's packages did not bring a Rust for BPF"))
        }
    }

    fn install_linker(&self) -> Result<()> {
        if linker().is_some() {
            return Ok(());
        }
        let mut install = Command::new("cargo");
        install.args(["install", "--locked", "bpf-linker"]);
        if matches!(self, Self::Debian) {
            install.args(["--no-default-features", "--features", "llvm-22"]).env("LLVM_PREFIX", LLVM);
        }
        crate::subprocess::succeed(&mut install)
    }

    /// Command that builds the program into `target`.
    pub(super) fn cargo_build(&self, target: &Path) -> Command {
        let mut build = self.program("cargo");
        let linker = linker().unwrap_or_else(|| PathBuf::from("bpf-linker"));
        build
            .args(["build", "--quiet", "--release", "--locked", "--package", "sluicegate-ebpf"])
            .args(["--features", "program", "--bin", "redirect"])
            .args(["-Z", "build-std=core", "--target", "bpfel-unknown-none"])
            .current_dir(crate::workspace::root())
            .env("CARGO_TARGET_DIR", target)
            .env("CARGO_ENCODED_RUSTFLAGS", format!("-Clinker={}", linker.display()))
            // No paths of this machine, and only parts visible to the kernel.
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
            .env("CARGO_PROFILE_RELEASE_LTO", "thin")
            // build-std and the target are unstable, but the compiler is a Debian release.
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTFLAGS");
        build
    }

    /// Command for a program of this toolchain, set to use the compiler of the toolchain.
    fn program(&self, name: &str) -> Command {
        match self {
            Self::Debian => {
                let mut program = Command::new(format!("/usr/bin/{name}"));
                program.env("RUSTC", "/usr/bin/rustc");
                program
            }
            Self::Nightly => {
                let mut program = Command::new("rustup");
                program.args(["run", "nightly", name]).env_remove("RUSTC");
                program
            }
        }
    }
}

/// Tests if Debian's packages are installed and recent enough for this workspace.
fn has_debian() -> bool {
    let there = DEBIAN.iter().all(|tool| tool.programs.iter().any(|path| Path::new(path).exists()));
    there && output(Toolchain::Debian.program("rustc").arg("--version")).is_some_and(|version| is_recent(&version))
}

/// Tests if the output of `rustc --version` satisfies the minimum of the workspace.
fn is_recent(version: &str) -> bool {
    let number = version.split(' ').nth(1).unwrap_or_default();
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    let wanted = (1, env!("CARGO_PKG_RUST_VERSION").split('.').nth(1).and_then(|part| part.parse().ok()).unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= wanted
}

fn has_nightly() -> bool {
    let sysroot = output(Toolchain::Nightly.program("rustc").args(["--print", "sysroot"]));
    sysroot.is_some_and(|path| Path::new(&path).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists())
}

fn linker() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let installed = home.map(|home| home.join("bin/bpf-linker")).filter(|path| path.exists());
    LINKER.find().or(installed)
}

/// Output of a successful command.
fn output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_older_than_the_workspace_wants_is_not_taken() {
        for (version, recent) in [
            ("rustc 1.63.0 (4b91a6ea7 2022-08-08)", false),
            ("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)", true),
            ("rustc 2.0.0", true),
            ("", false),
        ] {
            assert_eq!(is_recent(version), recent, "{version}");
        }
    }
}
