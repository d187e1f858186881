//! Complaints in the kernel log while a test runs.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use super::skipped::skipped;

/// Words in the kernel log of a kernel bug or warning.
const COMPLAINTS: &[&str] = &["BUG", "WARNING", "Oops", "seq # bug", "refcount", "KASAN", "hung task", "soft lockup"];

/// The kernel log from the present position on (`Documentation/ABI/testing/dev-kmsg`).
#[derive(Debug)]
pub(crate) struct KernelLog(Option<File>);

impl KernelLog {
    pub(crate) fn from_now() -> Self {
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).expect("a flag");
        match OpenOptions::new().read(true).custom_flags(nonblocking).open("/dev/kmsg") {
            Ok(mut log) => {
                log.seek(SeekFrom::End(0)).expect("the end of the log");
                Self(Some(log))
            }
            Err(error) => {
                skipped(&format!("/dev/kmsg: {error}"));
                Self(None)
            }
        }
    }

    /// Asserts that the kernel has logged no complaint since.
    pub(crate) fn holds_no_complaint(&mut self) {
        let Some(log) = &mut self.0 else { return };
        // read(2) returns one record per call.
        let mut record = vec![0; 8192];
        loop {
            match log.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    assert!(!COMPLAINTS.iter().any(|word| text.contains(word)), "the kernel says: {text}");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The ring buffer has overwritten records: go on with the next one.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
    }
}
