//! Users of the command line (`--user`), looked up by digest.

use std::collections::HashSet;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::basic::Credentials;
use super::digest::{Digest, Key};
use super::error::UsersError;
use super::names::{check_name, check_password, without_line_end};
use crate::secret::Secret;

/// Reads `NAME:PASSWORD`, as `--user` takes it. The first colon splits. One line end behind the
/// password is dropped: a variable that is filled from a mounted file often has it.
///
/// # Errors
/// When a part is missing, too long or of forbidden characters. The text is not repeated.
pub fn parse_user(text: &str) -> Result<(String, Secret), UsersError> {
    let error = |cause: String, remedy: &str| UsersError::new("--user", cause, remedy);
    let text = without_line_end(text);
    let (name, password) = text.split_once(':').ok_or_else(|| error("no ':' in it".into(), "give NAME:PASSWORD"))?;
    check_name(name).map_err(|cause| error(cause, "give NAME:PASSWORD with another name"))?;
    check_password(password.as_bytes()).map_err(|cause| error(cause, "give NAME:PASSWORD with another password"))?;
    Ok((name.to_owned(), Secret::new(password)))
}

/// Users of `--user`: of their passwords only keyed digests are kept.
pub(super) struct Inline(Vec<(Arc<str>, Digest)>);

impl Inline {
    pub(super) fn new(users: Vec<(String, Secret)>, key: &Key) -> Result<Self, UsersError> {
        for (name, password) in &users {
            let checked = check_name(name).and_then(|()| check_password(password.expose()));
            checked.map_err(|cause| UsersError::new("--user", cause, "give NAME:PASSWORD"))?;
        }
        let mut names = HashSet::new();
        if let Some((twice, _)) = users.iter().find(|(name, _)| !names.insert(name)) {
            return Err(UsersError::new("--user", format!("'{twice}' is listed twice"), "list each user once"));
        }
        let entry = |(name, password): (String, Secret)| {
            let credentials = Credentials { user: name.as_bytes().to_vec(), password, as_sent: None };
            (name.into(), key.digest(&credentials))
        };
        Ok(Self(users.into_iter().map(entry).collect()))
    }

    /// Returns the user of these credentials. All entries are compared, so that the time does
    /// not depend on the matching one.
    pub(super) fn find(&self, digest: &Digest) -> Option<Arc<str>> {
        self.0
            .iter()
            .fold(None, |found, (name, known)| if known.ct_eq(digest).into() { Some(name) } else { found })
            .cloned()
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Arc<str>> {
        self.0.iter().map(|(name, _)| Arc::clone(name))
    }

    /// Returns the user's name, if it is one of these.
    pub(super) fn name(&self, user: &[u8]) -> Option<Arc<str>> {
        self.0.iter().map(|(name, _)| name).find(|name| name.as_bytes() == user).cloned()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| **known == *name)
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::MAX_PASSWORD;
    use super::*;

    #[test]
    fn user_options() {
        for (text, name, password) in [
            ("alice:pw", "alice", "pw"),
            ("alice:s3cret:with:@/%ü", "alice", "s3cret:with:@/%ü"),
            ("a b:: ", "a b", ": "),
            ("ann:a\n", "ann", "a"),
            ("ann:a\r\n", "ann", "a"),
        ] {
            assert_eq!(parse_user(text), Ok((name.to_owned(), Secret::new(password))), "{text}");
        }
        let long = format!("a:{}", "p".repeat(MAX_PASSWORD + 1));
        for (text, cause) in [
            ("hunter2", "no ':'"),
            ("", "no ':'"),
            (":hunter2", "name is empty"),
            ("alice:", "password is empty"),
            ("a\nb:hunter2", "control character"),
            ("a:hunter2\0", "password contains a control character"),
            ("a:hunter2\n\n", "password contains a control character"),
            ("a:hunter2\r", "password contains a control character"),
            ("a:hunter2\u{7f}", "password contains a control character"),
            ("a:hunter2\tb", "password contains a control character"),
            ("a:\n", "password is empty"),
            (&long, "longer than 512"),
        ] {
            let error = parse_user(text).expect_err(text);
            assert!(error.to_string().contains(cause) && error.to_string().contains("NAME:PASSWORD"), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
        }
    }
}
