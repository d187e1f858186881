//! Exponential back-off, counted in chances: skips an optimisation that has not paid, for twice as
//! long each time.

/// Number of chances to skip.
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

    /// Counts one chance and tests if it is to be skipped.
    pub(super) const fn skips(&mut self) -> bool {
        let skips = self.left > 0;
        self.left = self.left.saturating_sub(1);
        skips
    }

    /// Records a failure: skips the next chances, twice as many after each failure.
    pub(super) fn back_off(&mut self) {
        self.left = self.next;
        self.next = (self.next * 2).min(self.longest);
    }

    /// Records a success: the next back-off is the shortest again.
    pub(super) const fn reset(&mut self) {
        self.next = self.shortest;
    }
}
