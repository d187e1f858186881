//! Any bytes as chunked content: no panic, one end for every division of the bytes, and no byte
//! taken after the end.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::message::Content;

/// Returns the number of bytes taken, and true if the content is complete; `None` for refused
/// content.
fn take(data: &[u8], step: usize) -> Option<(usize, bool)> {
    let mut content = Content::chunked();
    let mut at = 0;
    while at < data.len() && !content.is_complete() {
        let piece = &data[at..data.len().min(at + step)];
        let taken = content.take(piece).ok()?;
        assert!(taken <= piece.len());
        assert!(taken == piece.len() || content.is_complete(), "{taken} of {} bytes and no end", piece.len());
        at += taken;
    }
    assert!(content.is_complete() || at == data.len());
    if content.is_complete() {
        assert_eq!(content.take(b"more").ok(), Some(0), "bytes behind the end");
    }
    Some((at, content.is_complete()))
}

fuzz_target!(|data: &[u8]| {
    let whole = take(data, data.len().max(1));
    for step in [1, 2, 3, 7, 64] {
        assert_eq!(take(data, step), whole, "in pieces of {step}");
    }
    if let Some((end, true)) = whole {
        assert!(data[..end].ends_with(b"\n"), "it ends with a line");
    }
});
