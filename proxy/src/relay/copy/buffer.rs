//! Per-thread buffers kept for the next burst, bounded for all tunnels together.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes per read. Larger reads gain little and hold more memory for a slow reader.
const BUFFER: usize = 256 << 10;

/// Bytes per read while [`IN_USE`] is at its limit: the memory held by each stopped reader.
const SMALL_BUFFER: usize = 16 << 10;

/// Maximum of full-size buffers in use at once: 64 MiB.
const MAX_IN_USE: usize = 256;

/// Full-size buffers holding waiting bytes.
static IN_USE: AtomicUsize = AtomicUsize::new(0);

/// Free buffers kept per thread.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer, from the thread's free list if it has one.
pub(super) struct Buffer {
    pub(super) bytes: Box<[u8]>,
    in_use: &'static AtomicUsize,
}

impl Buffer {
    pub(super) fn take() -> Self {
        Self::within(&IN_USE)
    }

    fn within(in_use: &'static AtomicUsize) -> Self {
        if in_use.fetch_add(1, Ordering::Relaxed) >= MAX_IN_USE {
            in_use.fetch_sub(1, Ordering::Relaxed);
            return Self { bytes: vec![0; SMALL_BUFFER].into_boxed_slice(), in_use };
        }
        let kept = FREE.with_borrow_mut(Vec::pop);
        Self { bytes: kept.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice()), in_use }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if bytes.len() < BUFFER {
            return;
        }
        self.in_use.fetch_sub(1, Ordering::Relaxed);
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_small_while_many_are_held() {
        static HELD: AtomicUsize = AtomicUsize::new(0);
        let take = || Buffer::within(&HELD);
        let held: Vec<_> = (0..MAX_IN_USE + 8).map(|_| take()).collect();
        assert!(held[..MAX_IN_USE].iter().all(|buffer| buffer.bytes.len() == BUFFER));
        assert!(held[MAX_IN_USE..].iter().all(|buffer| buffer.bytes.len() == SMALL_BUFFER));
        drop(held);
        assert_eq!(take().bytes.len(), BUFFER);
    }
}
