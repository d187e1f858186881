//! `explain`: which rule decides about a target, by the very code that decides for a client.

use std::fmt::Write as _;
use std::time::Duration;

use super::Failure;
use crate::config::settings::parents;
use crate::config::{Explain, Rules};
use crate::dial::{self, Dialer};
use crate::policy::{Named, Policy};
use crate::sys::socket::{LegOptions, is_local_address};
use crate::target::Target;

/// Prints the verdict on each address of the target.
///
/// # Errors
/// A target that is none (2); one that is refused or does not resolve (1).
pub async fn run(options: &Explain) -> Result<String, Failure> {
    let wrong = |error| Failure::Usage(format!("{}: {error}", options.target));
    let target = Target::parse(&options.target).map_err(wrong)?;
    let rules = &options.rules;
    let own = rules.listen.iter().copied().chain([rules.admin]).collect();
    let policy = Policy::new(rules.allow.clone(), rules.deny.clone(), own, is_local_address);
    let mut text = question(options, &target);
    let named = match policy.check_name(target.clone()) {
        Ok(named) => named,
        Err(refusal) => return verdict(text, &format!("refused: {}", refusal.detail), false),
    };
    let dialer = dialer(rules)?;
    if dialer.leaves_name_to_parent(&named) {
        return by_parent(text, &policy, &dialer, named);
    }
    let addresses = match dialer.resolve(&named).await {
        Ok(addresses) => addresses,
        Err(refusal) => return verdict(text, &format!("permitted by name, but {}", refusal.detail), false),
    };
    for address in &addresses {
        let _ = writeln!(text, "  {address}  {}", policy.judge(&target, *address));
    }
    match policy.check_addresses(named, addresses).map(|permit| dialer.choose(permit)) {
        Err(_) => verdict(text, "refused: no address is permitted", false),
        Ok(way) => {
            let some = way.permit().addresses();
            let list = some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let what = match &way.parent {
                Some(parent) => format!("permitted; {parent} would be asked for {}", some[0]),
                None => format!("permitted; would be dialled: {list}"),
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
            let way = dialer.choose(permit);
            let parent = way.parent.as_ref().map(|parent| parent.to_string()).unwrap_or_default();
            let (rule, target) = (way.permit().rule(), way.permit().target());
            verdict(text, &format!("permitted by {rule}; {parent} would be asked for {target}, and resolve it"), true)
        }
    }
}

fn question(options: &Explain, target: &Target) -> String {
    let user = options.user.as_deref().unwrap_or("any user");
    let from = options.from.map_or("anywhere".to_owned(), |from| from.to_string());
    format!("{user} from {from} asks for {target} (the rules are the same for every user and source)\n")
}

fn dialer(rules: &Rules) -> Result<Dialer, Failure> {
    let leg = LegOptions::default();
    let options = dial::Options::new(Duration::from_secs(10), &[], leg).map_err(Failure::Work)?;
    Ok(Dialer::new(options.through(parents(rules).map_err(Failure::Usage)?)))
}

fn verdict(mut text: String, what: &str, permitted: bool) -> Result<String, Failure> {
    if !permitted {
        print!("{text}");
        return Err(Failure::Work(what.to_owned()));
    }
    let _ = writeln!(text, "{what}");
    Ok(text)
}
