//! `explain`: the rule for a target, found by the code for clients' requests.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::failure::Failure;
use crate::auth::{Entry, TrustedNetwork};
use crate::config::Explain;
use crate::config::error::ConfigErrors;
use crate::config::settings::parents;
use crate::dial::{self, Candidates, Dialer, LOOKUPS_EACH, Location};
use crate::invalid_value::InvalidValue;
use crate::policy::{Named, Policy};
use crate::principal::Principal;
use crate::reason::{Reason, Refusal};
use crate::sys::socket::{LegOptions, is_local_address};
use crate::target::Target;
use crate::user_policy::UserPolicy;

/// Prints the verdict on each address of the target.
///
/// # Errors
/// An invalid target (2); a target that is refused or does not resolve (1).
pub async fn run(options: &Explain) -> Result<String, Failure> {
    let options = &as_network(options);
    let wrong = |error| Failure::Usage(format!("{}: {error}", options.target));
    let target = Target::parse(&options.target).map_err(wrong)?;
    let rules = &options.rules;
    let own = rules
        .listen()
        .into_iter()
        .chain(rules.listen_tls.iter().copied())
        .chain(options.operation.readers().copied())
        .collect();
    let policy = Policy::new(rules.allow.clone(), rules.deny.clone(), own, is_local_address);
    let user_policy = user_policy(options);
    let mut text = question(options, &target, user_policy);
    if let Some(refusal) = user_policy.and_then(|user_policy| not_admitted(options, user_policy)) {
        return verdict(text, &format!("refused: {}", refusal.detail), false);
    }
    let scope = user_policy.and_then(|user_policy| user_policy.scope.as_ref());
    let dialer = dialer(options)?;
    let Candidates { first, others } = dialer.candidates(target.clone());
    if first != target {
        let _ = writeln!(text, "  {target} is completed to {first}");
    }
    let named = match policy.check_name(first, scope) {
        Ok(named) => named,
        Err(refusal) => return verdict(text, &format!("refused: {}", refusal.detail), false),
    };
    let judging = |target: &Target| {
        let _ = writeln!(text, "  no such name; trying {target}");
    };
    let (named, addresses) = match dialer.locate(&policy, named, others, &Principal::Gateway, judging).await {
        Ok((named, Location::AtParent)) => return by_parent(text, &policy, &dialer, named),
        Ok((named, Location::Addresses(addresses))) => (named, addresses),
        Err(refusal) if refusal.reason == Reason::Denied => {
            return verdict(text, &format!("refused: {}", refusal.detail), false);
        }
        Err(refusal) => return verdict(text, &format!("permitted by name, but {}", refusal.detail), false),
    };
    for address in &addresses {
        let _ = writeln!(text, "  {address}  {}", policy.judge(named.target(), *address, scope));
    }
    match policy.check_addresses(named, addresses).map(|permit| dialer.choose(permit)) {
        Err(_) => verdict(text, "refused: no address is permitted", false),
        Ok(plan) => {
            let some = plan.permit().addresses();
            let list = some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let what = match &plan.parent {
                Some(parent) => format!("permitted; would connect through {parent} to {}", some[0]),
                None => format!("permitted; would connect to {list}"),
            };
            verdict(text, &what, true)
        }
    }
}

/// The name is not resolved here.
fn by_parent(text: String, policy: &Policy, dialer: &Dialer, named: Named) -> Result<String, Failure> {
    match policy.check_unresolved(named) {
        Err(refusal) => verdict(text, &format!("refused: {}", refusal.detail), false),
        Ok(permit) => {
            let plan = dialer.choose(permit);
            let parent = plan.parent.as_ref().map(|parent| parent.to_string()).unwrap_or_default();
            let (rule, target) = (plan.permit().rule(), plan.permit().target());
            verdict(
                text,
                &format!("permitted by {rule}; would connect through {parent}, which resolves {target}"),
                true,
            )
        }
    }
}

/// Returns the options for the user of the client's network, if no user is named.
fn as_network(options: &Explain) -> Explain {
    let mut options = options.clone();
    if options.user.is_none() {
        let network = options.from.and_then(|from| TrustedNetwork::narrowest(&options.rules.no_auth_from, from));
        options.user = network.map(|network| network.name().to_string());
    }
    options
}

/// The policy of the user's section in the file.
fn user_policy(options: &Explain) -> Option<&UserPolicy> {
    let name = options.user.as_deref()?;
    options.sources.users.iter().find(|entry| entry.name() == name).map(Entry::user_policy)
}

/// Why the user would not come in at all.
fn not_admitted(options: &Explain, user_policy: &UserPolicy) -> Option<Refusal> {
    let name = options.user.as_deref()?;
    // Without `--from`, a permitted address is assumed.
    let from = options.from.or_else(|| user_policy.from.first().map(IpNet::addr));
    user_policy.admit(name, from.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), SystemTime::now()).err()
}

fn question(options: &Explain, target: &Target, user_policy: Option<&UserPolicy>) -> String {
    let user = options.user.as_deref().unwrap_or("any user");
    let from = options.from.map_or("anywhere".to_owned(), |from| from.to_string());
    let terms = match (user_policy, options.sources.users.is_empty()) {
        (Some(user_policy), _) => format!("\n  limits of {user}: {user_policy}\n"),
        (None, true) => " (the rules are the same for every user and source)\n".to_owned(),
        (None, false) if options.user.is_none() => {
            " (users may have limits of their own in [users]: name one with --user)\n".to_owned()
        }
        (None, false) => {
            format!(" ({user} has no section in [users]; --user is not checked against the users file)\n")
        }
    };
    let network = options.rules.no_auth_from.iter().find(|network| **network.name() == *user);
    let network =
        network.map(|network| format!("  clients of {user} need no credentials (--no-auth-from {})\n", network.name()));
    format!("{user} from {from} requests {target}{terms}{}", network.unwrap_or_default())
}

/// Joins errors, one a line.
fn lines(errors: &[InvalidValue]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn dialer(explain: &Explain) -> Result<Dialer, Failure> {
    let rules = &explain.rules;
    let leg = LegOptions::default();
    let options =
        dial::Options::new(Duration::from_secs(10), &[], leg).map_err(|errors| Failure::Work(lines(&errors)))?;
    let parents = parents(rules, &explain.operation).map_err(|errors| {
        ConfigErrors(errors.0.into_iter().map(|error| explain.sources.with_location(error)).collect())
    })?;
    let options =
        options.through(parents, rules.parent_ca.as_deref()).map_err(|error| Failure::Usage(error.to_string()))?;
    Ok(Dialer::new(options.resolving(rules.resolver.into(), rules.search_domain.clone(), LOOKUPS_EACH)))
}

fn verdict(mut text: String, what: &str, permitted: bool) -> Result<String, Failure> {
    if !permitted {
        print!("{text}");
        return Err(Failure::Work(what.to_owned()));
    }
    let _ = writeln!(text, "{what}");
    Ok(text)
}
