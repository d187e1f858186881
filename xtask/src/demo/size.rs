//! Human-readable number of bytes.

use std::str::FromStr;

/// Bytes, written `1GiB`, `512M` or as a plain number; every unit is a power of 1024.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size(
    /// The number of bytes.
    pub u64,
);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let shift = match text[digits.len()..].to_ascii_lowercase().as_str() {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            unit => return Err(format!("'{unit}' is no unit: use KiB, MiB, GiB or TiB")),
        };
        let number: u64 = digits.trim().parse().map_err(|_| format!("'{digits}' is not a whole number"))?;
        number.checked_mul(1 << shift).map(Self).ok_or_else(|| format!("'{text}' is more than there can be"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_1024() {
        assert_eq!("1GiB".parse(), Ok(Size(1 << 30)));
        assert_eq!("64m".parse(), Ok(Size(64 << 20)));
        assert_eq!("12345".parse(), Ok(Size(12345)));
    }

    #[test]
    fn nonsense_is_refused_with_its_cause() {
        let refuse = |text: &str| text.parse::<Size>().unwrap_err();
        assert!(refuse("1 potato").contains("'potato' is no unit"));
        assert!(refuse("-1GiB").contains("not a whole number"));
        assert!(refuse("GiB").contains("not a whole number"));
        assert!(refuse("99999999TiB").contains("more than there can be"));
    }
}
