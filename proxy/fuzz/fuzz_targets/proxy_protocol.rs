//! Any bytes as a PROXY protocol header: no panic, one answer for every division of the bytes, and
//! a parsed header can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::proxy_protocol::{MAX_HEADER, Version, header, parse};

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    for cut in 0..data.len().min(300) {
        let part = parse(&data[..cut]);
        assert!(part == Ok(None) || part == whole, "cut at {cut}: {part:?}, whole: {whole:?}");
    }
    match whole {
        Ok(None) => assert!(data.len() < MAX_HEADER),
        Ok(Some(read)) => {
            assert!(read.len <= data.len());
            assert_eq!(parse(&data[..read.len]), Ok(Some(read)));
            if let Some((from, to)) = read.addresses {
                for version in [Version::V1, Version::V2] {
                    let again = parse(&header(version, from, to)).expect("a header").expect("a whole one");
                    let (again, _) = again.addresses.expect("addresses");
                    assert_eq!((again.ip().to_canonical(), again.port()), (from.ip().to_canonical(), from.port()));
                }
            }
        }
        Err(_) => {}
    }
});
