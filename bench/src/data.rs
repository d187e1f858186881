//! The bytes that are sent: random, and the same in every process, so that what arrives can be compared.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::fs::{MemfdFlags, memfd_create};

/// Length of the random bytes, which are sent again and again. No power of two: what is lost or repeated
/// in whole pages, pipes or buffers does not come out even.
pub const LENGTH: usize = (16 << 20) - 4099;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut bytes: Vec<u8> = (0..=LENGTH / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(LENGTH);
    bytes
});

/// The bytes from `place` on of the endless stream, up to where it begins again.
#[must_use]
pub fn from(place: u64) -> &'static [u8] {
    let place = usize::try_from(place % LENGTH as u64).unwrap_or(0);
    &BYTES[place..]
}

/// A file in memory with the bytes.
///
/// # Errors
/// Those of memfd_create(2) and of writing.
pub fn file() -> io::Result<OwnedFd> {
    let file = memfd_create("bench-data", MemfdFlags::CLOEXEC)?;
    let mut written = 0;
    while written < BYTES.len() {
        written += rustix::io::pwrite(&file, &BYTES[written..], written as u64)?;
    }
    Ok(file)
}

/// xorshift64: fast, repeatable, and of no other worth.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
