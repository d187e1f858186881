//! Password checks against a table: from the cache, or by a hash off the event loop.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::basic::Credentials;
use super::digest::Digest;
use super::hash::Hash;
use super::hash_pool::{Lead, Pool, Ticket, busy};
use super::outcome::Outcome;
use super::user_table::Table;
use crate::reason::{Reason, Refusal};
use crate::source::Source;
use crate::sys::deadline::timeout;

/// Time limit of a check, waiting for a thread included. A hash running at its end goes on, and a
/// right password is known when the client comes again.
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// Computes a hash: [`Hash::matches`], or a test's replacement to count and delay checks.
pub(super) type Matches = Arc<dyn Fn(&Hash, &[u8]) -> bool + Send + Sync>;

/// State shared by all checks, of every table.
pub(super) struct Verifier {
    pub(super) pool: Pool,
    matches: Matches,
    /// [`CHECK_TIMEOUT`], or more where a test makes a check wait on purpose.
    pub(super) timeout: Duration,
}

impl Verifier {
    /// Creates a verifier with a pool not yet started.
    pub(super) fn new() -> Self {
        Self::with(Arc::new(Hash::matches))
    }

    pub(super) fn with(matches: Matches) -> Self {
        Self { pool: Pool::new(), matches, timeout: CHECK_TIMEOUT }
    }

    /// Returns the name of the table's user with these credentials. Credentials verified before
    /// never wait; equal ones at one time are hashed once, charged to the first source. Dropping
    /// the future takes the check out of the queue, unless it has other waiters.
    pub(super) async fn verify(
        &self,
        table: &Arc<Table>,
        credentials: Credentials,
        digest: Digest,
        source: IpAddr,
    ) -> Result<Arc<str>, Refusal> {
        if let Some(name) = table.verified(&credentials.user, &digest) {
            return Ok(name);
        }
        if table.len() == 0 {
            return Err(wrong());
        }
        let checked = timeout(self.timeout, self.check(table, &credentials, digest, source.into())).await;
        let late = |_| busy(format!("the password check took longer than {:?}; try again", self.timeout));
        let is_right = checked.map_err(late)??;
        let name = if is_right { table.name(&credentials.user) } else { None };
        name.ok_or_else(wrong)
    }

    async fn check(
        &self,
        table: &Arc<Table>,
        credentials: &Credentials,
        digest: Digest,
        source: Source,
    ) -> Result<bool, Refusal> {
        let mut is_again = false;
        loop {
            let (waiter, lead) = table.running_checks.join(digest);
            // A check that ended before this one joined is recorded by now.
            if table.verified(&credentials.user, &digest).is_some() {
                return Ok(true);
            }
            if let Some(place) = lead.and_then(|lead| self.start(table, credentials.clone(), digest, source, lead)) {
                waiter.hold(place);
            }
            match waiter.outcome().await {
                Some(Outcome::Right) => return Ok(true),
                Some(Outcome::Wrong) => return Ok(false),
                // Another source had no room: this one may have.
                Some(Outcome::Refused { source: charged, .. }) if !is_again && charged != source => {}
                Some(Outcome::Refused { refusal, .. }) => return Err(refusal),
                None if !is_again => {}
                None => return Err(busy("the password check was aborted; try again")),
            }
            is_again = true;
        }
    }

    fn start(
        &self,
        table: &Arc<Table>,
        credentials: Credentials,
        digest: Digest,
        source: Source,
        lead: Lead,
    ) -> Option<Ticket> {
        let (table, matches) = (Arc::clone(table), Arc::clone(&self.matches));
        self.pool.submit(source, Box::new(move || table.check_password(&credentials, digest, &*matches)), lead)
    }
}

fn wrong() -> Refusal {
    Refusal::new(Reason::AuthFailed, "wrong user name or password")
}
