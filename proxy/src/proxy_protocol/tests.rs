use proptest::prelude::*;

use super::*;

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Parses a header in every division into reads, with one result, and without the bytes after it.
fn complete(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    for cut in 0..bytes.len() {
        assert_eq!(parse(&bytes[..cut]), Ok(None), "{} to {cut}", bytes.escape_ascii());
    }
    let header = parse(&[bytes, b"CONNECT h:443 HTTP/1.1\r\n\r\n"].concat()).unwrap().unwrap();
    assert_eq!(header.len, bytes.len());
    header.addresses
}

#[test]
fn lines() {
    let four = (address("192.0.2.7:40000"), address("198.51.100.1:3128"));
    let six = (address("[2001:db8::7]:1"), address("[::1]:65535"));
    assert_eq!(complete(b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 3128\r\n"), Some(four));
    assert_eq!(complete(b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n"), Some(six));
    assert_eq!(complete(b"PROXY UNKNOWN\r\n"), None);
    assert_eq!(complete(b"PROXY UNKNOWN what ever 1 2 3\r\n"), None);
}

#[test]
fn binary_headers() {
    let binary = |start: &[u8], block: &[u8]| {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], start, &length, block].concat()
    };
    let four = [&[192, 0, 2, 7, 198, 51, 100, 1][..], &[0x9c, 0x40, 0x0c, 0x38]].concat();
    let pair = Some((address("192.0.2.7:40000"), address("198.51.100.1:3128")));
    assert_eq!(complete(&binary(&[0x21, 0x11], &four)), pair);
    // Other fields are ignored: a checksum, and a NOOP.
    let more = [&four[..], &[3, 0, 4, 1, 2, 3, 4, 4, 0, 0]].concat();
    assert_eq!(complete(&binary(&[0x21, 0x11], &more)), pair);
    let six = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1], &[0, 1, 0xff, 0xff]].concat();
    let pair = Some((address("[2001:db8::7]:1"), address("[::1]:65535")));
    assert_eq!(complete(&binary(&[0x21, 0x21], &six)), pair);
    // LOCAL, a datagram, a Unix socket, none.
    assert_eq!(complete(&binary(&[0x20, 0x11], &four)), None);
    assert_eq!(complete(&binary(&[0x20, 0], &[])), None);
    assert_eq!(complete(&binary(&[0x21, 0x12], &four)), None);
    assert_eq!(complete(&binary(&[0x21, 0x31], &[b'/'; 216])), None);
    assert_eq!(complete(&binary(&[0x21, 0], &[])), None);
    for (start, block) in [
        (&[0x11, 0x11][..], &four[..]),
        (&[0x22, 0x11], &four),
        (&[0x21, 0x11], &four[..11]),
        (&[0x21, 0x21], &four),
        (&[0x21, 0x11], &[0; 3_000]),
    ] {
        assert!(parse(&binary(start, block)).is_err(), "{start:x?}");
    }
}

#[test]
fn what_is_no_header() {
    for bytes in [
        &b"CONNECT h:443 HTTP/1.1\r\n"[..],
        b"PROXY\r\n",
        b"proxy TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n",
        b"PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 2\r\n",
        b"PROXY TCP4 2001:db8::7 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 ::1 1 2\r\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 1 2\r\n",
        b"PROXY \xff\r\n",
        b"\r\n\r\n\0\r\nQUIX",
        &[&b"PROXY UNKNOWN "[..], &[b'x'; 100]].concat(),
    ] {
        assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn what_is_written_is_read() {
    for (from, to) in [
        ("192.0.2.7:40000", "198.51.100.1:3128"),
        ("[2001:db8::7]:40000", "[2001:db8::1]:3128"),
        ("[::ffff:192.0.2.7]:1", "[::ffff:198.51.100.1]:2"),
        ("192.0.2.7:1", "[2001:db8::1]:2"),
    ] {
        for version in [Version::V1, Version::V2] {
            let (from, to) = (address(from), address(to));
            let (read_from, read_to) = complete(&header(version, from, to)).unwrap();
            assert_eq!((read_from.ip().to_canonical(), read_from.port()), (from.ip().to_canonical(), from.port()));
            assert_eq!((read_to.ip().to_canonical(), read_to.port()), (to.ip().to_canonical(), to.port()));
        }
    }
    let line = header(Version::V1, address("192.0.2.7:40000"), address("198.51.100.1:3128"));
    assert_eq!(line, b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 3128\r\n");
}

#[test]
fn a_greeting_is_a_version_and_a_rule() {
    assert_eq!("v2 for 10.0.0.0/8:873".parse::<ProxyProtocolRule>().unwrap().version, Version::V2);
    assert_eq!("v1 for *.example:443".parse::<ProxyProtocolRule>().unwrap().version, Version::V1);
    for wrong in ["v2", "v3 for a:1", "for a:1", "v2 for a", "v2 a:1"] {
        assert!(wrong.parse::<ProxyProtocolRule>().is_err(), "{wrong}");
    }
}

#[test]
fn a_target_is_told_by_its_name_or_by_the_address_that_it_was_reached_at() {
    let proxy_protocol_rules = ["v1 for 127.0.0.2:80", "v2 for *.example:80"].map(|text| text.parse().unwrap());
    let told = |target: &str, reached: Option<&str>| {
        version_for(&proxy_protocol_rules, &Target::parse(target).unwrap(), reached.map(address))
    };
    assert_eq!(told("h:80", Some("127.0.0.2:80")), Some(Version::V1));
    assert_eq!(told("h:80", Some("127.0.0.1:80")), None);
    assert_eq!(told("h:81", Some("127.0.0.2:81")), None);
    assert_eq!(told("a.example:80", Some("127.0.0.1:80")), Some(Version::V2));
    assert_eq!(told("a.example:80", None), Some(Version::V2));
    assert_eq!(told("h:80", None), None);
}

proptest! {
    #[test]
    fn any_bytes_get_the_same_answer_however_they_are_cut(
        start in proptest::sample::select(vec![&b""[..], &LINE[..], b"PROXY TCP4 1.2.3.4 ", &SIGNATURE[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"]),
        bytes in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let bytes = [start, &bytes].concat();
        let whole = parse(&bytes);
        for cut in 0..bytes.len() {
            let part = parse(&bytes[..cut]);
            prop_assert!(part == Ok(None) || part == whole, "cut at {}: {:?}, whole {:?}", cut, part, whole);
        }
        prop_assert_ne!(parse(&[&bytes[..], &[0; MAX_HEADER]].concat()), Ok(None));
    }
}
