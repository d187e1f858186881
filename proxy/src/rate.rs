//! Rates in bytes per second, in a form for people and for the kernel.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::invalid_value::InvalidValue;

/// Bytes a second, from [`Rate::LEAST`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(NonZeroU64);

/// Units of a rate in the order of display, each with its bytes per second.
const UNITS: [(&str, u64); 10] = [
    ("Gbit", 125_000_000),
    ("GiB", 1 << 30),
    ("Mbit", 125_000),
    ("MiB", 1 << 20),
    ("kbit", 125),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

impl Rate {
    /// The least there is. A segment is held back until its time has come, and slower ones than
    /// this would be held
    /// back for longer than a peer waits.
    pub const LEAST: u64 = 1 << 10;

    /// Creates a rate in bytes per second.
    ///
    /// # Errors
    /// Less than [`Rate::LEAST`], with the remedy.
    pub fn new(bytes: u64) -> Result<Self, InvalidValue> {
        NonZeroU64::new(bytes)
            .filter(|bytes| bytes.get() >= Self::LEAST)
            .map(Self)
            .ok_or_else(|| InvalidValue::new("a rate is at least 1KiB a second", "leave it out for no limit"))
    }

    /// Bytes a second.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0.get()
    }

    /// An equal share of it for each of so many, but no less than [`Rate::LEAST`].
    #[must_use]
    pub fn shared_by(self, many: usize) -> Self {
        let share = self.bytes() / (many.max(1) as u64);
        Self::new(share.max(Self::LEAST)).unwrap_or(self)
    }
}

impl FromStr for Rate {
    type Err = InvalidValue;

    /// Reads `100MiB`, `1Gbit` or `12500000`, with or without `/s`.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let wanted = || InvalidValue::new("not a rate", "write it as 100MiB, 1Gbit or 12500000 (bytes), per second");
        let rate = text.trim();
        let rate = rate.strip_suffix("/s").unwrap_or(rate);
        Self::new(bytes(rate, &UNITS).ok_or_else(wanted)?)
    }
}

impl fmt::Display for Rate {
    /// Formats in the largest unit that gives a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.bytes();
        let (unit, factor) = UNITS.into_iter().find(|(_, factor)| bytes.is_multiple_of(*factor)).unwrap_or(("B", 1));
        write!(f, "{}{unit}/s", bytes / factor)
    }
}

/// Parses a whole number with one of these units, each with its bytes; without a unit, bytes.
///
/// The spelling of a unit is exact: an `Mb` may be meant for a bit or a byte.
#[must_use]
pub fn bytes(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim_start();
    let factor = match unit {
        "" => 1,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    digits.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_shown() {
        for (text, bytes, shown) in [
            ("1024", 1_024, "1KiB/s"),
            ("100MiB", 104_857_600, "100MiB/s"),
            ("100MiB/s", 104_857_600, "100MiB/s"),
            ("1 Gbit", 125_000_000, "1Gbit/s"),
            ("800Mbps", 0, ""),
            ("10Mbit/s", 1_250_000, "10Mbit/s"),
            ("9kbit", 1_125, "9kbit/s"),
            ("2GB", 2_000_000_000, "16Gbit/s"),
            ("1025", 1_025, "1025B/s"),
        ] {
            let rate = text.parse::<Rate>();
            match bytes {
                0 => assert!(rate.clone().is_err(), "{text}: {rate:?}"),
                bytes => {
                    assert_eq!(rate.as_ref().map(|rate| rate.bytes()), Ok(bytes), "{text}");
                    assert_eq!(rate.unwrap().to_string(), shown, "{text}");
                }
            }
        }
        for (text, words) in [
            ("", "write it as 100MiB"),
            ("fast", "write it as 100MiB"),
            ("-5MiB", "write it as 100MiB"),
            ("1.5MiB", "write it as 100MiB"),
            ("99999999999GiB", "write it as 100MiB"),
            ("0", "at least 1KiB"),
            ("1023B", "at least 1KiB"),
        ] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn a_share_is_never_nothing() {
        let rate = Rate::new(10_000).unwrap();
        assert_eq!([0, 1, 2, 3, 1_000].map(|many| rate.shared_by(many).bytes()), [10_000, 10_000, 5_000, 3_333, 1_024]);
    }
}
