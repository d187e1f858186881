//! A password, or anything that holds one, on its way through the process.

use std::fmt;

use zeroize::Zeroizing;

/// Bytes that no log line, error or `Debug` output ever shows, and that are overwritten before their memory is freed.
///
/// The bytes are reached by [`Secret::expose`] alone, so that a search for that word finds every
/// place that looks at a password.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes in.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "[secret]");
    }
}
