//! What the kernel complains of while a test runs.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;

use super::process::skipped;

/// Words of the kernel's that mean that something is wrong with it.
const COMPLAINTS: &[&str] = &["BUG", "WARNING", "Oops", "seq # bug", "refcount", "KASAN", "hung task", "soft lockup"];

/// The kernel's log from here on (`Documentation/ABI/testing/dev-kmsg`).
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

    /// Nothing came that is a complaint.
    pub(crate) fn holds_no_complaint(&mut self) {
        let Some(log) = &mut self.0 else { return };
        // A record a call.
        let mut record = vec![0; 8192];
        loop {
            match log.read(&mut record) {
                Ok(length) => {
                    let text = String::from_utf8_lossy(&record[..length]);
                    assert!(!COMPLAINTS.iter().any(|word| text.contains(word)), "the kernel says: {text}");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Records were lost for those that came after.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => panic!("/dev/kmsg: {error}"),
            }
        }
    }
}
