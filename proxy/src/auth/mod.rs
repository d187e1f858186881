//! Credentials to user: `Proxy-Authorization` in, a configured user's name or a [`Refusal`] out.
//!
//! ```text
//! header -> basic -> digest -> inline? -> verified before? -> flight -> turn -> permit -> hash
//!           bytes    keyed     --user     --users, cached     one for    per     per      off the
//!                                                             the same   source  core     event loop
//! ```
//!
//! What is deliberately absent:
//! - Logging. What a caller may log is in the error or the refusal, and neither holds a password.
//! - A lock-out. A wrong password in a migration comes back volumes times 20 retries; a limit on
//!   guesses in flight slows a guesser down without punishing the next right one.
//! - A difference between "no such user" and "wrong password", in words or in work.
//! - Unicode normalisation. RFC 8265 (4.2) would have NFC on both ends, but the hash in a users file
//!   was made of the bytes that somebody typed, no `crypt(3)` normalises, and the gateway has only
//!   the hash: so bytes are compared, and RFC 7617's `charset="UTF-8"` asks clients for UTF-8.

mod basic;
mod digest;
mod file;
mod flight;
mod hash;
mod make;
mod table;
mod turns;
mod users;
mod verify;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::metrics;
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;

use digest::Key;
use file::UsersFile;
use table::{Inline, Table};
use verify::Verifier;

pub use make::{Recipe, make_line};
pub use users::{UsersError, parse_user};

/// Decides who may use the gateway.
pub struct Authenticator {
    /// Absent with `--no-auth`.
    guard: Option<Guard>,
}

struct Guard {
    key: Key,
    inline: Inline,
    /// Locked for the whole of a reload, so that two of them cannot swap their results.
    file: Option<Mutex<UsersFile>>,
    table: RwLock<Arc<Table>>,
    verifier: Verifier,
}

impl Authenticator {
    /// Lets everybody in: `--no-auth`.
    #[must_use]
    pub const fn open() -> Self {
        Self { guard: None }
    }

    /// Lets in the users given (`--user`) and those of the file (`--users`).
    ///
    /// # Errors
    /// When there is no user at all, one is there twice, or the file cannot be used.
    pub fn new(inline: Vec<(String, Secret)>, file: Option<PathBuf>) -> Result<Self, UsersError> {
        Guard::new(inline, file, Verifier::new()).map(|guard| Self { guard: Some(guard) })
    }

    /// The user whose credentials these are, or `None` with `--no-auth`.
    ///
    /// `proxy_authorization` is the value of the header; `source` the address that is held to the
    /// limits on guesses. The future may be dropped at any time: it gives back what it holds, and a
    /// hash that others wait for goes on.
    ///
    /// # Errors
    /// [`Reason::AuthRequired`] without the header; [`Reason::AuthFailed`] for credentials that are
    /// wrong or unreadable, counted in [`metrics::AUTH_FAILURES`]; [`Reason::AuthBusy`] when too
    /// many guesses wait. The words hold nothing of the credentials.
    pub async fn check(
        &self,
        proxy_authorization: Option<&Secret>,
        source: IpAddr,
    ) -> Result<Option<Arc<str>>, Refusal> {
        let Some(guard) = &self.guard else { return Ok(None) };
        let user = guard.check(proxy_authorization, source).await;
        if user.as_ref().is_err_and(|refusal| refusal.reason == Reason::AuthFailed) {
            metrics::AUTH_FAILURES.counter(&[]).increment(1);
        }
        user.map(Some)
    }

    /// Reads the users file again and puts it in the place of the one before, as a whole and for
    /// checks that begin from then on; verified credentials are forgotten. Gives the number of
    /// users. Blocks on the file system.
    ///
    /// # Errors
    /// When the file cannot be used; the users from before are kept.
    pub fn reload(&self) -> Result<usize, UsersError> {
        self.guard.as_ref().map_or(Ok(0), Guard::reload)
    }

    /// Whether the users file is another one than at the last [`Authenticator::reload`], one that
    /// failed included. Cheap enough for once a second: a `stat(2)`, through symbolic links, for
    /// Kubernetes replaces a mounted secret by moving a link.
    #[must_use]
    pub fn changed(&self) -> bool {
        let file = self.guard.as_ref().and_then(|guard| guard.file.as_ref());
        file.is_some_and(|file| file.lock().unwrap_or_else(PoisonError::into_inner).changed())
    }

    /// The names of all users; none with `--no-auth`.
    #[must_use]
    pub fn names(&self) -> Vec<Arc<str>> {
        self.guard.as_ref().map_or_else(Vec::new, |guard| guard.inline.names().chain(guard.table().names()).collect())
    }

    /// How many users there are; 0 with `--no-auth`.
    #[must_use]
    pub fn users(&self) -> usize {
        self.guard.as_ref().map_or(0, Guard::users)
    }
}

impl Guard {
    fn new(inline: Vec<(String, Secret)>, file: Option<PathBuf>, verifier: Verifier) -> Result<Self, UsersError> {
        if inline.is_empty() && file.is_none() {
            return Err(UsersError::new(
                "users",
                "there are none",
                "give --user or --users, or --no-auth for an open gateway",
            ));
        }
        let key = Key::random()?;
        let inline = Inline::new(inline, &key)?;
        let mut file = file.map(UsersFile::new);
        let table = file.as_mut().map_or_else(|| Ok(Table::default()), |file| read(file, &inline))?;
        Ok(Self { key, inline, file: file.map(Mutex::new), table: RwLock::new(Arc::new(table)), verifier })
    }

    async fn check(&self, header: Option<&Secret>, source: IpAddr) -> Result<Arc<str>, Refusal> {
        let header = header.ok_or_else(|| Refusal::new(Reason::AuthRequired, "proxy credentials are needed"))?;
        let credentials = basic::parse(header)?;
        let digest = self.key.digest(&credentials);
        if let Some(name) = self.inline.find(&digest) {
            return Ok(name);
        }
        // Boxed: the users of the command line never come here, and should keep no room for it.
        Box::pin(self.verifier.verify(&self.table(), credentials, digest, source)).await
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self) -> Result<usize, UsersError> {
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            let table = Arc::new(read(&mut file, &self.inline)?);
            *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        }
        Ok(self.users())
    }

    fn users(&self) -> usize {
        self.inline.len() + self.table().len()
    }
}

/// The table of a file, none of whose users is an inline one too: a user who was taken out of one
/// place would stay in by the other.
fn read(file: &mut UsersFile, inline: &Inline) -> Result<Table, UsersError> {
    let lines = file.read()?;
    match lines.iter().find(|line| inline.has(&line.name)) {
        Some(line) => Err(UsersError::at(
            file.path(),
            line.number,
            format!("'{}' is given by --user too", line.name),
            "keep one of the two",
        )),
        None => Ok(Table::new(lines)),
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("open", &self.guard.is_none()).field("users", &self.users()).finish()
    }
}

#[cfg(test)]
mod tests;
