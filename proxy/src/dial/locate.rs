//! Locating a target: the candidates of its name, and the look-up of each as far as the rules
//! permit it.

use std::net::SocketAddr;
use std::vec;

use super::dialer::Dialer;
use super::resolve::LookupError;
use super::search::{Candidates, complete};
use crate::policy::{Named, Policy};
use crate::principal::Principal;
use crate::reason::Refusal;
use crate::target::{Host, Target};

/// The location of a target, as far as it is known before dialling.
#[derive(Debug)]
pub enum Location {
    /// A parent proxy resolves the name.
    AtParent,
    /// The target has these addresses.
    Addresses(Vec<SocketAddr>),
}

impl Dialer {
    /// Completes a target. A name stays as given if it has a dot or a final dot, if `/etc/hosts`
    /// lists it, or without any `--search-domain`.
    #[must_use]
    pub fn candidates(&self, target: Target) -> Candidates {
        let fallback = target.clone();
        let all = complete(&self.options.search, target, |name| self.resolver.is_in_hosts(name));
        let mut others = all.into_iter();
        Candidates { first: others.next().unwrap_or(fallback), others }
    }

    /// Resolves a target, unless its name is left to a parent. If the target does not exist, the
    /// next candidate replaces it: `policy` judges that candidate before its look-up, and `judging`
    /// is called with it.
    ///
    /// # Errors
    /// Those of [`Dialer::resolve`], and `Denied` for a candidate refused by the rules. That ends
    /// the search: the meaning of a name must not depend on the client.
    pub async fn locate(
        &self,
        policy: &Policy,
        mut named: Named,
        mut others: vec::IntoIter<Target>,
        requester: &Principal,
        mut judging: impl FnMut(&Target),
    ) -> Result<(Named, Location), Refusal> {
        let mut missing = String::new();
        loop {
            if self.leaves_name_to_parent(&named) {
                return Ok((named, Location::AtParent));
            }
            let error = match self.look_up(named.target(), requester).await {
                Ok(addresses) => return Ok((named, Location::Addresses(addresses))),
                Err(error) => error,
            };
            let name = named.target().host.to_string();
            let Some(next) = others.next().filter(|_| matches!(error, LookupError::NotFound(_))) else {
                let Refusal { reason, detail } = error.refusal(&name);
                return Err(Refusal::new(reason, format!("{detail}{missing}")));
            };
            missing.push_str(&format!(", nor {name}"));
            judging(&next);
            named = policy.check_name(next, named.scope())?;
        }
    }

    /// The addresses of a target with its port, at most 16, families alternating; a literal address
    /// is its own.
    pub(super) async fn look_up(&self, target: &Target, requester: &Principal) -> Result<Vec<SocketAddr>, LookupError> {
        let mut addresses = match &target.host {
            Host::Address(address) => vec![SocketAddr::new(*address, target.port)],
            Host::Name(name) => Box::pin(self.resolver.resolve(name, requester)).await?,
        };
        addresses.iter_mut().for_each(|address| address.set_port(target.port));
        Ok(addresses)
    }

    /// Reads `/etc/resolv.conf` and `/etc/hosts` again if they have changed or if `asked` is set.
    /// Blocks on the file system.
    pub fn reread(&self, asked: bool) {
        self.resolver.reread(asked);
    }
}
