//! Result of a check: the value found and needed, the verdict, the cost and the remedy.

use serde::Serialize;

/// Verdict on the value found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// There is nothing to gain.
    Ok,
    /// It costs speed or room.
    Slow,
    /// A feature in use by the gateway does not work.
    Fails,
    /// It cannot be seen from here, for the reason given.
    Unknown,
}

impl State {
    /// The word in the table.
    #[must_use]
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Fails => "fails",
            Self::Unknown => "unknown",
        }
    }
}

/// Value found by a check, and the verdict on it.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The verdict.
    pub(super) state: State,
    /// It degrades the running engine: see the verdict.
    pub(super) degrades: bool,
    /// The value found.
    pub(super) found: String,
    /// Cost of leaving the value as it is, or empty.
    pub(super) costs: String,
    /// Commands and settings to fix it.
    pub(super) fix: Vec<String>,
}

impl Found {
    /// A value with nothing to gain.
    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self { state: State::Ok, degrades: false, found: found.into(), costs: String::new(), fix: Vec::new() }
    }

    /// Sets the verdict and the cost.
    #[must_use]
    pub(super) fn costs(mut self, state: State, costs: impl Into<String>) -> Self {
        self.state = state;
        self.costs = costs.into();
        self
    }

    /// Applies `change` unless `condition` holds.
    #[must_use]
    pub(super) fn unless(self, condition: bool, change: impl FnOnce(Self) -> Self) -> Self {
        if condition { self } else { change(self) }
    }

    /// Adds one remedy.
    #[must_use]
    pub(super) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix.push(fix.into());
        self
    }

    /// Adds several remedies.
    #[must_use]
    pub(super) fn fixes(mut self, fixes: Vec<String>) -> Self {
        self.fix.extend(fixes);
        self
    }
}

/// A row of the output. The names of the fields are the keys of `--json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Finding {
    /// Name of the check, a stable word.
    pub(super) check: &'static str,
    /// The verdict.
    pub(super) state: State,
    /// It degrades the running engine: see the verdict.
    pub(super) degrades: bool,
    /// The value found.
    pub(super) found: String,
    /// The value needed.
    pub(super) needed: String,
    /// Cost of leaving the value as it is, or empty.
    pub(super) costs: String,
    /// Commands and settings to fix it.
    pub(super) fix: Vec<String>,
}

impl Finding {
    /// The row of the check of this name.
    pub(super) fn new(check: &'static str, needed: String, found: Found) -> Self {
        let Found { state, degrades, found, costs, fix } = found;
        Self { check, state, degrades, found, needed, costs, fix }
    }
}
