//! Doing without for a while what has not paid, and for twice as long when that comes again.

/// How long to do without, counted in chances to do it.
#[derive(Debug)]
pub(super) struct ExponentialBackoff {
    shortest: u32,
    longest: u32,
    left: u32,
    next: u32,
}

impl ExponentialBackoff {
    pub(super) const fn new(shortest: u32, longest: u32) -> Self {
        Self { shortest, longest, left: 0, next: shortest }
    }

    /// Whether this chance is one to do without.
    pub(super) const fn skips(&mut self) -> bool {
        let skips = self.left > 0;
        self.left = self.left.saturating_sub(1);
        skips
    }

    /// It did not pay.
    pub(super) fn back_off(&mut self) {
        self.left = self.next;
        self.next = (self.next * 2).min(self.longest);
    }

    /// It does pay: the next respite is a short one again.
    pub(super) const fn reset(&mut self) {
        self.next = self.shortest;
    }
}
