//! Validity period of a certificate, and the fault of an invalid one.

use std::time::{Duration, SystemTime};

use super::x509::Facts;

/// Remaining time of a certificate about to expire, unless a third of its life is less.
const SOON: Duration = Duration::from_hours(24 * 30);

/// Validity period of a certificate (RFC 5280, 4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    /// First valid second.
    pub(super) from: SystemTime,
    /// Last valid second.
    pub(super) until: SystemTime,
}

/// State of a certificate at some time.
enum Status {
    /// The period ends before it begins.
    Reversed,
    NotYetValid,
    Expired,
    /// Valid, but not for long.
    Expiring,
    Valid,
}

impl Validity {
    pub(super) const fn of(facts: &Facts) -> Self {
        Self { from: facts.from, until: facts.until }
    }

    /// Returns cause and remedy if clients refuse the certificate at `now`, or will soon; the cause
    /// follows the name of the file.
    #[must_use]
    pub(super) fn warning(&self, now: SystemTime) -> Option<(String, &'static str)> {
        const REPLACE: &str = "replace the file; it is reloaded at once";
        let [from, until] = [self.from, self.until].map(humantime::format_rfc3339_seconds);
        match self.status(now) {
            Status::Valid => None,
            Status::Expiring => Some((format!("expires at {until}"), REPLACE)),
            Status::Expired => Some((format!("has expired at {until}: clients refuse it"), REPLACE)),
            Status::NotYetValid => {
                let cause = format!("is not valid before {from}: clients refuse it until then");
                Some((cause, "check the clock of this host"))
            }
            Status::Reversed => {
                Some((format!("ends at {until}, before it begins at {from}: clients refuse it"), REPLACE))
            }
        }
    }

    fn status(&self, now: SystemTime) -> Status {
        let Ok(life) = self.until.duration_since(self.from) else { return Status::Reversed };
        if now < self.from {
            return Status::NotYetValid;
        }
        // `until` names a whole second, which is valid to its end.
        if now.duration_since(self.until).is_ok_and(|since| since >= Duration::from_secs(1)) {
            return Status::Expired;
        }
        let left = self.until.duration_since(now).unwrap_or_default();
        // A certificate of a few days is renewed in the last third of its life, as ACME clients do.
        if left < SOON.min(life / 3) { Status::Expiring } else { Status::Valid }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::file;
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    fn of(name: &str) -> Option<Validity> {
        Facts::of(&CertificateDer::from_pem_file(file(name)).unwrap()).as_ref().map(Validity::of)
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
    }

    #[test]
    fn the_last_second_counts_and_the_end_is_announced() {
        let validity = of("expired.pem").unwrap();
        let after = |time: SystemTime, milliseconds| time + Duration::from_millis(milliseconds);
        let warning = |time| validity.warning(time).map(|(cause, _)| cause).unwrap_or_default();
        let before = validity.from - Duration::from_millis(1);
        assert!(warning(before).starts_with("is not valid before 2024-01-01T00:00:00Z: "), "{}", warning(before));
        let soon = "expires at 2025-01-01T00:00:00Z";
        assert_eq!(
            [validity.from, validity.until - SOON, after(validity.until - SOON, 1)].map(warning),
            ["", "", soon]
        );
        assert_eq!([validity.until, after(validity.until, 999)].map(warning), [soon, soon]);
        let late = after(validity.until, 1_000);
        assert!(warning(late).starts_with("has expired at 2025-01-01T00:00:00Z: "), "{}", warning(late));
    }

    #[test]
    fn a_short_life_is_announced_in_its_last_third_and_a_reversed_one_always() {
        let hours = |hours| SystemTime::UNIX_EPOCH + Duration::from_hours(hours);
        let short = Validity { from: hours(100), until: hours(124) };
        assert_eq!((short.warning(hours(116)), short.warning(hours(117)).is_some()), (None, true));
        let reversed = Validity { from: hours(124), until: hours(100) };
        for now in [hours(90), hours(110), hours(200)] {
            let (cause, _) = reversed.warning(now).unwrap();
            assert!(cause.starts_with("ends at 1970-01-05T04:00:00Z, before it begins at 1970-01-06T04"), "{cause}");
        }
    }
}
