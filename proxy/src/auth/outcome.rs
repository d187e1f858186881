//! Outcome of a password check, for all that wait for it.

use crate::reason::Refusal;
use crate::source::Source;

/// Outcome of a check.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// The password is the user's.
    Right,
    /// There is no such user with this password.
    Wrong,
    /// There was no room for the check.
    Refused {
        /// The answer to the client.
        refusal: Refusal,
        /// Source charged for the check: the first to ask.
        source: Source,
    },
}
