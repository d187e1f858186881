//! For every split of the bytes and every size of reads: the bytes put in come out, and then the
//! end.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::{CipherSuiteCommon, CryptoProvider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, Tls12CipherSuite, Tls13CipherSuite,
};

use super::session::{MAX_RECORD_BYTES, RESERVED_RECORDS};
use super::*;

/// A certificate for localhost, valid for a hundred years and used nowhere else.
pub(super) fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src/tls/testdata")).join(name)
}

/// A socket in memory, limited to a number of bytes at a time.
#[derive(Default)]
struct Wire {
    bytes: VecDeque<u8>,
    piece: usize,
    /// The other side has closed it.
    ended: bool,
    /// The other side has reset it; reported once.
    reset: bool,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.bytes.len().min(self.piece).min(buffer.len());
        match length {
            0 if std::mem::take(&mut self.reset) => Err(ErrorKind::TimedOut.into()),
            0 if self.ended => Ok(0),
            0 => Err(ErrorKind::WouldBlock.into()),
            _ => {
                let front: Vec<u8> = self.bytes.drain(..length).collect();
                buffer[..length].copy_from_slice(&front);
                Ok(length)
            }
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = bytes.len().min(self.piece);
        self.bytes.extend(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Two sides after the handshake, with bytes in pieces of this size.
fn established(piece: usize) -> [Session; 2] {
    let identity = ServerCertificate::load(&file("certificate.pem"), &file("key.pem")).unwrap();
    let trust = RootStore::of_file(&file("certificate.pem")).unwrap();
    agreed(
        [
            trust.session(server_name(Err("localhost")).unwrap()).unwrap(),
            identity.session(Hello { offers_http: true }).unwrap(),
        ],
        piece,
    )
}

fn agreed(sides: [Session; 2], piece: usize) -> [Session; 2] {
    let mut wire = Wire { piece, ..Wire::default() };
    while sides.iter().any(|side| !side.is_established() || side.wants_write()) {
        for (from, to) in [(0, 1), (1, 0)] {
            sides[from].flush(&mut wire).unwrap();
            while !wire.bytes.is_empty() {
                match sides[to].is_established() {
                    true => drop(sides[to].read(&mut wire, &mut [0; 1])),
                    false => sides[to].advance(&mut wire).unwrap(),
                }
            }
        }
    }
    sides
}

/// Puts all of it into the wire.
fn sent(side: &Session, mut bytes: &[u8]) -> Wire {
    let mut wire = Wire { piece: usize::MAX, ..Wire::default() };
    while !bytes.is_empty() {
        bytes = &bytes[side.put(bytes).unwrap()..];
        side.flush(&mut wire).unwrap();
    }
    wire
}

/// Reads until the end or an error, so much at a time.
fn received(side: &Session, wire: &mut Wire, room: usize) -> (Vec<u8>, io::Result<()>) {
    let (mut all, mut out) = (Vec::new(), vec![0; room]);
    loop {
        match side.read(wire, &mut out) {
            Ok(0) => return (all, Ok(())),
            Ok(bytes) => all.extend_from_slice(&out[..bytes]),
            Err(error) => return (all, Err(error)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn what_is_put_in_comes_out(
        length in 0_usize..200_000,
        piece in prop_oneof![1_usize..40, 1_000_usize..40_000, Just(usize::MAX)],
        room in prop_oneof![1_usize..40, 1_000_usize..300_000],
        announced in any::<bool>(),
        from in 0_usize..2,
    ) {
        let sides = established(piece);
        let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + n / 251) as u8).collect();
        let mut wire = sent(&sides[from], &bytes);
        if announced {
            sides[from].close();
            sides[from].flush(&mut wire).unwrap();
            // Nobody listens to what comes behind the end.
            wire.bytes.extend([23, 3, 3, 0, 1, 0]);
        }
        (wire.piece, wire.ended) = (piece, true);
        let (all, end) = received(&sides[1 - from], &mut wire, room);
        prop_assert!(all == bytes);
        match announced {
            true => prop_assert!(end.is_ok()),
            false => {
                let error = end.unwrap_err();
                prop_assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                prop_assert!(is_truncation(&error) && error.to_string().contains("close_notify"), "{}", error);
                // And so it stays.
                prop_assert!(sides[1 - from].is_ready() && received(&sides[1 - from], &mut wire, room).1.is_err());
            }
        }
    }

    #[test]
    fn nothing_comes_out_that_was_changed_on_the_way(length in 1_usize..40_000, at in any::<prop::sample::Index>(), room in 1_usize..70_000) {
        let sides = established(usize::MAX);
        let bytes: Vec<u8> = (0..length).map(|n| (n * 11) as u8).collect();
        let mut wire = sent(&sides[0], &bytes);
        let at = at.index(wire.bytes.len());
        wire.bytes[at] ^= 1;
        let (all, end) = received(&sides[1], &mut wire, room);
        // What of a record's head says nothing to anybody may have been changed, and a length leave
        // the peer waiting.
        prop_assert!(bytes.starts_with(&all));
        let kind = end.unwrap_err().kind();
        prop_assert!(matches!(kind, ErrorKind::ConnectionReset | ErrorKind::WouldBlock), "{:?}", kind);
    }
}

/// Bytes decrypted before the failure of the socket come first.
#[test]
fn a_failure_comes_behind_the_bytes_before_it() {
    for room in [10, 1_000, 100_000] {
        let sides = established(usize::MAX);
        let bytes = vec![9; 30_000];
        let mut wire = sent(&sides[0], &bytes);
        (wire.reset, wire.ended) = (true, true);
        let (all, end) = received(&sides[1], &mut wire, room);
        assert!(all == bytes, "{} of {} bytes", all.len(), bytes.len());
        assert_eq!(end.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}

#[test]
fn a_server_that_is_somebody_else_is_not_believed() {
    let identity = ServerCertificate::load(&file("certificate.pem"), &file("key.pem")).unwrap();
    let trust = RootStore::of_file(&file("certificate.pem")).unwrap();
    let sides = [
        trust.session(server_name(Err("another.example")).unwrap()).unwrap(),
        identity.session(Hello { offers_http: true }).unwrap(),
    ];
    let mut wire = Wire { piece: usize::MAX, ..Wire::default() };
    sides[0].flush(&mut wire).unwrap();
    sides[1].advance(&mut wire).unwrap();
    sides[1].flush(&mut wire).unwrap();
    let error = sides[0].advance(&mut wire).unwrap_err();
    assert!(error.kind() == ErrorKind::ConnectionReset && error.to_string().contains("certificate"), "{error}");
    assert!(sides[0].wants_write(), "an alert");
    assert!(server_name(Err("not a name")).is_err());
}

/// Two sides whose keys are good for so many records, of that version and kind.
fn soon_used_up(limit: u64, is_meant: fn(&SupportedCipherSuite) -> bool) -> [Session; 2] {
    let mut provider = CryptoProvider::clone(&suites::provider());
    provider.cipher_suites.retain(is_meant);
    provider.cipher_suites.truncate(1);
    for suite in &mut provider.cipher_suites {
        *suite = match suite {
            SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: held_to(limit, &suite.common),
                prf_provider: suite.prf_provider,
                kx: suite.kx,
                sign: suite.sign,
                aead_alg: suite.aead_alg,
            }))),
            SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: held_to(limit, &suite.common),
                hkdf_provider: suite.hkdf_provider,
                aead_alg: suite.aead_alg,
                quic: None,
            }))),
        };
    }
    let provider = Arc::new(provider);
    let chain = vec![CertificateDer::from_pem_file(file("certificate.pem")).unwrap()];
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let server =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::from_pem_file(file("key.pem")).unwrap();
    let server = server.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let name = server_name(Err("localhost")).unwrap();
    agreed([Session::client(Arc::new(client), name).unwrap(), Session::server(Arc::new(server)).unwrap()], usize::MAX)
}

fn held_to(limit: u64, common: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon { suite: common.suite, hash_provider: common.hash_provider, confidentiality_limit: limit }
}

/// TLS 1.3 replaces keys at their limit. TLS 1.2 cannot: the connection fails there, without the
/// close_notify by which its end would look intended.
#[test]
fn keys_that_are_used_up_are_replaced_or_an_error() {
    const LIMIT: u64 = 40;
    let bytes = vec![7; MAX_RECORD_BYTES];
    let is_13 = |suite: &SupportedCipherSuite| matches!(suite, SupportedCipherSuite::Tls13(_));
    let sides = soon_used_up(LIMIT, is_13);
    for _ in 0..5 * LIMIT {
        let mut wire = sent(&sides[0], &bytes);
        let (all, end) = received(&sides[1], &mut wire, 100_000);
        assert!(all == bytes && end.unwrap_err().kind() == ErrorKind::WouldBlock);
    }
    let is_12 = |suite: &SupportedCipherSuite| matches!(suite, SupportedCipherSuite::Tls12(suite) if suite.common.confidentiality_limit != u64::MAX);
    let sides = soon_used_up(LIMIT, is_12);
    for _ in 0..LIMIT - RESERVED_RECORDS {
        let mut wire = sent(&sides[0], &bytes);
        assert!(received(&sides[1], &mut wire, 100_000).0 == bytes);
    }
    assert!(sides[0].put(&bytes).unwrap_err().to_string().contains("used up"));
    assert!(!sides[0].wants_write(), "no end is announced");
}

/// First bytes of a client that offers these protocols.
fn hello(offered: &[&str]) -> Vec<u8> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(file("certificate.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(suites::provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
    let session = Session::client(Arc::new(config), server_name(Err("localhost")).unwrap()).unwrap();
    let mut wire = Wire { piece: usize::MAX, ..Wire::default() };
    session.flush(&mut wire).unwrap();
    wire.bytes.into()
}

#[test]
fn a_client_hello_is_read_as_soon_as_it_is_complete() {
    for (offered, offers_http) in
        [(&[][..], false), (&["http 1.1"], false), (&["h2", "http/1.1"], true), (&["http/1.0"], false)]
    {
        let bytes = hello(offered);
        for cut in 0..bytes.len() {
            assert_eq!(Hello::parse(&bytes[..cut]), None, "{offered:?} to {cut}");
        }
        assert_eq!(Hello::parse(&bytes), Some(Hello { offers_http }), "{offered:?}");
        // As some middleboxes cut it, in records of a few bytes.
        let mut records = Vec::new();
        for piece in bytes[5..].chunks(9) {
            records.extend_from_slice(&[0x16, 3, 1, 0, u8::try_from(piece.len()).unwrap()]);
            records.extend_from_slice(piece);
        }
        assert_eq!(Hello::parse(&records[..records.len() - 1]), None);
        assert_eq!(Hello::parse(&records), Some(Hello { offers_http }), "{offered:?}");
    }
    for no_hello in
        [&b"CONNECT h:443 HTTP/1.1\r\n\r\n"[..], &[0x15, 3, 1, 0, 2, 2, 40], &[0x16, 3, 1, 0, 4, 2, 0, 0, 0]]
    {
        assert_eq!(Hello::parse(no_hello), Some(Hello { offers_http: false }), "{}", no_hello.escape_ascii());
    }
}

#[test]
fn what_has_no_limit_comes_first_in_tls_1_2() {
    let suites = suites::provider().cipher_suites.clone();
    let limits: Vec<_> = suites.iter().map(|suite| suites::last_record(*suite)).collect();
    let unlimited = limits.iter().take_while(|limit| **limit == u64::MAX).count();
    assert!(limits[unlimited..].iter().all(|limit| *limit == 1 << 24), "{limits:?}");
    let of_12 = suites[..unlimited].iter().filter(|suite| matches!(suite, SupportedCipherSuite::Tls12(_))).count();
    assert_eq!((of_12, suites[0].suite()), (2, CipherSuite::TLS13_AES_128_GCM_SHA256));
}
