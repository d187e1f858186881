//! The value of a `Proxy-Authorization` header (RFC 7617) to a user name and a password.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::reason::{Reason, Refusal};
use crate::secret::Secret;

use super::names::MAX_PASSWORD;

/// Some clients leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Other schemes in use by clients of proxies, for naming them in a refusal. Any other word is not
/// repeated: it may be the password of a client without a scheme.
const OTHER_SCHEMES: [&str; 6] = ["Bearer", "Digest", "Negotiate", "NTLM", "OAuth", "SCRAM-SHA-256"];

/// Name and password of a client.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    /// Name in UTF-8.
    pub(super) user: Vec<u8>,
    /// Password in UTF-8.
    pub(super) password: Secret,
    /// Bytes of the password where the credentials were Latin-1: its hash in a users file is of
    /// these if htpasswd ran in such a locale.
    pub(super) as_sent: Option<Secret>,
}

/// Reads the header's value: `Basic`, in any case, for stunnel sends `basic` (`src/protocol.c`),
/// then one or more spaces, then base64 of `user:password`, split at the first colon.
pub(super) fn parse(value: &Secret) -> Result<Credentials, Refusal> {
    let value = value.expose().trim_ascii();
    let (scheme, encoded) = match value.iter().position(|byte| *byte == b' ') {
        Some(space) => (&value[..space], value[space..].trim_ascii_start()),
        None => (value, &b""[..]),
    };
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return Err(other_scheme(scheme));
    }
    let decoded = BASE64.decode(encoded).map(Zeroizing::new);
    let decoded = decoded.map_err(|_| failed("invalid Basic credentials: not base64"))?;
    let colon = decoded.iter().position(|byte| *byte == b':');
    let colon = colon.ok_or_else(|| failed("invalid Basic credentials: no colon"))?;
    let (user, password) = (&decoded[..colon], &decoded[colon + 1..]);
    if str::from_utf8(&decoded).is_ok() {
        return accept(user.to_vec(), password.to_vec(), None);
    }
    // requests, aiohttp, Apache HttpClient 4.5 and OkHttp 3 send Latin-1 regardless of the
    // challenge: its `charset` is advice (RFC 7617, 2.1).
    accept(from_latin1(user), from_latin1(password), Some(password))
}

/// ISO 8859-1 to UTF-8: its bytes are the first 256 characters of Unicode.
fn from_latin1(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().map(char::from).collect::<String>().into_bytes()
}

/// Refuses credentials impossible for any user, without computing a hash: SHA-crypt's work grows
/// with a password's length, and bcrypt, reading a password and its closing NUL over and over,
/// cannot tell `ab` from `ab\0ab`.
fn accept(user: Vec<u8>, password: Vec<u8>, as_sent: Option<&[u8]>) -> Result<Credentials, Refusal> {
    if password.len() > MAX_PASSWORD {
        return Err(Refusal::new(Reason::AuthFailed, format!("the password is longer than {MAX_PASSWORD} bytes")));
    }
    if password.contains(&0) {
        return Err(failed("the password contains a NUL byte"));
    }
    let as_sent = as_sent.filter(|bytes| *bytes != password).map(Secret::new);
    Ok(Credentials { user, password: Secret::new(password), as_sent })
}

fn other_scheme(scheme: &[u8]) -> Refusal {
    match OTHER_SCHEMES.iter().find(|other| other.as_bytes().eq_ignore_ascii_case(scheme)) {
        Some(other) => Refusal::new(Reason::AuthFailed, format!("the scheme {other} is not supported, only Basic is")),
        None => failed("unknown authentication scheme, only Basic is supported"),
    }
}

fn failed(detail: &'static str) -> Refusal {
    Refusal::new(Reason::AuthFailed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert_eq, proptest};

    fn read(value: impl Into<Vec<u8>>) -> Result<(Vec<u8>, Vec<u8>), Refusal> {
        parse(&Secret::new(value)).map(|c| (c.user, c.password.expose().to_vec()))
    }

    #[test]
    fn accepted_forms() {
        let umlaut = "YWxpY2U6czNjcmV0OndpdGg6QC8lw7w="; // echo -n 'alice:s3cret:with:@/%ü' | base64
        for (value, user, password) in [
            (format!("basic {umlaut}"), "alice", "s3cret:with:@/%ü"),
            (format!("Basic {umlaut}"), "alice", "s3cret:with:@/%ü"),
            (format!("BASIC   {umlaut}"), "alice", "s3cret:with:@/%ü"),
            (format!(" Basic {umlaut} \t"), "alice", "s3cret:with:@/%ü"),
            (format!("Basic {}", umlaut.trim_end_matches('=')), "alice", "s3cret:with:@/%ü"),
            ("Basic YTo=".to_owned(), "a", ""),
            ("Basic OnB3".to_owned(), "", "pw"),
            ("Basic w7w6w7w=".to_owned(), "ü", "ü"),
            ("Basic YTo6Og==".to_owned(), "a", "::"),
        ] {
            assert_eq!(read(value.clone()), Ok((user.into(), password.into())), "{value}");
        }
    }

    #[test]
    fn credentials_that_are_not_utf8_are_latin1() {
        let parse = |bytes: &[u8]| {
            let credentials = parse(&Secret::new(format!("Basic {}", BASE64.encode(bytes)))).unwrap();
            let [password, as_sent] = [Some(credentials.password), credentials.as_sent]
                .map(|secret| secret.map(|secret| secret.expose().to_vec()));
            (String::from_utf8(credentials.user).unwrap(), String::from_utf8(password.unwrap()).unwrap(), as_sent)
        };
        let pair = |user: &str, password: &str, as_sent: Option<&[u8]>| {
            (user.to_owned(), password.to_owned(), as_sent.map(<[u8]>::to_vec))
        };
        assert_eq!(parse(b"ann:p\xf6"), pair("ann", "p\u{f6}", Some(b"p\xf6")));
        assert_eq!(parse(b"j\xf6rg:x"), pair("j\u{f6}rg", "x", None));
        // One encoding for the whole: UTF-8 in the name does not make Latin-1 of the password
        // UTF-8.
        assert_eq!(parse(b"\xc3\xb6:\xf6"), pair("\u{c3}\u{b6}", "\u{f6}", Some(b"\xf6")));
        assert_eq!(parse("ö:ö".as_bytes()), pair("ö", "ö", None));
    }

    #[test]
    fn refused_forms() {
        for (value, detail) in [
            ("", "unknown authentication scheme"),
            ("Basic", "no colon"),
            ("Basic ", "no colon"),
            ("Basic !!!!", "not base64"),
            ("Basic YTpi YTpi", "not base64"),
            ("Basic YTpi==YTpi", "not base64"),
            ("Basic YWxpY2U=", "no colon"),
            ("Basic\tYTpi", "unknown authentication scheme"),
            ("Bearer abc.def", "Bearer is not supported"),
            ("nTLM TlRMTVNTUAAB", "NTLM is not supported"),
            ("Basic YToA", "NUL"),
            ("Basic YTphAGE=", "NUL"),
        ] {
            let refusal = read(value).expect_err(value);
            assert_eq!(refusal.reason, Reason::AuthFailed, "{value}");
            assert!(refusal.detail.contains(detail), "{value}: {refusal}");
        }
    }

    #[test]
    fn a_forgotten_scheme_is_not_repeated() {
        for value in ["dXNlcjpodW50ZXIy", "hunter2 x", "user:hunter2 x"] {
            let refusal = read(value).expect_err(value);
            assert!(!refusal.detail.contains("hunter2") && !refusal.detail.contains("dXNl"), "{refusal}");
        }
    }

    proptest! {
        #[test]
        fn any_pair_arrives_as_it_was_sent(user in "[^:]{0,20}", password in "[^\0]{0,40}", spaces in 1..5_usize) {
            let encoded = BASE64.encode(format!("{user}:{password}"));
            let value = format!("bAsIc{}{encoded}", " ".repeat(spaces));
            prop_assert_eq!(read(value), Ok((user.into_bytes(), password.into_bytes())));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for value in [bytes.clone(), [b"Basic ", &bytes[..]].concat()] {
                if let Err(refusal) = read(value) {
                    prop_assert_eq!(refusal.reason, Reason::AuthFailed);
                }
            }
        }
    }

    #[test]
    fn the_longest_password_and_one_byte_more() {
        let value = |length: usize| format!("Basic {}", BASE64.encode(format!("a:{}", "p".repeat(length))));
        assert_eq!(read(value(MAX_PASSWORD)).map(|(_, password)| password.len()), Ok(MAX_PASSWORD));
        assert!(read(value(MAX_PASSWORD + 1)).expect_err("too long").detail.contains("512"));
    }
}
