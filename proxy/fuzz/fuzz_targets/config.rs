//! Any text as the configuration file: no panic, and errors naming the file.

#![no_main]

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use libfuzzer_sys::fuzz_target;
use sluicegate::commands;

fuzz_target!(|data: &[u8]| {
    let Ok(file) = memory_file(data) else { return };
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let arguments = ["sluicegate", "check", "--config"].map(OsString::from).into_iter().chain([path.into()]);
    // Its errors are texts; the assertion is its return.
    let _ = commands::parse(arguments);
});

/// A file in memory alone.
fn memory_file(data: &[u8]) -> std::io::Result<OwnedFd> {
    let descriptor = rustix::fs::memfd_create("config", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(data)?;
    Ok(file.into())
}
