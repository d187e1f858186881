//! Dialling a target: name resolution, then a connection to the first permitted address that
//! answers.
//!
//! [`Dialer::dial`] takes a [`Permit`] and nothing else, so no socket is opened to an address
//! before the policy has judged it. A name is resolved once, before the policy judges its
//! addresses.
//!
//! `--parent` can route a target through another proxy. The gateway asks that proxy for a tunnel
//! before it answers the client. An entry for names leaves name resolution to the parent. An entry
//! for networks applies to the addresses judged by the policy, and the gateway asks the parent for
//! one of those addresses.

mod cause;
mod dialer;
mod locate;
mod options;
mod parent;
mod parents;
mod plan;
mod race;
mod resolve;
mod search;

pub use dialer::{Dialer, register_series};
pub use locate::Location;
pub use options::Options;
pub use parents::{Parent, Parents, Route};
pub use plan::{DialPlan, Upstream};
pub use resolve::{LOOKUPS_EACH, ResolverKind};
pub use search::{Candidates, SearchDomain};

#[cfg(test)]
mod tests;
