//! Versions and configuration files of the programs to start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name and password for proxies started by the bench.
pub(super) const USER: &str = "bench";

/// Output of `program` with `option`, standard output and error together.
pub(super) fn says(program: &Path, option: &str) -> io::Result<String> {
    let output = Command::new(program).arg(option).output();
    let output = output.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", program.display())))?;
    Ok([output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

pub(super) fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

pub(super) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

pub(super) fn write(folder: &Path, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    Ok(path)
}
