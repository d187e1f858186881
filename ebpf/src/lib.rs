//! What the kernel program of the engine `sockmap` shares with the gateway: the names and the layout of its maps,
//! and the judgement over each segment, which is a plain function and is tested as such.
//!
//! A direction of a tunnel goes from its source to its destination, two sockets of the gateway. The program runs for
//! each segment that a source has received, with that socket locked, so that nobody else runs it for the same
//! direction at the same time.
//!
//! Nothing links this crate yet: the gateway has no engine `sockmap`.
#![cfg_attr(target_arch = "bpf", no_std)]

/// The map with the state of each direction ([`Direction`]), an array that userspace maps into its memory, by slot.
/// A socket has one slot, which is that of the direction that it is the source of; the two of a tunnel differ in the
/// lowest bit.
pub const DIRECTIONS: &str = "DIRECTIONS";
/// The map of slots, by the cookies of sources.
pub const SLOTS: &str = "SLOTS";
/// The map of sockets to redirect to, by their slots. No program is attached to it.
pub const DESTINATIONS: &str = "DESTINATIONS";
/// The map of sockets whose segments the program judges, by their slots.
pub const SOURCES: &str = "SOURCES";
/// The ring buffer with the slots of directions that have just become full.
pub const FULL: &str = "FULL";
/// The program.
pub const PROGRAM: &str = "redirect";
/// Where `bytes_acked` is within the kernel's `struct tcp_sock`, in bytes: set by whoever loads the program, from the
/// types of the running kernel (BTF).
pub const BYTES_ACKED: &str = "BYTES_ACKED";

/// The state of a direction, as it lies in the map: a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes redirected. The program alone writes it, as the next two.
    pub redirected: u64,
    /// Bytes left to userspace.
    pub passed: u64,
    /// Segments are redirected if it is not zero.
    pub redirects: u64,
    /// Bytes of `passed` that userspace has read and given to the destination. Userspace alone writes it, as what
    /// follows.
    pub relayed: u64,
    /// Bytes that may be given to the destination and not be acknowledged by its peer, at most.
    pub limit: u64,
    /// What the destination's peer had acknowledged when nothing was under way and all counts were zero.
    pub acked_before: u64,
    /// Redirecting may begin if it is not zero.
    pub engaged: u64,
    _reserved: u64,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the destination.
    Redirect,
    /// It stays with the source for userspace to read.
    Pass,
    /// The same, and it is the first that does.
    Full,
}

impl Direction {
    /// Judges a segment of `length` bytes, and counts it; `acked` is what the destination's peer has acknowledged of
    /// that socket so far (`tcp_sock.bytes_acked`).
    ///
    /// One that would go beyond the limit stays, so that the limit holds exactly, but for a destination that holds
    /// nothing: a segment larger than the limit would never go. From then on every segment stays, in its order, until
    /// userspace has passed on all that stayed and half of the limit is free: as nobody but the program adds to what
    /// stays, nothing is left then that the next segment could overtake.
    #[inline(always)]
    pub fn judge(&mut self, length: u32, acked: u64) -> Verdict {
        let length = length as u64;
        let given = self.redirected.wrapping_add(self.relayed);
        let under_way = given.wrapping_sub(acked.wrapping_sub(self.acked_before));
        let room = if self.redirects == 0 { self.limit / 2 } else { self.limit };
        let fits = under_way == 0 || under_way.wrapping_add(length) <= room;
        if self.redirects == 0 && !(fits && self.engaged != 0 && self.relayed == self.passed) {
            self.passed += length;
            return Verdict::Pass;
        }
        self.redirects = fits as u64;
        if fits {
            self.redirected += length;
            Verdict::Redirect
        } else {
            self.passed += length;
            Verdict::Full
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    fn direction(limit: u64) -> Direction {
        Direction { limit, acked_before: 1_000, engaged: 1, ..Direction::default() }
    }

    #[test]
    fn what_is_under_way_never_exceeds_the_limit() {
        let mut full = direction(100);
        assert_eq!(full.judge(60, 1_000), Verdict::Redirect);
        assert_eq!(full.judge(40, 1_000), Verdict::Redirect);
        assert_eq!((full.redirected, full.passed), (100, 0));
        assert_eq!(full.judge(1, 1_000), Verdict::Full);
        assert_eq!((full.redirected, full.passed, full.redirects), (100, 1, 0));
        let mut drained = direction(100);
        assert_eq!(drained.judge(100, 1_000), Verdict::Redirect);
        assert_eq!(drained.judge(60, 1_060), Verdict::Redirect);
        assert_eq!(drained.judge(41, 1_060), Verdict::Full);
    }

    #[test]
    fn nothing_overtakes_what_stayed_and_redirecting_begins_anew_when_there_is_room() {
        let mut full = direction(100);
        assert_eq!(full.judge(100, 1_000), Verdict::Redirect);
        assert_eq!(full.judge(10, 1_000), Verdict::Full);
        // All is acknowledged, but something stayed that has not been passed on.
        assert_eq!(full.judge(10, 1_100), Verdict::Pass);
        full.relayed = 10;
        assert_eq!(full.judge(10, 1_100), Verdict::Pass);
        // All that stayed is passed on, and not acknowledged yet.
        full.relayed = 30;
        assert_eq!(full.judge(30, 1_100), Verdict::Pass);
        full.relayed = 60;
        assert_eq!(full.judge(20, 1_130), Verdict::Redirect);
        assert_eq!((full.redirected, full.passed, full.redirects), (120, 60, 1));
        assert_eq!(full.judge(50, 1_130), Verdict::Redirect);
        assert_eq!(full.judge(1, 1_130), Verdict::Full);
    }

    #[test]
    fn a_segment_larger_than_the_limit_goes_when_nothing_is_under_way() {
        let mut large = direction(10);
        assert_eq!(large.judge(65_536, 1_000), Verdict::Redirect);
        assert_eq!(large.judge(1, 1_000 + 65_530), Verdict::Redirect);
        assert_eq!(large.judge(10, 1_000 + 65_530), Verdict::Full);
    }

    #[test]
    fn a_direction_that_is_not_engaged_counts_what_it_leaves() {
        let mut off = Direction { engaged: 0, ..direction(100) };
        assert_eq!([off.judge(3, 1_000), off.judge(4, 1_000)], [Verdict::Pass; 2]);
        assert_eq!((off.redirected, off.passed), (0, 7));
    }

    #[test]
    fn the_layout_is_that_of_the_object() {
        assert_eq!((size_of::<Direction>(), align_of::<Direction>()), (64, 8));
        let offsets = [
            offset_of!(Direction, redirected),
            offset_of!(Direction, passed),
            offset_of!(Direction, redirects),
            offset_of!(Direction, relayed),
            offset_of!(Direction, limit),
            offset_of!(Direction, acked_before),
            offset_of!(Direction, engaged),
        ];
        assert_eq!(offsets, [0, 8, 16, 24, 32, 40, 48]);
    }
}
