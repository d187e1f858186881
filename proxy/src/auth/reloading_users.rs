//! The users of a gateway, and how they are read again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::basic;
use super::digest::Key;
use super::entry::{Entry, UserSource};
use super::error::UsersError;
use super::inline::Inline;
use super::network::{TrustedNetwork, TrustedNetworks};
use super::user_table::Table;
use super::users_file::{Lines, UsersFile};
use super::verify::Verifier;
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;
use crate::user_policy::UserPolicy;

/// An authenticated user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Name as configured.
    pub name: Arc<str>,
    /// Policy of the user.
    pub user_policy: Arc<UserPolicy>,
}

/// Rejected credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Answer to the client.
    pub refusal: Refusal,
    /// User named by the credentials, for the log: a configured one, never a name made up by a
    /// stranger.
    pub user: Option<Arc<str>>,
}

/// Users of a gateway, by the place where they are given.
#[derive(Debug, Default)]
pub struct Users {
    /// Names and passwords of `--user`.
    pub inline: Vec<(String, Secret)>,
    /// Path of `--users-file`.
    pub file: Option<PathBuf>,
    /// Sections of the configuration file.
    pub entries: Vec<Entry>,
    /// Networks of `--no-auth-from`.
    pub networks: Vec<TrustedNetwork>,
}

/// The users, and the verification of their credentials.
pub(super) struct Guard {
    pub(super) key: Key,
    pub(super) inline: Inline,
    pub(super) networks: TrustedNetworks,
    file: Option<Mutex<UsersFile>>,
    /// Users of the configuration file; locked for the whole of a reload.
    entries: Mutex<Vec<Entry>>,
    /// Where those are read again.
    pub(super) elsewhere: Option<Box<dyn UserSource>>,
    table: RwLock<Arc<Table>>,
    /// Invalid lines of the users file at its last read.
    bad_lines: Mutex<Vec<UsersError>>,
    pub(super) verifier: Verifier,
}

impl Guard {
    pub(super) fn new(users: Users, verifier: Verifier) -> Result<Self, UsersError> {
        let Users { inline, file, entries, networks } = users;
        let networks = TrustedNetworks::new(networks)?;
        let nobody = inline.is_empty() && file.is_none() && !entries.iter().any(Entry::has_password);
        if nobody && networks.is_empty() {
            return Err(UsersError::new(
                "users",
                "no users are configured",
                "give --user or --users-file, or --no-auth for an open gateway",
            ));
        }
        let key = Key::random()?;
        let inline = Inline::new(inline, &key)?;
        if let Some(name) = inline.names().find(|name| networks.has(name)) {
            let cause = format!("'{name}' is a network of --no-auth-from");
            return Err(UsersError::new("--user", cause, "give the user another name"));
        }
        let mut file = file.map(UsersFile::new);
        let (table, bad_lines) = read(file.as_mut(), &inline, &networks, &entries, None)?;
        let (file, entries) = (file.map(Mutex::new), Mutex::new(entries));
        let (table, bad_lines) = (RwLock::new(Arc::new(table)), Mutex::new(bad_lines));
        Ok(Self { key, inline, networks, file, entries, elsewhere: None, table, bad_lines, verifier })
    }

    pub(super) async fn check(&self, header: Option<&Secret>, source: IpAddr) -> Result<User, Failure> {
        let nobody = |refusal| Failure { refusal, user: None };
        // Password and policy come from one reading of the files.
        let table = self.table();
        let Some(header) = header else {
            // Credentials are checked if sent, from every source.
            let name = self.networks.user_at(source);
            let required = || nobody(Refusal::new(Reason::AuthRequired, "proxy credentials are needed"));
            return name.map(|name| User { user_policy: table.user_policy(&name), name }).ok_or_else(required);
        };
        let credentials = basic::parse(header).map_err(nobody)?;
        let digest = self.key.digest(&credentials);
        if let Some(name) = self.inline.find(&digest) {
            return Ok(User { user_policy: table.user_policy(&name), name });
        }
        // Boxed: the users of the command line never come here, and should keep no room for it.
        let verified = Box::pin(async {
            let claimed = self.inline.name(&credentials.user).or_else(|| table.name(&credentials.user));
            let verified = self.verifier.verify(&table, credentials, digest, source).await;
            verified.map_err(|refusal| Failure { refusal, user: claimed })
        });
        let name = verified.await?;
        Ok(User { user_policy: table.user_policy(&name), name })
    }

    /// The users as they were last read.
    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn changed(&self) -> bool {
        let file = self.file.as_ref().is_some_and(|file| lock(file).changed());
        file || self.elsewhere.as_ref().is_some_and(|elsewhere| elsewhere.changed())
    }

    pub(super) fn reload(&self) -> Result<usize, UsersError> {
        // Locked throughout, so that two reloads cannot swap their results.
        let mut entries = lock(&self.entries);
        if let Some(elsewhere) = &self.elsewhere {
            *entries = elsewhere.read()?;
        }
        let before = self.table();
        let mut file = self.file.as_ref().map(lock);
        let (table, bad_lines) = read(file.as_deref_mut(), &self.inline, &self.networks, &entries, Some(&before))?;
        *lock(&self.bad_lines) = bad_lines;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        drop(entries);
        Ok(self.users())
    }

    pub(super) fn users(&self) -> usize {
        self.inline.len() + self.table().len()
    }

    pub(super) fn bad_lines(&self) -> Vec<UsersError> {
        lock(&self.bad_lines).clone()
    }
}

/// Builds the table of a file and of entries; returns the invalid lines of the file too. A user
/// with passwords in two places is an error, since removing one would leave the other valid.
fn read(
    file: Option<&mut UsersFile>,
    inline: &Inline,
    networks: &TrustedNetworks,
    entries: &[Entry],
    before: Option<&Table>,
) -> Result<(Table, Vec<UsersError>), UsersError> {
    let own = |name: &str| entries.iter().find(|entry| entry.has_password() && *entry.name == *name);
    let option = |name: &str| match () {
        () if inline.has(name) => Some("by --user"),
        () if networks.has(name) => Some("by --no-auth-from"),
        () => None,
    };
    for entry in entries.iter().filter(|entry| entry.has_password()) {
        if let Some(other) = option(&entry.name) {
            return Err(entry.error(format!("'{}' is also defined {other}", entry.name), "keep one of the two"));
        }
    }
    let Some(file) = file else { return Ok((Table::new(Vec::new(), entries, before), Vec::new())) };
    let Lines { mut good, mut bad, .. } = file.read()?;
    good.retain(|line| {
        let section = || own(&line.name).map(|entry| format!("with passwords at {}", entry.place));
        let Some(other) = option(&line.name).map(str::to_owned).or_else(section) else { return true };
        let cause = format!("'{}' is also defined {other}; this line is ignored", line.name);
        bad.push(UsersError::at(file.path(), line.number, cause, "keep one of the two"));
        false
    });
    Ok((Table::new(good, entries, before), bad))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
