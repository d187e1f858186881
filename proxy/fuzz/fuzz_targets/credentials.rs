//! Any bytes as a `Proxy-Authorization` header, as the text of a users file and as `--user`: no
//! panic, and no password or hash in an error.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sluicegate::auth::{check_credentials, check_users, parse_user};
use sluicegate::secret::Secret;

fuzz_target!(|data: &[u8]| {
    if let Err(refusal) = check_credentials(&Secret::new(data)) {
        assert!(refusal.detail.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{refusal:?}");
    }
    let (users, errors) = check_users(Path::new("USERS"), data);
    assert!(users <= data.split(|byte| *byte == b'\n').count());
    for error in errors {
        assert!(error.to_string().starts_with("USERS:"), "{error}");
    }
    if let Ok(text) = std::str::from_utf8(data) {
        match parse_user(text) {
            Ok((name, password)) => {
                assert_eq!([name.as_bytes(), password.expose()].join(&b':'), without_newline(text).as_bytes());
            }
            Err(error) => assert!(error.to_string().starts_with("--user"), "{error}"),
        }
    }
});

/// As a mounted secret may have one at its end.
fn without_newline(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text))
}
