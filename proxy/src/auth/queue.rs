//! Queue of password checks for the hashing threads, with a line for each source.
//!
//! Sources take turns; those with the fewest recent failures come first, and of these the ones with
//! a
//! single check, so that a first login never waits behind a guesser's backlog. Every fourth check
//! goes
//! by rotation alone, so that no source is locked out by others.

use std::collections::{HashMap, VecDeque};

use super::failures::BURST;
use crate::source::Source;

/// Most waiting checks of one source.
pub(super) const WAITING_PER_SOURCE: usize = 64;
/// Most waiting checks of a source after [`BURST`] failures.
pub(super) const WAITING_PER_FAILING_SOURCE: usize = 8;
/// Most waiting checks of all sources.
pub(super) const WAITING: usize = 1024;
/// One check in so many is taken by rotation, whatever its source's failures.
const ROTATION: u64 = 4;

/// The lines of all sources; one without a check is not kept.
#[derive(Debug)]
pub(super) struct Queue<T> {
    lines: HashMap<Source, VecDeque<(u64, T)>>,
    /// Every source with a line once, the one served longest ago first.
    rotation: VecDeque<Source>,
    waiting: usize,
    pushed: u64,
    popped: u64,
}

/// A check without room, and the limit exceeded.
#[derive(Debug)]
pub(super) struct Full<T> {
    pub(super) check: T,
    pub(super) limit: String,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), rotation: VecDeque::new(), waiting: 0, pushed: 0, popped: 0 }
    }
}

impl<T> Queue<T> {
    /// Appends a check to the line of its source; returns the number to remove it by, and the
    /// newest check of the longest line if it had to make room.
    ///
    /// # Errors
    /// [`Full`] when the source's line, or every line, is full.
    pub(super) fn push(
        &mut self,
        source: Source,
        check: T,
        failures: impl Fn(Source) -> u32,
    ) -> Result<(u64, Option<T>), Full<T>> {
        let (own, failed) = (self.length(source), failures(source));
        if own >= WAITING_PER_SOURCE {
            let limit = format!("{WAITING_PER_SOURCE} unverified credentials of this source are already waiting");
            return Err(Full { check, limit });
        }
        if failed >= BURST && own >= WAITING_PER_FAILING_SOURCE {
            let limit = format!(
                "{WAITING_PER_FAILING_SOURCE} unverified credentials of this source are already waiting, the limit after \
                 {BURST} failures"
            );
            return Err(Full { check, limit });
        }
        let mut displaced = None;
        if self.waiting >= WAITING {
            let load = |source: Source| (self.length(source), failures(source));
            let fullest = self.rotation.iter().copied().max_by_key(|source| load(*source));
            match fullest.filter(|fullest| load(*fullest) > (own + 1, failed)) {
                Some(fullest) => displaced = self.remove_newest(fullest),
                None => {
                    let limit = format!("{WAITING} unverified credentials are already waiting");
                    return Err(Full { check, limit });
                }
            }
        }
        if own == 0 {
            self.rotation.push_back(source);
        }
        self.pushed += 1;
        self.waiting += 1;
        self.lines.entry(source).or_default().push_back((self.pushed, check));
        Ok((self.pushed, displaced))
    }

    /// Takes the next check.
    pub(super) fn pop(&mut self, failures: impl Fn(Source) -> u32) -> Option<(Source, T)> {
        let by_rotation = self.popped % ROTATION == ROTATION - 1;
        let place = match by_rotation {
            true => 0,
            false => {
                let load = |source: Source| (failures(source), self.length(source) > 1);
                self.rotation.iter().enumerate().min_by_key(|(_, source)| load(**source))?.0
            }
        };
        let source = self.rotation.remove(place)?;
        let line = self.lines.get_mut(&source)?;
        let (_, check) = line.pop_front()?;
        if line.is_empty() {
            self.lines.remove(&source);
        } else {
            self.rotation.push_back(source);
        }
        self.popped += 1;
        self.waiting -= 1;
        Some((source, check))
    }

    /// Takes a check out of its line, if it waits still.
    pub(super) fn remove(&mut self, source: Source, number: u64) -> Option<T> {
        let place = self.lines.get(&source)?.iter().position(|(own, _)| *own == number)?;
        self.remove_at(source, place)
    }

    /// Returns the number of waiting checks.
    pub(super) const fn len(&self) -> usize {
        self.waiting
    }

    fn length(&self, source: Source) -> usize {
        self.lines.get(&source).map_or(0, VecDeque::len)
    }

    fn remove_newest(&mut self, source: Source) -> Option<T> {
        self.remove_at(source, self.length(source).checked_sub(1)?)
    }

    fn remove_at(&mut self, source: Source, place: usize) -> Option<T> {
        let line = self.lines.get_mut(&source)?;
        let (_, check) = line.remove(place)?;
        if line.is_empty() {
            self.lines.remove(&source);
            self.rotation.retain(|other| *other != source);
        }
        self.waiting -= 1;
        Some(check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn source(number: u32) -> Source {
        IpAddr::from(number.to_be_bytes()).into()
    }

    fn push(queue: &mut Queue<u32>, from: u32, check: u32) -> u64 {
        queue.push(source(from), check, |_| 0).expect("room").0
    }

    fn drain(queue: &mut Queue<u32>, failures: impl Fn(Source) -> u32) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(&failures)).map(|(_, check)| check).collect()
    }

    #[test]
    fn sources_take_turns_and_each_line_keeps_its_order() {
        let mut queue = Queue::default();
        for check in 0..5 {
            (1..=3).for_each(|from| assert!(push(&mut queue, from, 10 * from + check) > 0));
        }
        // The last of a line has none of its own source behind it.
        let expected = [10, 20, 30, 11, 21, 31, 12, 22, 32, 13, 14, 23, 24, 33, 34];
        assert_eq!(drain(&mut queue, |_| 0), expected);
        assert!(queue.len() == 0 && queue.lines.is_empty() && queue.rotation.is_empty());
    }

    #[test]
    fn a_first_check_is_next_whatever_the_backlog_of_others() {
        let mut queue = Queue::default();
        for check in 0..16 * 60 {
            push(&mut queue, check % 16, check);
        }
        push(&mut queue, 100, 9_999);
        assert_eq!(queue.pop(|_| 0).unwrap().1, 9_999);
    }

    #[test]
    fn failures_put_a_source_behind_others_but_for_one_check_in_four() {
        let mut queue = Queue::default();
        for (from, check) in (10..13).map(|check| (1, check)).chain((20..29).map(|check| (2, check))) {
            push(&mut queue, from, check);
        }
        let failures = |of: Source| if of == source(1) { BURST } else { 0 };
        assert_eq!(drain(&mut queue, failures), [20, 21, 22, 10, 23, 24, 25, 11, 26, 27, 28, 12]);
    }

    #[test]
    fn a_removed_check_leaves_nothing_behind() {
        let mut queue = Queue::default();
        let [first, second] = [10, 11].map(|check| push(&mut queue, 1, check));
        let other = push(&mut queue, 2, 20);
        assert_eq!(queue.remove(source(1), first), Some(10));
        assert_eq!((queue.remove(source(1), first), queue.remove(source(3), 1)), (None, None));
        assert_eq!(queue.remove(source(2), other), Some(20));
        assert_eq!(drain(&mut queue, |_| 0), [11]);
        assert_eq!(queue.remove(source(1), second), None);
        assert!(queue.len() == 0 && queue.lines.is_empty() && queue.rotation.is_empty());
    }

    #[test]
    fn a_line_is_bounded_and_shorter_for_a_source_that_fails() {
        let mut queue = Queue::default();
        for check in 0..WAITING_PER_SOURCE as u32 {
            push(&mut queue, 1, check);
        }
        let full = queue.push(source(1), 99, |_| 0).unwrap_err();
        assert_eq!(full.limit, "64 unverified credentials of this source are already waiting");
        for check in 0..WAITING_PER_FAILING_SOURCE as u32 {
            queue.push(source(2), check, |_| BURST).unwrap();
        }
        let full = queue.push(source(2), 99, |_| BURST).unwrap_err();
        let limit = "8 unverified credentials of this source are already waiting, the limit after 16 failures";
        assert_eq!((full.check, full.limit.as_str()), (99, limit));
        assert!(queue.push(source(2), 99, |_| BURST - 1).is_ok());
    }

    #[test]
    fn a_newcomer_displaces_the_newest_of_the_longest_line() {
        let mut queue = Queue::default();
        let lines = (WAITING / WAITING_PER_SOURCE) as u32;
        for check in 0..WAITING as u32 {
            push(&mut queue, check % lines, check);
        }
        let (_, displaced) = queue.push(source(1_000), 1, |_| 0).unwrap();
        let displaced = displaced.expect("all places are taken");
        assert!(displaced >= WAITING as u32 - lines, "{displaced} is not among the newest");
        assert_eq!(queue.len(), WAITING);
    }

    #[test]
    fn among_lines_of_one_check_the_source_that_failed_makes_room() {
        let mut queue = Queue::default();
        for number in 0..WAITING as u32 {
            push(&mut queue, number, number);
        }
        let full = queue.push(source(5_000), 1, |_| 0).unwrap_err();
        assert_eq!(full.limit, "1024 unverified credentials are already waiting");
        let failures = |of: Source| u32::from(of == source(7));
        assert_eq!(queue.push(source(5_000), 1, failures).unwrap().1, Some(7));
    }
}
