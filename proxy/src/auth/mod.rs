//! Credentials to user: `Proxy-Authorization` in, a configured user's name or a [`Failure`] out.
//!
//! ```text
//! header -> basic -> digest -> inline? -> verified before? -> flight -> queue -----> pool
//!           UTF-8    keyed     --user     users file, cached one for   by source,   hashes, at the
//!                                                             the same  20 s at most lowest priority
//! ```
//!
//! What is deliberately absent:
//! - Logging. What a caller may log is in the error or the refusal, and neither holds a password.
//! - A lock-out. A wrong password in a migration comes back volumes times 20 retries; what a source
//!   failed at lately puts its checks behind those of others, and never refuses one for itself.
//! - A difference between "no such user" and "wrong password", in words or in work.
//! - Unicode normalisation. RFC 8265 (4.2) requires NFC on both ends, but the hash in a users file
//!   was made of the bytes that a user typed, no `crypt(3)` normalises, and the gateway has only
//!   the hash: so bytes are compared, and RFC 7617's `charset="UTF-8"` asks clients for UTF-8.

mod basic;
mod ceiling;
mod changes;
mod digest;
mod entry;
mod error;
mod failures;
mod hash;
mod hash_pool;
mod inline;
mod make;
mod names;
mod network;
mod outcome;
mod queue;
mod reloading_users;
mod user_table;
mod users_file;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::account::Limit;
use crate::metrics;
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;

use reloading_users::Guard;
use verify::Verifier;

pub use changes::{Changes, Snapshot, name_list};
pub use entry::{Entry, UserSource};
pub use error::{Place, UsersError};
pub use inline::parse_user;
pub use make::{Recipe, make_line};
pub use network::TrustedNetwork;
pub use reloading_users::{Failure, User, Users};

/// Reads the value of a `Proxy-Authorization` header as [`Authenticator::check`] does, and compares
/// it with nothing.
///
/// # Errors
/// Credentials impossible for any user. The message holds nothing of them.
pub fn check_credentials(value: &Secret) -> Result<(), Refusal> {
    basic::parse(value).map(drop)
}

/// Parses the bytes of a users file: returns the number of valid lines, and an error for each
/// invalid line. `path` is for the errors; the lines themselves are not repeated.
#[must_use]
pub fn check_users(path: &Path, bytes: &[u8]) -> (usize, Vec<UsersError>) {
    let lines = users_file::parse_lines(path, bytes);
    (lines.good.len(), lines.bad)
}

/// Authenticates clients of the gateway.
pub struct Authenticator {
    /// Absent with `--no-auth`.
    guard: Option<Guard>,
}

impl Authenticator {
    /// Admits every client: `--no-auth`.
    #[must_use]
    pub const fn open() -> Self {
        Self { guard: None }
    }

    /// Lets these users in.
    ///
    /// # Errors
    /// When there is no user at all, one is there twice, or the file cannot be used. A line of it
    /// that cannot be used is one of [`Authenticator::bad_lines`] instead.
    pub fn new(users: Users) -> Result<Self, UsersError> {
        Guard::new(users, Verifier::new()).map(|guard| Self { guard: Some(guard) })
    }

    /// Starts the threads that hash passwords, at most one per core except one; no password is
    /// hashed before. Call it while the calling thread has its own cores and its privileges still
    /// to give up: threads inherit both.
    ///
    /// # Errors
    /// The error of clone(2), if no thread can be started.
    pub fn start_hashing(&self) -> io::Result<()> {
        self.guard.as_ref().map_or(Ok(()), |guard| guard.verifier.pool.start().map(drop))
    }

    /// Has the section read again from there.
    #[must_use]
    pub fn reading(mut self, elsewhere: impl UserSource + 'static) -> Self {
        if let Some(guard) = &mut self.guard {
            guard.elsewhere = Some(Box::new(elsewhere));
        }
        self
    }

    /// Returns the authenticated user, or `None` with `--no-auth`.
    ///
    /// `proxy_authorization` is the value of the header; `source` is the address for the limits on
    /// guesses. The future may be dropped at any time: a waiting check leaves the queue with its
    /// last future.
    ///
    /// # Errors
    /// [`Reason::AuthRequired`] without the header; [`Reason::AuthFailed`] for credentials that are
    /// wrong or unreadable, counted in [`metrics::AUTH_FAILURES`]; [`Reason::AuthBusy`] when too
    /// many guesses wait, or for too long. The words hold nothing of the credentials.
    pub async fn check(&self, proxy_authorization: Option<&Secret>, source: IpAddr) -> Result<Option<User>, Failure> {
        let Some(guard) = &self.guard else { return Ok(None) };
        let user = guard.check(proxy_authorization, source).await;
        if user.as_ref().is_err_and(|failure| failure.refusal.reason == Reason::AuthFailed) {
            metrics::AUTH_FAILURES.counter(&[]).increment(1);
        }
        user.map(Some)
    }

    /// Reads the users file and the sections of the configuration again, and replaces all users for
    /// checks that begin from then on. Credentials stay verified where their hash is the same.
    /// Returns the number of users. Blocks on the file system.
    ///
    /// # Errors
    /// When the file cannot be used; the users from before are kept.
    pub fn reload(&self) -> Result<usize, UsersError> {
        self.guard.as_ref().map_or(Ok(0), Guard::reload)
    }

    /// Returns true if the users file has changed since the last [`Authenticator::reload`], failed
    /// ones included. Cheap enough for once a second: a `stat(2)`, through symbolic links, since
    /// Kubernetes replaces a mounted secret by moving a link.
    #[must_use]
    pub fn changed(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::changed)
    }

    /// Returns every user, with a rate of their own if any; none with `--no-auth`.
    #[must_use]
    pub fn rates(&self) -> BTreeMap<Arc<str>, Option<Limit>> {
        let Some(guard) = &self.guard else { return BTreeMap::new() };
        let table = guard.table();
        let names = guard.inline.names().chain(guard.networks.names()).chain(table.names());
        names.map(|name| (Arc::clone(&name), table.user_policy(&name).rate)).collect()
    }

    /// The users as they are now, to compare with those after a reload.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.guard.as_ref().map(Guard::table))
    }

    /// Returns true if a client can authenticate under this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.guard.as_ref().is_some_and(|guard| {
            guard.inline.has(name) || guard.networks.has(name) || guard.table().name(name.as_bytes()).is_some()
        })
    }

    /// Returns the invalid lines of the users file at its last read: each with its place, the
    /// reason, and the remedy.
    #[must_use]
    pub fn bad_lines(&self) -> Vec<UsersError> {
        self.guard.as_ref().map_or_else(Vec::new, Guard::bad_lines)
    }

    /// Returns true if every client is admitted: `--no-auth`.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.guard.is_none()
    }

    /// Returns the expired users, for their live tunnels to be ended.
    #[must_use]
    pub fn ending(&self, now: SystemTime) -> Vec<Arc<str>> {
        self.guard.as_ref().map_or_else(Vec::new, |guard| guard.table().ending(now))
    }

    /// Number of users with a password; 0 with `--no-auth`.
    #[must_use]
    pub fn users(&self) -> usize {
        self.guard.as_ref().map_or(0, Guard::users)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("open", &self.guard.is_none()).field("users", &self.users()).finish()
    }
}

#[cfg(test)]
mod tests;
