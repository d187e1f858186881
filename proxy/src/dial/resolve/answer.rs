//! The result of a look-up.

use std::net::SocketAddr;
use std::time::Duration;

use crate::reason::{Reason, Refusal};

/// Addresses of a name, with port 0, or the cause of their absence, and the time to live of the
/// result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) outcome: Result<Vec<SocketAddr>, LookupError>,
    /// Time to live; zero keeps the answer from being remembered.
    pub(super) ttl: Duration,
}

/// Why a name has no addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::dial) enum LookupError {
    /// The name does not exist, or has no address; the text names the case.
    NotFound(String),
    /// The existence of the name is unknown; the text holds the cause.
    Failed(String),
    /// No answer within this time.
    Timeout(Duration),
    /// The requester's share or all look-ups are in use.
    Limited(String),
    /// The gateway lacks a resource for the look-up.
    Exhausted(String),
}

impl LookupError {
    /// Returns the refusal for a client asking for `name`.
    pub(in crate::dial) fn refusal(&self, name: &str) -> Refusal {
        match self {
            Self::NotFound(why) | Self::Failed(why) => {
                Refusal::new(Reason::ResolveFailed, format!("{name} does not resolve: {why}"))
            }
            Self::Timeout(time) => {
                let time = humantime::format_duration(*time);
                Refusal::new(Reason::ResolveTimeout, format!("no answer about {name} from the resolver in {time}"))
            }
            Self::Limited(why) => Refusal::new(Reason::LookupLimit, format!("{name} is not looked up: {why}")),
            Self::Exhausted(why) => Refusal::new(Reason::Exhausted, format!("{name} cannot be looked up: {why}")),
        }
    }

    /// All values of [`LookupError::label`].
    pub(super) const LABELS: [&str; 5] = ["not_found", "failed", "timeout", "limited", "exhausted"];

    /// The value of the `outcome` label.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "not_found",
            Self::Failed(_) => "failed",
            Self::Timeout(_) => "timeout",
            Self::Limited(_) => "limited",
            Self::Exhausted(_) => "exhausted",
        }
    }
}
