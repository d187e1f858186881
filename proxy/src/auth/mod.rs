//! Credentials to user: `Proxy-Authorization` in, a configured user's name or a [`Refusal`] out.
//!
//! ```text
//! header -> basic -> digest -> inline? -> verified before? -> flight -> turn -> permit -> hash
//!           bytes    keyed     --user     users file, cached one for    per     per      off the
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
mod entry;
mod file;
mod flight;
mod hash;
mod make;
mod table;
mod turns;
mod users;
mod verify;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use crate::account::Limit;
use crate::grant::Grant;
use crate::metrics;
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;

use digest::Key;
use file::UsersFile;
use table::{Inline, Table};
use verify::Verifier;

pub use entry::{Elsewhere, Entry};
pub use make::{Recipe, make_line};
pub use users::{UsersError, parse_user};

/// A user who has come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As he is configured.
    pub name: Arc<str>,
    /// What he may, where that is said.
    pub grant: Option<Arc<Grant>>,
}

/// Decides who may use the gateway.
pub struct Authenticator {
    /// Absent with `--no-auth`.
    guard: Option<Guard>,
}

struct Guard {
    key: Key,
    inline: Inline,
    file: Option<Mutex<UsersFile>>,
    /// Who stands in the configuration file; locked for the whole of a reload.
    entries: Mutex<Vec<Entry>>,
    /// Where those are read again.
    elsewhere: Option<Box<dyn Elsewhere>>,
    table: RwLock<Arc<Table>>,
    verifier: Verifier,
}

impl Authenticator {
    /// Lets everybody in: `--no-auth`.
    #[must_use]
    pub const fn open() -> Self {
        Self { guard: None }
    }

    /// Lets in the users given (`--user`), those of the file (`--users-file`), and those of the configuration's own section.
    ///
    /// # Errors
    /// When there is no user at all, one is there twice, or the file cannot be used.
    pub fn new(inline: Vec<(String, Secret)>, file: Option<PathBuf>, entries: Vec<Entry>) -> Result<Self, UsersError> {
        Guard::new(inline, file, entries, Verifier::new()).map(|guard| Self { guard: Some(guard) })
    }

    /// Has the section read again from there.
    #[must_use]
    pub fn reading(mut self, elsewhere: impl Elsewhere + 'static) -> Self {
        if let Some(guard) = &mut self.guard {
            guard.elsewhere = Some(Box::new(elsewhere));
        }
        self
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
    pub async fn check(&self, proxy_authorization: Option<&Secret>, source: IpAddr) -> Result<Option<User>, Refusal> {
        let Some(guard) = &self.guard else { return Ok(None) };
        let user = guard.check(proxy_authorization, source).await;
        if user.as_ref().is_err_and(|refusal| refusal.reason == Reason::AuthFailed) {
            metrics::AUTH_FAILURES.counter(&[]).increment(1);
        }
        user.map(Some)
    }

    /// Reads the users file and the section of the configuration again and puts them in the place of those before, as
    /// a whole and for checks that begin from then on; verified credentials are forgotten. Gives the number of
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
        self.guard.as_ref().is_some_and(Guard::changed)
    }

    /// Every user, with the rate of his where one is said; none with `--no-auth`.
    #[must_use]
    pub fn rates(&self) -> BTreeMap<Arc<str>, Option<Limit>> {
        let Some(guard) = &self.guard else { return BTreeMap::new() };
        let table = guard.table();
        let rate = |name: Arc<str>| (table.grant(&name).and_then(|grant| grant.rate), name);
        guard.inline.names().chain(table.names()).map(rate).map(|(rate, name)| (name, rate)).collect()
    }

    /// Whether somebody can come in by this name.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.inline.has(name) || guard.table().name(name.as_bytes()).is_some())
    }

    /// The users whose live tunnels are to end, since their time is over.
    #[must_use]
    pub fn ending(&self, now: SystemTime) -> Vec<Arc<str>> {
        self.guard.as_ref().map_or_else(Vec::new, |guard| guard.table().ending(now))
    }

    /// How many users there are; 0 with `--no-auth`.
    #[must_use]
    pub fn users(&self) -> usize {
        self.guard.as_ref().map_or(0, Guard::users)
    }
}

impl Guard {
    fn new(
        inline: Vec<(String, Secret)>,
        file: Option<PathBuf>,
        entries: Vec<Entry>,
        verifier: Verifier,
    ) -> Result<Self, UsersError> {
        if inline.is_empty() && file.is_none() && !entries.iter().any(Entry::has_password) {
            return Err(UsersError::new(
                "users",
                "there are none",
                "give --user or --users-file, or --no-auth for an open gateway",
            ));
        }
        let key = Key::random()?;
        let inline = Inline::new(inline, &key)?;
        let mut file = file.map(UsersFile::new);
        let table = RwLock::new(Arc::new(read(file.as_mut(), &inline, &entries)?));
        let (file, entries) = (file.map(Mutex::new), Mutex::new(entries));
        Ok(Self { key, inline, file, entries, elsewhere: None, table, verifier })
    }

    async fn check(&self, header: Option<&Secret>, source: IpAddr) -> Result<User, Refusal> {
        let header = header.ok_or_else(|| Refusal::new(Reason::AuthRequired, "proxy credentials are needed"))?;
        let credentials = basic::parse(header)?;
        let digest = self.key.digest(&credentials);
        // The password and what he may are of the same reading.
        let table = self.table();
        let name = match self.inline.find(&digest) {
            Some(name) => name,
            // Boxed: the users of the command line never come here, and should keep no room for it.
            None => Box::pin(self.verifier.verify(&table, credentials, digest, source)).await?,
        };
        Ok(User { grant: table.grant(&name), name })
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn changed(&self) -> bool {
        let file = self.file.as_ref().is_some_and(|file| lock(file).changed());
        file || self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.changed())
    }

    fn reload(&self) -> Result<usize, UsersError> {
        // Held for the whole of it, so that two reloads cannot swap their results.
        let mut entries = lock(&self.entries);
        if let Some(elsewhere) = &self.elsewhere {
            *entries = elsewhere.read()?;
        }
        let table = match &self.file {
            Some(file) => read(Some(&mut lock(file)), &self.inline, &entries)?,
            None => read(None, &self.inline, &entries)?,
        };
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        drop(entries);
        Ok(self.users())
    }

    fn users(&self) -> usize {
        self.inline.len() + self.table().len()
    }
}

/// The table of a file and of entries; nobody has passwords in two places: a user who was taken out of one would stay in
/// by the other.
fn read(file: Option<&mut UsersFile>, inline: &Inline, entries: &[Entry]) -> Result<Table, UsersError> {
    let own = |name: &str| entries.iter().find(|entry| entry.has_password() && *entry.name == *name);
    if let Some(entry) = entries.iter().find(|entry| entry.has_password() && inline.has(&entry.name)) {
        return Err(entry.error(format!("'{}' is given by --user too", entry.name), "keep one of the two"));
    }
    let lines = match file {
        None => Vec::new(),
        Some(file) => {
            let lines = file.read()?;
            let twice = |name: &str, where_else: &str, number| {
                let cause = format!("'{name}' is given {where_else} too");
                UsersError::at(file.path(), number, cause, "keep one of the two")
            };
            if let Some(line) = lines.iter().find(|line| inline.has(&line.name)) {
                return Err(twice(&line.name, "by --user", line.number));
            }
            if let Some((line, entry)) = lines.iter().find_map(|line| Some((line, own(&line.name)?))) {
                return Err(twice(&line.name, &format!("passwords at {}", entry.place), line.number));
            }
            lines
        }
    };
    Ok(Table::new(lines, entries))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("open", &self.guard.is_none()).field("users", &self.users()).finish()
    }
}

#[cfg(test)]
mod tests;
