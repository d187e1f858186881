//! A user with a section in the configuration file.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::error::{Place, UsersError};
use super::hash::Hash;
use super::names::{check_name, without_line_end};
use crate::user_policy::UserPolicy;

/// Most passwords of a user: the current one and its successor.
const MOST_PASSWORDS: usize = 2;

/// One section: the user's policy, and the passwords unless they are in another source.
#[derive(Clone, Debug)]
pub struct Entry {
    pub(super) name: Arc<str>,
    pub(super) place: Place,
    pub(super) hashes: Vec<Arc<Hash>>,
    pub(super) user_policy: Arc<UserPolicy>,
}

/// Where the sections are, to be read again.
pub trait UserSource: Send + Sync {
    /// Returns true if the entries may have changed since the last read.
    fn changed(&self) -> bool;

    /// Reads them again.
    ///
    /// # Errors
    /// The reason the entries cannot be used.
    fn read(&self) -> Result<Vec<Entry>, UsersError>;
}

impl Entry {
    /// Creates the section at `place`; `passwords` are hashes in the form of a users file.
    ///
    /// # Errors
    /// An impossible user name, and each unusable hash.
    pub fn new(
        place: Place,
        name: Arc<str>,
        passwords: &[&str],
        user_policy: UserPolicy,
    ) -> Result<Self, Vec<UsersError>> {
        let error = |cause: String, remedy: &str| UsersError::new(place.clone(), cause, remedy);
        // A network of `--no-auth-from` may be an IPv6 one; its user name never appears in
        // credentials.
        let is_network = name.parse::<IpNet>().is_ok() || name.parse::<IpAddr>().is_ok();
        if !is_network || !passwords.is_empty() {
            check_name(&name).map_err(|cause| vec![error(cause, "give the user another name")])?;
        }
        if passwords.len() > MOST_PASSWORDS {
            let cause = format!("'{name}' has {} passwords", passwords.len());
            return Err(vec![error(cause, "keep the current one and its successor")]);
        }
        let hash = |(index, text): (usize, &&str)| {
            // As `hash-password` prints it, with the name before it.
            let text = without_line_end(text);
            let of_name = text.strip_prefix(&*name).and_then(|rest| rest.strip_prefix(':'));
            let hash = Hash::parse(of_name.unwrap_or(text)).map(Arc::new);
            let which = if passwords.len() > 1 { format!(", password {}", index + 1) } else { String::new() };
            hash.map_err(|unusable| error(format!("'{name}'{which}: {}", unusable.cause), unusable.remedy))
        };
        let (hashes, unusable): (Vec<_>, Vec<_>) = passwords.iter().enumerate().map(hash).partition(Result::is_ok);
        if !unusable.is_empty() {
            return Err(unusable.into_iter().filter_map(Result::err).collect());
        }
        let hashes = hashes.into_iter().flatten().collect();
        Ok(Self { name, place, hashes, user_policy: Arc::new(user_policy) })
    }

    /// Returns the user's policy.
    #[must_use]
    pub fn user_policy(&self) -> &UserPolicy {
        &self.user_policy
    }

    /// Returns the user's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the place of the section.
    #[must_use]
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// Returns true if the section has a password; otherwise the password is in another source.
    #[must_use]
    pub fn has_password(&self) -> bool {
        !self.hashes.is_empty()
    }

    pub(super) fn error(&self, cause: impl Into<String>, remedy: &'static str) -> UsersError {
        UsersError::new(self.place.clone(), cause, remedy)
    }
}

impl fmt::Debug for dyn UserSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserSource")
    }
}
