//! Access of the clients of each listener.

/// Access of a listener's clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Metrics and health: `--metrics`.
    Metrics,
    /// All reads: `--admin`.
    Read,
    /// Everything: `--control`.
    Control,
}

impl Access {
    /// Name of the listener, for messages.
    #[must_use]
    pub const fn listener(self) -> &'static str {
        match self {
            Self::Metrics => "metrics address",
            Self::Read => "admin address",
            Self::Control => "control socket",
        }
    }
}
