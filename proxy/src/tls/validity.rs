//! From when to when a certificate counts, and what is wrong with one that does not.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};

/// From when to when a certificate counts (RFC 5280, 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// From then on, this second included.
    pub(super) from: SystemTime,
    /// Until then, this second included.
    pub(super) until: SystemTime,
}

impl Validity {
    /// Asked whether it counts at the beginning and at the end of all time, a verifier says from when and until when it
    /// does: that is what it looks at first, before who has signed it (`rustls-webpki`, `verify_cert.rs`).
    ///
    /// `None` of what rustls does not read.
    #[must_use]
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = ParsedCertificate::try_from(certificate).ok()?;
        let refused = |seconds| {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            verify_server_cert_signed_by_trust_anchor(&certificate, &RootCertStore::empty(), &[], at, &[]).err()
        };
        let time = |time: UnixTime| UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
        let from = match refused(0)? {
            Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => time(not_before)?,
            // Since the epoch, or before.
            _ => UNIX_EPOCH,
        };
        match refused(u64::MAX)? {
            Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                Some(Self { from, until: time(not_after)? })
            }
            _ => None,
        }
    }

    /// Why clients refuse it at a time, in words that follow the name of the file.
    #[must_use]
    pub(super) fn concern(&self, now: SystemTime) -> Option<String> {
        let word = |time| humantime::format_rfc3339_seconds(time);
        let second = Duration::from_secs(1);
        if now < self.from {
            let from = word(self.from);
            return Some(format!(
                "is not valid before {from}: clients refuse it until then; check the clock of this host"
            ));
        }
        let expired = now.duration_since(self.until).is_ok_and(|since| since >= second);
        let until = word(self.until);
        expired.then(|| {
            format!("has expired at {until}: clients refuse it; put another in its place, which counts at once")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;
    use rustls::pki_types::pem::PemObject;

    fn of(name: &str) -> Option<Validity> {
        Validity::of(&CertificateDer::from_pem_file(file(name)).unwrap())
    }

    #[test]
    fn it_is_what_openssl_shows() {
        let at = |text| humantime::parse_rfc3339(text).unwrap();
        for (name, from, until) in [
            ("expired.pem", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"),
            ("certificate.pem", "2026-11-27T00:15:39Z", "2126-11-03T00:15:39Z"),
        ] {
            assert_eq!(of(name), Some(Validity { from: at(from), until: at(until) }), "{name}");
        }
        assert_eq!(Validity::of(&CertificateDer::from_slice(b"none")), None);
    }

    #[test]
    fn the_last_second_counts() {
        let validity = of("expired.pem").unwrap();
        let after = |time: SystemTime, milliseconds| time + Duration::from_millis(milliseconds);
        let concern = |time| validity.concern(time).unwrap_or_default();
        let before = validity.from - Duration::from_millis(1);
        assert!(concern(before).starts_with("is not valid before 2024-01-01T00:00:00Z: "), "{}", concern(before));
        assert_eq!([validity.from, validity.until, after(validity.until, 999)].map(concern), ["", "", ""]);
        let late = after(validity.until, 1_000);
        assert!(concern(late).starts_with("has expired at 2025-01-01T00:00:00Z: "), "{}", concern(late));
    }
}
