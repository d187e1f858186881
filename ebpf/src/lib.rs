//! What the kernel program of the engine `sockmap` shares with the gateway: the names and the layout of its maps,
//! and the judgement over each segment, which is a plain function and is tested as such.
//!
//! A direction of a tunnel goes from its source to its destination, two sockets of the gateway. The program runs for
//! each segment that a source has received, with that socket locked, so that nobody else runs it for the same
//! direction at the same time.
#![cfg_attr(target_arch = "bpf", no_std)]

/// The map with the state of each direction ([`Direction`]), an array that userspace maps into its memory, by slot.
/// A socket has one slot, which is that of the direction that it is the source of; the two of a tunnel differ in the
/// lowest bit.
pub const DIRECTIONS: &str = "DIRECTIONS";
/// The map of what the program needs of a source, by its cookie (`SO_COOKIE`, socket(7)), which no other socket ever
/// has: that cookie again, the cookie of the destination, and the slot of the source.
pub const SLOTS: &str = "SLOTS";
/// The map of sockets to redirect to, by their cookies, so that a segment can reach no other socket than the one that
/// was meant, whatever becomes of slots meanwhile. No program is attached to it.
pub const DESTINATIONS: &str = "DESTINATIONS";
/// The map of sockets whose segments the program judges, by their slots.
pub const SOURCES: &str = "SOURCES";
/// The ring buffer with the slots of directions that have just become full.
pub const FULL: &str = "FULL";
/// The program.
pub const PROGRAM: &str = "redirect";
/// Where the program finds what it reads of the kernel's, in bytes from the beginning of the struct, in the order of
/// [`FIELDS`]: set by whoever loads it, from the types of the running kernel (BTF).
pub const OFFSETS: &str = "OFFSETS";
/// Those fields: the struct that each is declared in, and its name. A `tcp_sock` begins with a `sock`.
pub const FIELDS: [(&str, &str); 6] = [
    ("tcp_sock", "bytes_acked"),
    ("tcp_sock", "write_seq"),
    ("sock", "sk_wmem_queued"),
    ("sock", "sk_sndbuf"),
    ("tcp_sock", "copied_seq"),
    ("sk_buff", "users"),
];

/// [`Direction::redirects`] of one of which a part was not to be had: nothing goes on any more.
pub const TORN: u64 = 2;

/// The compiled program and its maps: an ELF object, which has to be copied to where it is aligned before it is read.
#[cfg(not(target_arch = "bpf"))]
pub const OBJECT: &[u8] = include_bytes!(env!("OBJECT"));

/// The state of a direction, as it lies in the map: a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes redirected. The program alone writes it, as the next two.
    pub redirected: u64,
    /// Bytes left to userspace.
    pub passed: u64,
    /// Segments are redirected if it is 1, and left to userspace if it is 0; or [`TORN`].
    pub redirects: u64,
    /// Bytes of `passed` that userspace has read and given to the destination. Userspace alone writes it, as what
    /// follows.
    pub relayed: u64,
    /// Bytes that may be given to the destination and not be acknowledged by its peer, at most.
    pub limit: u64,
    /// What the destination's peer had acknowledged when nothing was under way and all counts were zero.
    pub acked_before: u64,
    /// Twice the cookie of the source, and one more while its segments may be redirected.
    pub owner: u64,
    /// `write_seq` of the destination when nothing was under way; the program alone writes it, with the first segment,
    /// as it does the next.
    pub written_before: u32,
    /// The sequence number of the byte that comes next.
    pub next: u32,
}

/// What the program reads of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Bytes that its peer has acknowledged (`tcp_sock.bytes_acked`).
    pub acked: u64,
    /// The sequence number of what is written to it next (`tcp_sock.write_seq`).
    pub written: u32,
    /// Memory that its send buffer takes (`sock.sk_wmem_queued`).
    pub queued: u32,
    /// Memory that it may take (`sock.sk_sndbuf`).
    pub buffer: u32,
}

/// What becomes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the destination.
    Redirect,
    /// It stays with the source for userspace to read.
    Pass,
    /// The same, and it is the first of what stays.
    Full,
}

/// A segment of so many bytes spends little memory on anything else.
const LARGE: u64 = 2048;

impl Direction {
    /// The direction is that of the source with this cookie, and not of another tunnel that has the slot by now.
    #[inline(always)]
    pub fn is_of(&self, cookie: u64) -> bool {
        self.owner >> 1 == cookie
    }

    /// No segment has been judged yet.
    #[inline(always)]
    pub fn is_fresh(&self) -> bool {
        self.redirected == 0 && self.passed == 0
    }

    /// How many bytes that a segment begins with have been judged already, at most all of its `length`; `first` is the
    /// sequence number of its first byte. `None` if a part of the stream is missing before it, or was before.
    ///
    /// The kernel hands the program whole segments, also where it had a part of one already: a peer that sends again
    /// what was not acknowledged may cut it elsewhere than before (RFC 9293, 3.8; `net/ipv4/tcp.c`, `tcp_read_skb`,
    /// which does not compare with `copied_seq` as `tcp_recvmsg` does).
    #[inline(always)]
    pub fn repeated(&self, first: u32, length: u32) -> Option<u32> {
        let old = self.next.wrapping_sub(first);
        // Sequence numbers wrap, and are compared within half of all (RFC 9293, 3.4).
        if old > u32::MAX / 2 || self.redirects == TORN { None } else { Some(old.min(length)) }
    }

    /// Judges a segment of `length` bytes, and counts it.
    ///
    /// One that would go beyond the limit stays, so that the limit holds exactly; so does one for which the send buffer
    /// of the destination has no room beside what is still on its way there. In the kernel's queue before that buffer
    /// would also stand what the destination itself leaves to userspace (`net/core/skmsg.c`, `sk_psock_backlog`): two
    /// sides that both wait for the other to read would never go on. A destination that holds nothing takes any
    /// segment: one that is too large would never go.
    ///
    /// From then on every segment stays, in its order, until userspace has passed on all that stayed and half of the
    /// limit and of the buffer is free: as nobody but the program adds to what stays, nothing is left then that the
    /// next segment could overtake.
    #[inline(always)]
    pub fn judge(&mut self, length: u32, destination: Destination) -> Verdict {
        let length = length as u64;
        let given = self.redirected.wrapping_add(self.relayed);
        if self.is_fresh() {
            self.written_before = destination.written;
        }
        self.next = self.next.wrapping_add(length as u32);
        let under_way = given.wrapping_sub(destination.acked.wrapping_sub(self.acked_before));
        // Sequence numbers are of 32 bits, and far more than ever is on its way.
        let taken = destination.written.wrapping_sub(self.written_before);
        let on_the_way = (given as u32).wrapping_sub(taken) as u64;
        // What a send buffer spends on a page of data or more is a few hundredths; on a few bytes it is twice as much
        // as those, since each of its segments takes seventeen pieces at most (`MAX_SKB_FRAGS`).
        let comes = on_the_way + length;
        let spent = if length < LARGE { comes * 2 } else { comes / 4 };
        let memory = destination.queued as u64 + comes + spent;
        let (limit, buffer) = (self.limit, destination.buffer as u64);
        let (limit, buffer) = if self.redirects == 0 { (limit / 2, buffer / 2) } else { (limit, buffer) };
        let fits = under_way == 0 || under_way.wrapping_add(length) <= limit && memory <= buffer;
        let nothing_left = self.relayed == self.passed;
        if fits && self.owner & 1 != 0 && (self.redirects != 0 || nothing_left) {
            self.redirects = 1;
            self.redirected += length;
            return Verdict::Redirect;
        }
        self.redirects = 0;
        self.passed += length;
        if nothing_left { Verdict::Full } else { Verdict::Pass }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::offset_of;

    fn direction(limit: u64) -> Direction {
        Direction { limit, acked_before: 1_000, owner: 7 << 1 | 1, ..Direction::default() }
    }

    /// One with room for anything that has acknowledged so much, which nothing waits for.
    fn roomy(acked: u64, given: u64) -> Destination {
        Destination { acked, written: 7_u32.wrapping_add(given as u32), queued: 0, buffer: 1 << 30 }
    }

    /// Judges a segment for such a destination.
    fn judge(direction: &mut Direction, length: u32, acked: u64) -> Verdict {
        let given = direction.redirected + direction.relayed;
        direction.judge(length, roomy(acked, given))
    }

    #[test]
    fn what_is_under_way_never_exceeds_the_limit() {
        let mut full = direction(100);
        assert_eq!(judge(&mut full, 60, 1_000), Verdict::Redirect);
        assert_eq!(judge(&mut full, 40, 1_000), Verdict::Redirect);
        assert_eq!((full.redirected, full.passed), (100, 0));
        assert_eq!(judge(&mut full, 1, 1_000), Verdict::Full);
        assert_eq!((full.redirected, full.passed, full.redirects), (100, 1, 0));
        let mut drained = direction(100);
        assert_eq!(judge(&mut drained, 100, 1_000), Verdict::Redirect);
        assert_eq!(judge(&mut drained, 60, 1_060), Verdict::Redirect);
        assert_eq!(judge(&mut drained, 41, 1_060), Verdict::Full);
    }

    #[test]
    fn nothing_waits_before_a_send_buffer_that_is_full() {
        let mut full = direction(1 << 20);
        let to = |written, queued| Destination { acked: 1_001, written, queued, buffer: 1_000 };
        // Sequence numbers wrap.
        let start = u32::MAX - 50;
        assert_eq!(full.judge(100, to(start, 0)), Verdict::Redirect);
        assert_eq!(full.judge(233, to(start, 0)), Verdict::Redirect, "100 on its way and 233 take 999");
        assert_eq!(full.judge(1, to(start, 0)), Verdict::Full);
        let mut moved_on = direction(1 << 20);
        assert_eq!(moved_on.judge(100, to(start, 0)), Verdict::Redirect);
        assert_eq!(moved_on.judge(200, to(start.wrapping_add(100), 400)), Verdict::Redirect);
        assert_eq!(moved_on.judge(1, to(start.wrapping_add(300), 998)), Verdict::Full);
        moved_on.relayed = 1;
        assert_eq!(moved_on.judge(50, to(start.wrapping_add(301), 351)), Verdict::Full, "more than half of the buffer");
        moved_on.relayed = 51;
        assert_eq!(moved_on.judge(50, to(start.wrapping_add(351), 350)), Verdict::Redirect);
        // Large segments spend less.
        let mut large = direction(1 << 20);
        let to = |written| Destination { acked: 1_001, written, queued: 0, buffer: 100_000 };
        assert_eq!(large.judge(40_000, to(start)), Verdict::Redirect);
        assert_eq!(large.judge(40_000, to(start)), Verdict::Redirect);
        assert_eq!(large.judge(2_048, to(start)), Verdict::Full);
    }

    #[test]
    fn nothing_overtakes_what_stayed_and_redirecting_begins_anew_when_there_is_room() {
        let mut full = direction(100);
        assert_eq!(judge(&mut full, 100, 1_000), Verdict::Redirect);
        assert_eq!(judge(&mut full, 10, 1_000), Verdict::Full);
        // All is acknowledged, but something stayed that has not been passed on.
        full.relayed = 1;
        assert_eq!(judge(&mut full, 10, 1_100), Verdict::Pass);
        full.relayed = 10;
        assert_eq!(judge(&mut full, 10, 1_100), Verdict::Pass);
        // All that stayed is passed on, and not acknowledged yet: userspace is told anew.
        full.relayed = 30;
        assert_eq!(judge(&mut full, 30, 1_100), Verdict::Full);
        full.relayed = 60;
        assert_eq!(judge(&mut full, 20, 1_130), Verdict::Redirect);
        assert_eq!((full.redirected, full.passed, full.redirects), (120, 60, 1));
        assert_eq!(judge(&mut full, 50, 1_130), Verdict::Redirect);
        assert_eq!(judge(&mut full, 1, 1_130), Verdict::Full);
    }

    #[test]
    fn a_segment_larger_than_the_limit_goes_when_nothing_is_under_way() {
        let mut large = direction(10);
        assert_eq!(judge(&mut large, 65_536, 1_000), Verdict::Redirect);
        assert_eq!(judge(&mut large, 1, 1_000 + 65_530), Verdict::Redirect);
        assert_eq!(judge(&mut large, 10, 1_000 + 65_530), Verdict::Full);
    }

    #[test]
    fn a_direction_that_is_not_engaged_counts_what_it_leaves() {
        let mut off = Direction { owner: 7 << 1, ..direction(100) };
        assert!(off.is_of(7) && direction(100).is_of(7) && !off.is_of(3) && !off.is_of(14));
        assert_eq!([judge(&mut off, 3, 1_000), judge(&mut off, 4, 1_000)], [Verdict::Full, Verdict::Pass]);
        assert_eq!((off.redirected, off.passed), (0, 7));
        (off.owner, off.relayed) = (7 << 1 | 1, 7);
        assert_eq!(judge(&mut off, 5, 1_007), Verdict::Redirect);
        off.owner = 7 << 1;
        assert_eq!(judge(&mut off, 6, 1_012), Verdict::Full, "at once");
        assert_eq!((off.redirected, off.passed), (5, 13));
    }

    #[test]
    fn what_was_judged_is_not_judged_again() {
        let start = u32::MAX - 50;
        let mut direction = Direction { next: start, ..direction(10_000) };
        assert!(direction.is_fresh());
        assert_eq!(direction.repeated(start, 100), Some(0));
        judge(&mut direction, 100, 1_000);
        assert!(!direction.is_fresh());
        assert_eq!(direction.repeated(start.wrapping_add(100), 10), Some(0));
        assert_eq!(direction.repeated(start.wrapping_add(99), 10), Some(1));
        assert_eq!(direction.repeated(start, 101), Some(100));
        assert_eq!(direction.repeated(start.wrapping_sub(7), 40), Some(40), "nothing new");
        assert_eq!(direction.repeated(start.wrapping_add(101), 10), None, "a byte is missing");
        // Those that stay count as well.
        let stays = Direction { owner: 7 << 1, ..direction };
        let mut stays = Direction { redirects: 0, ..stays };
        assert_eq!(judge(&mut stays, 50, 1_000), Verdict::Full);
        assert_eq!(stays.repeated(start.wrapping_add(149), 10), Some(1));
        let torn = Direction { redirects: TORN, ..direction };
        assert_eq!(torn.repeated(start.wrapping_add(100), 10), None);
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
            offset_of!(Direction, owner),
            offset_of!(Direction, written_before),
            offset_of!(Direction, next),
        ];
        assert_eq!(offsets, [0, 8, 16, 24, 32, 40, 48, 56, 60]);
    }
}
