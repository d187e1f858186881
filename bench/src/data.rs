//! Payload: random bytes, equal in every process, so that received data can be compared.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use rustix::fs::{MemfdFlags, memfd_create};

/// Length of the random bytes, sent again and again. Not a power of two: loss or repetition of
/// whole pages, pipes or buffers shows.
pub const LENGTH: usize = (16 << 20) - 4099;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut bytes: Vec<u8> = (0..=LENGTH / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(LENGTH);
    bytes
});

/// Bytes of the endless stream from `place` up to the next repetition.
#[must_use]
pub fn from(place: u64) -> &'static [u8] {
    let place = usize::try_from(place % LENGTH as u64).unwrap_or(0);
    &BYTES[place..]
}

/// Creates a file in memory with the payload.
///
/// # Errors
/// Errors of memfd_create(2) and of writing.
pub fn file() -> io::Result<OwnedFd> {
    let file = memfd_create("bench-data", MemfdFlags::CLOEXEC)?;
    let mut written = 0;
    while written < BYTES.len() {
        written += rustix::io::pwrite(&file, &BYTES[written..], written as u64)?;
    }
    Ok(file)
}

/// xorshift64: fast and repeatable, not for cryptography.
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
