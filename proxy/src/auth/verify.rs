//! Password hashing off the event loop, as much at a time as there are cores.

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;

use tokio::sync::{Semaphore, watch};

use crate::reason::{Reason, Refusal};

use super::basic::Credentials;
use super::digest::Digest;
use super::flight::Verdict;
use super::hash::Hash;
use super::table::Table;
use super::turns::Turns;

/// Computes a hash: [`Hash::matches`], or what a test puts in its place to count and to hold up.
pub(super) type Matches = Arc<dyn Fn(&Hash, &[u8]) -> bool + Send + Sync>;

/// What all checks share, whichever table they are against.
pub(super) struct Verifier {
    /// One for each core that the process may use: hashing is nothing but computing.
    cores: Arc<Semaphore>,
    pub(super) turns: Arc<Turns>,
    matches: Matches,
}

impl Verifier {
    pub(super) fn new() -> Self {
        Self::with(Arc::new(Hash::matches))
    }

    pub(super) fn with(matches: Matches) -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { cores: Arc::new(Semaphore::new(cores)), turns: Arc::default(), matches }
    }

    /// The name of the user of the table whose credentials these are. Those that were verified
    /// before never wait; the same ones at the same time are hashed once, and count once among the
    /// limits of the source that came first.
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
        let passenger = table.flights.join(digest);
        // A check that ended before this one joined has left its mark by now.
        if let Some(name) = table.verified(&credentials.user, &digest) {
            return Ok(name);
        }
        let user = credentials.user.clone();
        let right = passenger.verdict(|| self.start(table, credentials, digest, source)).await?;
        let name = if right { table.name(&user) } else { None };
        name.ok_or_else(wrong)
    }

    /// Waits for the source's turn and for a core, then has the hash computed. Nothing is awaited
    /// after it is handed over, and it takes with it what it uses: who leaves cannot stop it, nor
    /// free a place that it still fills.
    async fn start(
        &self,
        table: &Arc<Table>,
        credentials: Credentials,
        digest: Digest,
        source: IpAddr,
    ) -> Result<Verdict, Refusal> {
        let turn = self.turns.take(source).await?;
        let core = Arc::clone(&self.cores).acquire_owned().await;
        let core = core.map_err(|_| Refusal::new(Reason::AuthBusy, "the gateway is stopping"))?;
        let (tell, verdict) = watch::channel(None);
        let (table, matches) = (Arc::clone(table), Arc::clone(&self.matches));
        let passenger = table.flights.join(digest);
        tokio::task::spawn_blocking(move || {
            let right = table.judge(&credentials, digest, &*matches);
            drop((turn, core));
            tell.send_replace(Some(right));
            drop(passenger);
        });
        Ok(verdict)
    }
}

fn wrong() -> Refusal {
    Refusal::new(Reason::AuthFailed, "wrong user name or password")
}

#[cfg(test)]
impl Verifier {
    /// How many hashes can run at a time; ask while none does.
    pub(super) fn cores(&self) -> usize {
        self.cores.available_permits()
    }
}
