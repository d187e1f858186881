//! Buffers that a thread keeps for the next burst.

use std::cell::RefCell;

/// Bytes read at once. Larger ones gain little and hold more memory for a slow reader.
const BUFFER: usize = 256 << 10;

/// Buffers that a thread keeps.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer out of the thread's stock.
pub(super) struct Buffer(pub(super) Box<[u8]>);

impl Buffer {
    pub(super) fn take() -> Self {
        let kept = FREE.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; BUFFER].into_boxed_slice()))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        FREE.with_borrow_mut(|free| {
            if free.len() < KEPT {
                free.push(buffer);
            }
        });
    }
}
