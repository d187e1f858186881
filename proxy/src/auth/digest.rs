//! Keyed digest of credentials, compared and remembered in place of a password.

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::basic::Credentials;
use super::error::UsersError;

/// Stands for one pair of name and password, in this process alone. No `Debug`: it is not a
/// password, but guesses can be tried against it quickly by who also has the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; 32]);

impl ConstantTimeEq for Digest {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

/// The process's own random key, so that a digest is meaningless outside it and no client can tell
/// which of two guesses compares longer.
pub(super) struct Key([u8; 32]);

impl Key {
    /// A new key from `getrandom(2)`.
    pub(super) fn random() -> Result<Self, UsersError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| {
            UsersError::new("users", format!("cannot get random bytes: {error}"), "see getrandom(2)")
        })?;
        Ok(Self(key))
    }

    /// Digests a pair. The name's length is included, so that no other split of the same bytes has
    /// the same digest; the digest never leaves the process, so SHA-256's extension property is
    /// harmless and HMAC not needed.
    pub(super) fn digest(&self, credentials: &Credentials) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update((credentials.user.len() as u64).to_le_bytes());
        hasher.update(&credentials.user);
        hasher.update(credentials.password.expose());
        Digest(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn pair(user: &str, password: &str) -> Credentials {
        Credentials { user: user.into(), password: Secret::new(password), as_sent: None }
    }

    #[test]
    fn depends_on_the_split_and_the_key() {
        let (key, other) = (Key::random().unwrap(), Key::random().unwrap());
        let same = |a: &Digest, b: &Digest| bool::from(a.ct_eq(b));
        assert!(same(&key.digest(&pair("ab", "c")), &key.digest(&pair("ab", "c"))));
        assert!(!same(&key.digest(&pair("ab", "c")), &key.digest(&pair("a", "bc"))));
        assert!(!same(&key.digest(&pair("ab", "c")), &other.digest(&pair("ab", "c"))));
    }
}
