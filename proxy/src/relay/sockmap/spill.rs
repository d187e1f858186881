//! Process memory for bytes taken out of the receive buffers of sources whose destinations do not
//! keep up, bounded for all tunnels together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::metrics;

/// Maximum of spilled bytes per direction. A receive buffer usually lets through a fraction of its
/// size; this bounds the cost of one stopped reader.
pub(super) const MAX_BYTES: usize = 16 << 20;

/// Maximum of spilled bytes of all directions, in multiples of the backlog of one direction.
const BACKLOGS: usize = 4;

/// Budget of spilled bytes for all tunnels.
#[derive(Debug, Default)]
pub(super) struct SpillBudget {
    spilled: AtomicUsize,
}

impl SpillBudget {
    /// Grants `bytes` more to a direction that has spilled `held`, unless it would then hold more
    /// than remains for all others: any number of directions leaves something for one more.
    /// `backlog` is the limit of one direction.
    fn reserve(&self, bytes: usize, held: usize, backlog: u64) -> bool {
        let backlog = usize::try_from(backlog).unwrap_or(usize::MAX).max(MAX_BYTES);
        let most = backlog.saturating_mul(BACKLOGS);
        let grant = |spilled: usize| {
            let left = most.checked_sub(spilled + bytes)?;
            (held + bytes <= left.min(MAX_BYTES)).then_some(spilled + bytes)
        };
        let granted = self.spilled.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grant).is_ok();
        if granted {
            metrics::SOCKMAP_SPILLED_BYTES.gauge(&[]).increment(bytes as f64);
        }
        granted
    }

    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.spilled.fetch_sub(bytes, Ordering::Relaxed);
            metrics::SOCKMAP_SPILLED_BYTES.gauge(&[]).decrement(bytes as f64);
        }
    }

    #[cfg(test)]
    pub(super) fn spilled(&self) -> usize {
        self.spilled.load(Ordering::Relaxed)
    }
}

/// Bytes taken out of a source's receive buffer and not passed on yet, in pieces as taken.
#[derive(Debug, Default)]
pub(super) struct Spill {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece already passed on.
    given: usize,
    len: usize,
    /// Bytes granted by the budget: every piece in full, including the passed-on part of the first.
    reserved: usize,
    budget: Arc<SpillBudget>,
}

impl Spill {
    pub(super) const fn within(budget: Arc<SpillBudget>) -> Self {
        Self { pieces: VecDeque::new(), given: 0, len: 0, reserved: 0, budget }
    }

    /// Reserves memory for a piece, to be filled by [`Spill::keep`] or returned by
    /// [`Spill::release`]; false if the budget is used up.
    pub(super) fn reserve(&mut self, bytes: usize, backlog: u64) -> bool {
        let granted = self.budget.reserve(bytes, self.reserved, backlog);
        self.reserved += if granted { bytes } else { 0 };
        granted
    }

    /// Returns unused reserved memory.
    pub(super) fn release(&mut self, bytes: usize) {
        self.reserved -= bytes;
        self.budget.give_back(bytes);
    }

    /// Appends a piece.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.len += bytes.len();
        self.pieces.push_back(bytes.to_vec());
    }

    /// Next bytes to pass on, in one piece; empty if nothing is spilled.
    pub(super) fn next(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| &piece[self.given..])
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Drops bytes already passed on, at most the length of [`Spill::next`]. The memory of a piece
    /// is freed with its last byte.
    pub(super) fn give_up(&mut self, bytes: usize) {
        self.len -= bytes;
        self.given += bytes;
        if self.pieces.front().is_some_and(|piece| piece.len() == self.given) {
            self.given = 0;
            let piece = self.pieces.pop_front().map_or(0, |piece| piece.len());
            self.release(piece);
        }
        if self.pieces.is_empty() {
            self.pieces = VecDeque::new();
        }
    }
}

impl Drop for Spill {
    fn drop(&mut self) {
        self.release(self.reserved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 64 << 10;

    /// Spills as much as granted, a piece at a time.
    fn fill(spill: &mut Spill) {
        while spill.reserve(PIECE, 0) {
            spill.keep(&[7; PIECE]);
        }
    }

    #[test]
    fn all_together_spill_no_more_than_their_bound_and_one_more_gets_something() {
        let budget = Arc::<SpillBudget>::default();
        let mut spills = Vec::new();
        for number in 1..=100 {
            let mut spill = Spill::within(budget.clone());
            fill(&mut spill);
            assert!(spill.len() > 0 && spill.len() <= MAX_BYTES, "{number}: {}", spill.len());
            assert_eq!(budget.spilled(), spills.iter().map(Spill::len).sum::<usize>() + spill.len());
            assert!(budget.spilled() <= BACKLOGS * MAX_BYTES);
            spills.push(spill);
            if spills.last().is_some_and(|spill| spill.len() == PIECE) {
                break;
            }
        }
        assert!(spills.len() > 6, "{}", spills.len());
        let last = spills.pop().map_or(0, |spill| spill.len());
        assert_eq!(budget.spilled(), spills.iter().map(Spill::len).sum::<usize>(), "{last} went");
        drop(spills);
        assert_eq!(budget.spilled(), 0);
    }

    /// A slow reader with a fast sender always leaves something spilled.
    #[test]
    fn what_was_given_on_takes_no_memory_where_more_is_spilled() {
        let mut spill = Spill::default();
        for _ in 0..1_000 {
            assert!(spill.reserve(PIECE, 0));
            spill.keep(&[7; PIECE]);
            let mut left = PIECE - 1;
            while left > 0 {
                let given = spill.next().len().min(left);
                spill.give_up(given);
                left -= given;
            }
        }
        assert_eq!(spill.len(), 1_000);
        assert!(spill.budget.spilled() <= 2 * PIECE, "{}", spill.budget.spilled());
        spill.give_up(spill.next().len());
        spill.give_up(spill.next().len());
        assert_eq!((spill.len(), spill.budget.spilled(), spill.pieces.capacity()), (0, 0, 0));
    }

    #[test]
    fn what_was_reserved_for_nothing_is_given_back() {
        let mut spill = Spill::default();
        assert!(spill.reserve(100, 0));
        spill.release(40);
        spill.keep(&[1; 60]);
        assert_eq!(spill.budget.spilled(), 60);
        spill.give_up(60);
        assert_eq!(spill.budget.spilled(), 0);
    }
}
