//! Names and dates of a certificate, read from its DER (RFC 5280, 4.1; X.690).
//!
//! For logs and warnings alone: `rustls-webpki` decides on trust, and exposes neither.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Tags of X.690, 8.1.2 and 8.14.
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// `dNSName` and `iPAddress` of a subject alternative name (RFC 5280, 4.2.1.6).
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `id-at-commonName`, 2.5.4.3.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// Names and dates of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// `notBefore`.
    pub(super) from: SystemTime,
    /// `notAfter`.
    pub(super) until: SystemTime,
    /// Names and addresses of the certificate, or else the common name of its subject.
    pub(super) names: Vec<String>,
}

impl Facts {
    /// Reads a certificate; `None` if it is not one of X.509.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let mut rest = certificate;
        let mut certificate = take(&mut rest, SEQUENCE)?;
        let mut body = take(&mut certificate, SEQUENCE)?;
        let _ = take(&mut body, VERSION);
        take(&mut body, INTEGER)?;
        let [_algorithm, _issuer] = [take(&mut body, SEQUENCE)?, take(&mut body, SEQUENCE)?];
        let mut validity = take(&mut body, SEQUENCE)?;
        let (from, until) = (time(&mut validity)?, time(&mut validity)?);
        let subject = take(&mut body, SEQUENCE)?;
        let _key = take(&mut body, SEQUENCE)?;
        let mut names = alternative_names(body).unwrap_or_default();
        if names.is_empty() {
            names.extend(common_name(subject));
        }
        Some(Self { from, until, names })
    }
}

/// The contents of the next element, if it has this tag.
fn take<'a>(rest: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (own, contents, behind) = element(rest)?;
    if own != tag {
        return None;
    }
    *rest = behind;
    Some(contents)
}

/// Returns tag and contents of the next element, and the bytes after it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    // Up to 127 in one byte, else the number of length bytes (X.690, 8.1.3).
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (contents, behind) = rest.split_at_checked(length)?;
    Some((tag, contents, behind))
}

/// `YYMMDDhhmmssZ` up to 2049, `YYYYMMDDhhmmssZ` from then on (RFC 5280, 4.1.2.5).
fn time(rest: &mut &[u8]) -> Option<SystemTime> {
    let (tag, contents, behind) = element(rest)?;
    *rest = behind;
    let digits = str::from_utf8(contents).ok()?.strip_suffix('Z')?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: u32 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    if rest.len() != 10 {
        return None;
    }
    let part = |index: usize| &rest[index * 2..index * 2 + 2];
    if year < 1970 {
        return Some(UNIX_EPOCH);
    }
    let text = format!("{year}-{}-{}T{}:{}:{}Z", part(0), part(1), part(2), part(3), part(4));
    // A leap second is the last second of its minute here.
    humantime::parse_rfc3339(&text).ok().filter(|time| *time < UNIX_EPOCH + Duration::from_secs(253_402_300_800))
}

fn common_name(mut subject: &[u8]) -> Option<String> {
    while let Some((_, mut set, behind)) = element(subject) {
        subject = behind;
        while let Some(mut attribute) = take(&mut set, SEQUENCE) {
            if take(&mut attribute, OBJECT_IDENTIFIER)? == COMMON_NAME {
                return element(attribute).map(|(_, text, _)| String::from_utf8_lossy(text).into_owned());
            }
        }
    }
    None
}

/// Returns the names of the extension, if present, from the elements after the key.
fn alternative_names(mut rest: &[u8]) -> Option<Vec<String>> {
    // Unique identifiers of version 2 come before.
    let mut list = loop {
        let (tag, contents, behind) = element(rest)?;
        rest = behind;
        if tag == EXTENSIONS {
            break contents;
        }
    };
    let mut extensions = take(&mut list, SEQUENCE)?;
    while let Some(mut extension) = take(&mut extensions, SEQUENCE) {
        if take(&mut extension, OBJECT_IDENTIFIER)? != SUBJECT_ALT_NAME {
            continue;
        }
        let (mut tag, mut value, behind) = element(extension)?;
        if tag != OCTET_STRING {
            // Whether it is critical comes before.
            (tag, value, _) = element(behind)?;
        }
        let mut names = if tag == OCTET_STRING { take(&mut value, SEQUENCE)? } else { return None };
        let mut found = Vec::new();
        while let Some((tag, name, behind)) = element(names) {
            names = behind;
            found.extend(match (tag, name.len()) {
                (DNS_NAME, _) => Some(String::from_utf8_lossy(name).into_owned()),
                (IP_ADDRESS, 4) => <[u8; 4]>::try_from(name).ok().map(|bytes| IpAddr::from(bytes).to_string()),
                (IP_ADDRESS, 16) => <[u8; 16]>::try_from(name).ok().map(|bytes| IpAddr::from(bytes).to_string()),
                _ => None,
            });
        }
        return Some(found);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    const BIT_STRING: u8 = 0x03;

    /// An element.
    fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
        let contents = contents.concat();
        let length = contents.len();
        let length = if length < 128 { vec![length as u8] } else { vec![0x82, (length >> 8) as u8, length as u8] };
        [vec![tag], length, contents].concat()
    }

    /// A certificate without a signature.
    fn certificate(validity: &[&[u8]], subject: &[u8], extensions: &[u8]) -> Vec<u8> {
        let version = der(VERSION, &[&der(INTEGER, &[&[2]])]);
        let empty = der(SEQUENCE, &[]);
        let key = der(SEQUENCE, &[&der(BIT_STRING, &[&[0; 200]])]);
        let body =
            [&version[..], &der(INTEGER, &[&[1]]), &empty, &empty, &der(SEQUENCE, validity), subject, &key, extensions];
        der(SEQUENCE, &[&der(SEQUENCE, &body)])
    }

    #[test]
    fn names_and_dates_are_read() {
        let at = |text| humantime::parse_rfc3339(text).unwrap();
        let (old, new) = (der(UTC_TIME, &[b"991231235959Z"]), der(GENERALIZED_TIME, &[b"20500101000000Z"]));
        let name = der(SEQUENCE, &[&der(OBJECT_IDENTIFIER, &[COMMON_NAME]), &der(0x0c, &["g\u{fc}nther".as_bytes()])]);
        let subject = der(SEQUENCE, &[&der(0x31, &[&name])]);
        let plain = Facts::of(&certificate(&[&old, &new], &subject, &[])).unwrap();
        assert_eq!((plain.from, plain.until), (at("1999-12-31T23:59:59Z"), at("2050-01-01T00:00:00Z")));
        assert_eq!(plain.names, ["g\u{fc}nther"]);
        let names = der(SEQUENCE, &[&der(DNS_NAME, &[b"a.example"]), &der(IP_ADDRESS, &[&[192, 0, 2, 1]])]);
        let extension =
            [&der(OBJECT_IDENTIFIER, &[SUBJECT_ALT_NAME])[..], &der(0x01, &[&[0xff]]), &der(OCTET_STRING, &[&names])];
        let extensions = der(EXTENSIONS, &[&der(SEQUENCE, &[&der(SEQUENCE, &extension)])]);
        let named = Facts::of(&certificate(&[&old, &new], &subject, &extensions)).unwrap();
        assert_eq!(named.names, ["a.example", "192.0.2.1"]);
        // Times before the epoch are not distinguished.
        let early = der(UTC_TIME, &[b"500101000000Z"]);
        assert_eq!(Facts::of(&certificate(&[&early, &old], &subject, &[])).unwrap().from, UNIX_EPOCH);
        for broken in [&b"991231235959"[..], b"9912312359Z", b"99x231235959Z", b"991331235959Z", b""] {
            let broken = der(UTC_TIME, &[broken]);
            assert_eq!(Facts::of(&certificate(&[&old, &broken], &subject, &[])), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..150_usize, byte: u8) {
            let _ = Facts::of(&bytes);
            let old = der(UTC_TIME, &[b"991231235959Z"]);
            let mut certificate = certificate(&[&old, &old], &der(SEQUENCE, &[]), &[]);
            certificate[at] = byte;
            let _ = Facts::of(&certificate);
        }
    }
}
