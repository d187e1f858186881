//! Any bytes as the head of an answer of an origin or a parent proxy: no panic, a bound on its
//! length, and one reading for every division of the bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::message::{MAX_HEAD, MAX_HEADERS, answer};

/// Status, length and number of header lines of a head; `None`: more bytes are needed.
fn read(data: &[u8]) -> Result<Option<(u16, usize, usize)>, String> {
    let head = answer(data, |head| {
        assert!(head.status < 1_000 && head.headers.len() <= MAX_HEADERS);
        assert!(!head.phrase.contains(&b'\n'));
        (head.status, head.bytes.len(), head.headers.len())
    });
    head.map_err(|cause| cause.into_owned())
}

fuzz_target!(|data: &[u8]| {
    let whole = read(data);
    match &whole {
        Ok(Some((_, length, _))) => {
            assert!(*length <= data.len().min(MAX_HEAD));
            assert_eq!(read(&data[..*length]), whole);
        }
        Ok(None) => assert!(data.len() < MAX_HEAD, "a head without a bound"),
        Err(words) => assert!(words.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{words}"),
    }
    for cut in (0..data.len()).filter(|cut| *cut < 256 || data.len() - cut < 32) {
        if let Ok(Some(head)) = read(&data[..cut]) {
            assert_eq!(Ok(Some(head)), whole, "cut at {cut}");
        }
    }
});
