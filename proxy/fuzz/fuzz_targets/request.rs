//! Any bytes as a request head: no panic, one answer for every division of the bytes, targets equal
//! after display and parsing, and refusals short enough for a status line.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::request::{MAX_HEAD, Parsed, parse};
use sluicegate::target::{Target, normal_name};

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    for cut in cuts(data.len()) {
        let part = parse(&data[..cut]);
        assert!(part == Ok(None) || part == whole, "cut at {cut}: {part:?}, whole: {whole:?}");
    }
    match whole {
        Ok(Some(parsed)) => check_head(&parsed, data),
        Ok(None) => assert!(data.len() < MAX_HEAD),
        Err(refusal) => {
            assert!(refusal.detail.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{refusal:?}");
            assert!(refusal.reason.status().is_some(), "{refusal:?}");
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        check_target(text);
    }
});

/// Every place in a short input; in a long one the ends, where tokens and the limit are.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..len).filter(move |cut| *cut < 256 || len - cut < 64 || cut.abs_diff(MAX_HEAD) < 4)
}

fn check_head(parsed: &Parsed, data: &[u8]) {
    assert!(parsed.head_len <= data.len().min(MAX_HEAD));
    let head = &data[..parsed.head_len];
    // A line of a CONNECT may end in LF alone.
    assert!(head.ends_with(b"\n\r\n") || head.ends_with(b"\n\n"));
    assert_eq!(parse(head).as_ref(), Ok(&Some(parsed.clone())));
    assert_eq!(parse(&head[..head.len() - 1]), Ok(None));
    check_shown(parsed.request.target.clone());
}

/// The displayed target parses as the target, except for the final dot of a name.
fn check_shown(target: Target) {
    assert_eq!(Target::parse(&target.to_string()), Ok(Target { absolute: false, ..target }));
}

fn check_target(text: &str) {
    if let Ok(target) = Target::parse(text) {
        check_shown(target);
    }
    if let Ok(name) = normal_name(text) {
        assert_eq!(normal_name(&name), Ok(name));
    }
}
