//! Locating a target: completion of names without a dot by `--search-domain`, before the rules
//! judge them, and the look-up of the completed name.

use std::net::SocketAddr;
use std::str::FromStr;
use std::vec;

use super::Dialer;
use super::resolve::LookupError;
use crate::policy::{Named, Policy};
use crate::principal::Principal;
use crate::reason::Refusal;
use crate::target::{Host, MAX_LABEL, MAX_NAME, Target, normal_name};

/// Domain of `--search-domain`, in the normal form of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchDomain(String);

impl FromStr for SearchDomain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let name = normal_name(text).map_err(|error| format!("{}; write it as corp.example", error.detail()))?;
        // It must still be a valid name with the longest label and a dot in front.
        match name.len() + 1 + MAX_LABEL <= MAX_NAME {
            true => Ok(Self(name)),
            false => Err("too long to complete a name; use a shorter domain".to_owned()),
        }
    }
}

/// Returns the candidates for `target`, in the order of trial; at least one.
fn complete(domains: &[SearchDomain], target: Target, is_in_hosts: impl Fn(&str) -> bool) -> Vec<Target> {
    match &target.host {
        Host::Name(name) if !target.absolute && !name.contains('.') && !domains.is_empty() && !is_in_hosts(name) => {
            let completed = |domain: &SearchDomain| Host::Name(format!("{name}.{}", domain.0));
            domains.iter().map(|domain| Target { host: completed(domain), ..target.clone() }).collect()
        }
        _ => vec![target],
    }
}

/// Candidates for the target of a request: the first is judged at once, each further one only if
/// the candidate before it does not exist.
#[derive(Debug)]
pub struct Candidates {
    /// The first candidate.
    pub first: Target,
    /// The others, in their order.
    pub others: vec::IntoIter<Target>,
}

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

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(domains: &[&str], target: &str) -> Vec<String> {
        let domains: Vec<_> = domains.iter().map(|domain| domain.parse().unwrap()).collect();
        let all = complete(&domains, Target::parse(target).unwrap(), |name| name == "listed");
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_without_a_dot_is_completed_and_no_other() {
        let domains = ["secret.corp.", "Corp.Example"];
        assert_eq!(completed(&domains, "DB:443"), ["db.secret.corp:443", "db.corp.example:443"]);
        for (given, kept) in [
            ("db.:443", "db:443"),
            ("api.example:443", "api.example:443"),
            ("api.example.:443", "api.example:443"),
            ("listed:1", "listed:1"),
            ("192.0.2.1:443", "192.0.2.1:443"),
        ] {
            assert_eq!(completed(&domains, given), [kept]);
        }
        assert_eq!(completed(&[], "db:443"), ["db:443"]);
    }

    #[test]
    fn a_domain_that_completes_no_name_is_refused() {
        let refused = |domain: &str| domain.parse::<SearchDomain>().unwrap_err();
        assert_eq!(refused("a..b"), "the host name has an empty label; write it as corp.example");
        let long = ["a".repeat(63).as_str(), &"b".repeat(63), &"c".repeat(63)].join(".");
        assert!(refused(&long).contains("too long to complete a name"));
    }
}
