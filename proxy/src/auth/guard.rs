//! The users of a gateway, and how they are read again.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::basic;
use super::digest::Key;
use super::entry::{Elsewhere, Entry};
use super::file::UsersFile;
use super::table::{Inline, Table};
use super::users::UsersError;
use super::verify::Verifier;
use crate::grant::Grant;
use crate::reason::{Reason, Refusal};
use crate::secret::Secret;

/// A user who has come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// As he is configured.
    pub name: Arc<str>,
    /// What he may, where that is said.
    pub grant: Option<Arc<Grant>>,
}

/// Credentials that were not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the client is answered.
    pub refusal: Refusal,
    /// User that the credentials name, for the log: a configured one, never a name that a stranger
    /// made up.
    pub user: Option<Arc<str>>,
}

/// The users, and what checks their credentials.
pub(super) struct Guard {
    pub(super) key: Key,
    pub(super) inline: Inline,
    file: Option<Mutex<UsersFile>>,
    /// Who stands in the configuration file; locked for the whole of a reload.
    entries: Mutex<Vec<Entry>>,
    /// Where those are read again.
    pub(super) elsewhere: Option<Box<dyn Elsewhere>>,
    table: RwLock<Arc<Table>>,
    pub(super) verifier: Verifier,
}

impl Guard {
    pub(super) fn new(
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
        let table = RwLock::new(Arc::new(read(file.as_mut(), &inline, &entries, None)?));
        let (file, entries) = (file.map(Mutex::new), Mutex::new(entries));
        Ok(Self { key, inline, file, entries, elsewhere: None, table, verifier })
    }

    pub(super) async fn check(&self, header: Option<&Secret>, source: IpAddr) -> Result<User, Failure> {
        let nobody = |refusal| Failure { refusal, user: None };
        let required = || nobody(Refusal::new(Reason::AuthRequired, "proxy credentials are needed"));
        let credentials = basic::parse(header.ok_or_else(required)?).map_err(nobody)?;
        let digest = self.key.digest(&credentials);
        // The password and what the user may are of the same reading.
        let table = self.table();
        if let Some(name) = self.inline.find(&digest) {
            return Ok(User { grant: table.grant(&name), name });
        }
        // Boxed: the users of the command line never come here, and should keep no room for it.
        let verified = Box::pin(async {
            let claimed = self.inline.name(&credentials.user).or_else(|| table.name(&credentials.user));
            let verified = self.verifier.verify(&table, credentials, digest, source).await;
            verified.map_err(|refusal| Failure { refusal, user: claimed })
        });
        let name = verified.await?;
        Ok(User { grant: table.grant(&name), name })
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
        // Held for the whole of it, so that two reloads cannot swap their results.
        let mut entries = lock(&self.entries);
        if let Some(elsewhere) = &self.elsewhere {
            *entries = elsewhere.read()?;
        }
        let before = self.table();
        let table = match &self.file {
            Some(file) => read(Some(&mut lock(file)), &self.inline, &entries, Some(&before))?,
            None => read(None, &self.inline, &entries, Some(&before))?,
        };
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        drop(entries);
        Ok(self.users())
    }

    pub(super) fn users(&self) -> usize {
        self.inline.len() + self.table().len()
    }
}

/// The table of a file and of entries; nobody has passwords in two places: a user who was taken out of one would stay in
/// by the other.
fn read(
    file: Option<&mut UsersFile>,
    inline: &Inline,
    entries: &[Entry],
    before: Option<&Table>,
) -> Result<Table, UsersError> {
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
    Ok(Table::new(lines, entries, before))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
