//! State of every direction, in memory shared with the kernel's program.

use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use sluicegate_ebpf::{Direction, TORN};

/// State of every direction, in memory shared with the kernel's program.
#[derive(Debug)]
pub struct Directions {
    memory: NonNull<Direction>,
    entries: u32,
}

// SAFETY: the memory is mapped for as long as this exists, at one address for all threads, and
// every access is atomic.
unsafe impl Send for Directions {}
// SAFETY: as for `Send`.
unsafe impl Sync for Directions {}

/// Byte counts of a direction, kept by the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes redirected.
    pub redirected: u64,
    /// Bytes left to userspace.
    pub passed: u64,
}

impl Directions {
    /// Maps the array with this many entries.
    pub(super) fn map(map: &MapData, entries: u32) -> io::Result<Self> {
        let length = Self::length(entries);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping, at an address chosen by the kernel, overlapping nothing.
        let memory = unsafe { mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, map.fd().as_fd(), 0)? };
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, entries })
    }

    /// Length of the mapping in bytes: whole pages (`kernel/bpf/arraymap.c`, `array_map_mmap`).
    fn length(entries: u32) -> usize {
        (entries as usize * size_of::<Direction>()).next_multiple_of(rustix::param::page_size())
    }

    /// Resets a direction: zero counts, and no redirection until [`Directions::enable`].
    pub fn reset(&self, slot: u32, limit: u64, acked_before: u64) {
        for field in [Field::Owner, Field::Redirects, Field::Redirected, Field::Passed, Field::Relayed] {
            self.at(slot, field).store(0, Ordering::Relaxed);
        }
        self.at(slot, Field::Limit).store(limit, Ordering::Relaxed);
        self.at(slot, Field::AckedBefore).store(acked_before, Ordering::Release);
    }

    /// Makes the program redirect from now on, or leave all segments to userspace.
    pub fn enable(&self, slot: u32, redirects: bool) {
        let owner = self.at(slot, Field::Owner);
        // Only userspace writes this field.
        let now = owner.load(Ordering::Relaxed) & !1 | u64::from(redirects);
        owner.store(now, Ordering::Release);
    }

    /// Assigns the slot to the source with this cookie: segments of other sources do not use it.
    pub(super) fn set_owner(&self, slot: u32, cookie: u64) {
        self.at(slot, Field::Owner).store(cookie << 1, Ordering::Release);
    }

    /// Reads the program's counts.
    #[must_use]
    pub fn counts(&self, slot: u32) -> Counts {
        // In this order: a reader that sees a segment left to userspace must also see all bytes
        // redirected before it.
        let passed = self.at(slot, Field::Passed).load(Ordering::Acquire);
        let redirected = self.at(slot, Field::Redirected).load(Ordering::Acquire);
        Counts { redirected, passed }
    }

    /// Tests for a gap in the stream, after which the program passes on nothing more.
    #[must_use]
    pub fn is_torn(&self, slot: u32) -> bool {
        self.at(slot, Field::Redirects).load(Ordering::Relaxed) == TORN
    }

    /// Tells the program how many of the bytes left to userspace have been sent to the destination.
    pub fn set_relayed(&self, slot: u32, relayed: u64) {
        self.at(slot, Field::Relayed).store(relayed, Ordering::Release);
    }

    /// Makes the program miss the next byte.
    #[cfg(test)]
    pub(crate) fn lose_a_byte(&self, slot: u32) {
        // The expected sequence number is in the upper half.
        self.at(slot, Field::WrittenBeforeAndNext).fetch_sub(1 << 32, Ordering::Relaxed);
    }

    fn at(&self, slot: u32, field: Field) -> &AtomicU64 {
        assert!(slot < self.entries, "slot {slot} of {}", self.entries);
        // SAFETY: the slot was just checked against the number of directions in the mapping.
        let direction = unsafe { self.memory.add(slot as usize) };
        // SAFETY: every field is within its direction.
        let field = unsafe { direction.cast::<u64>().add(field as usize) };
        // SAFETY: aligned like the page at the start of the mapping, lives as long as `self`, and
        // is accessed in this process only through atomics.
        unsafe { AtomicU64::from_ptr(field.as_ptr()) }
    }
}

impl Drop for Directions {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no reference into it
        // outlives `self`.
        let _ = unsafe { munmap(self.memory.as_ptr().cast(), Self::length(self.entries)) };
    }
}

/// Index of a field in [`Direction`], in units of 8 bytes.
#[derive(Clone, Copy)]
enum Field {
    Redirected = 0,
    Passed = 1,
    Redirects = 2,
    Relayed = 3,
    Limit = 4,
    AckedBefore = 5,
    Owner = 6,
    #[cfg(test)]
    WrittenBeforeAndNext = 7,
}

const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Direction, redirected) == 8 * Field::Redirected as usize);
    assert!(offset_of!(Direction, passed) == 8 * Field::Passed as usize);
    assert!(offset_of!(Direction, redirects) == 8 * Field::Redirects as usize);
    assert!(offset_of!(Direction, relayed) == 8 * Field::Relayed as usize);
    assert!(offset_of!(Direction, limit) == 8 * Field::Limit as usize);
    assert!(offset_of!(Direction, acked_before) == 8 * Field::AckedBefore as usize);
    assert!(offset_of!(Direction, owner) == 8 * Field::Owner as usize);
};
