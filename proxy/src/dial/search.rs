//! Completion of names without a dot by `--search-domain`, before the rules judge them.

use std::str::FromStr;
use std::vec;

use crate::invalid_value::InvalidValue;
use crate::target::{Host, MAX_LABEL, MAX_NAME, Target, normal_name};

/// Domain of `--search-domain`, in the normal form of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchDomain(String);

impl FromStr for SearchDomain {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let name = normal_name(text).map_err(|error| error.invalid().or("write it as corp.example"))?;
        // It must still be a valid name with the longest label and a dot in front.
        match name.len() + 1 + MAX_LABEL <= MAX_NAME {
            true => Ok(Self(name)),
            false => Err(InvalidValue::new("too long to complete a name", "use a shorter domain")),
        }
    }
}

/// Returns the candidates for `target`, in the order of trial; at least one.
pub(super) fn complete(domains: &[SearchDomain], target: Target, is_in_hosts: impl Fn(&str) -> bool) -> Vec<Target> {
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
        let refused = |domain: &str| domain.parse::<SearchDomain>().unwrap_err().to_string();
        assert_eq!(refused("a..b"), "the host name has an empty label; write it as corp.example");
        let long = ["a".repeat(63).as_str(), &"b".repeat(63), &"c".repeat(63)].join(".");
        assert!(refused(&long).contains("too long to complete a name"));
    }
}
