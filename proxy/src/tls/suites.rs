//! TLS provider: ring, with its cipher suites ordered for volumes of terabytes.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{CipherSuite, SupportedCipherSuite};

/// The cipher suites, best first.
///
/// AES-128-GCM is the quickest where processors know AES. In TLS 1.2 keys cannot be changed while
/// bytes flow, and those
/// of AES-GCM are good for 2^24 records, 256 GiB (RFC 8446, 5.5); ChaCha20-Poly1305 has no such
/// limit, so that it comes
/// first there.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| match suite {
        SupportedCipherSuite::Tls13(suite) if suite.common.suite == CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
        SupportedCipherSuite::Tls13(_) => 1,
        SupportedCipherSuite::Tls12(suite) if suite.common.confidentiality_limit == u64::MAX => 2,
        SupportedCipherSuite::Tls12(_) => 3,
    });
    Arc::new(provider)
}

/// Returns the number of records to send with one key, if no other key follows.
pub(super) const fn last_record(suite: SupportedCipherSuite) -> u64 {
    match suite {
        SupportedCipherSuite::Tls13(_) => u64::MAX,
        SupportedCipherSuite::Tls12(suite) => suite.common.confidentiality_limit,
    }
}
