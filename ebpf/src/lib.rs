//! Interface between the kernel program of the engine `sockmap` and the gateway: names and layout
//! of the BPF maps, and the verdict on each segment, a plain function with unit tests.
//!
//! A direction of a tunnel goes from a source socket to a destination socket, both of the gateway.
//! The program runs for each received segment of a source, under the lock of the source socket:
//! never twice at a time for one direction.
#![cfg_attr(target_arch = "bpf", no_std)]

/// Array map of the state of each direction ([`Direction`]) by slot, mapped into the memory of
/// userspace. A socket has one slot, for the direction it is the source of. The two slots of a
/// tunnel differ in the lowest bit.
pub const DIRECTIONS: &str = "DIRECTIONS";
/// Hash map from the cookie of a source (`SO_COOKIE`, socket(7); never reused) to its cookie again,
/// the cookie of its destination, and its slot.
pub const SLOTS: &str = "SLOTS";
/// Sockhash of the destinations, by cookie: a segment reaches the intended socket or none, even
/// after its slot is reused. No program is attached to this map.
pub const DESTINATIONS: &str = "DESTINATIONS";
/// Sockmap of the sources, by slot. The program is attached to this map.
pub const SOURCES: &str = "SOURCES";
/// Ring buffer of the slots of directions that have just reached their limit, or have a gap.
pub const FULL: &str = "FULL";
/// The program.
pub const PROGRAM: &str = "redirect";
/// Offsets of kernel struct fields in bytes, in the order of [`FIELDS`]. The loader sets them from
/// the types of the running kernel (BTF).
pub const OFFSETS: &str = "OFFSETS";
/// Kernel fields that the program reads: the declaring struct and the field. A `tcp_sock` begins
/// with a `sock`.
pub const FIELDS: [(&str, &str); 6] = [
    ("tcp_sock", "bytes_acked"),
    ("tcp_sock", "write_seq"),
    ("sock", "sk_wmem_queued"),
    ("sock", "sk_sndbuf"),
    ("tcp_sock", "copied_seq"),
    ("sk_buff", "users"),
];

/// Value of [`Direction::redirects`] after a gap in the stream: the program drops every further
/// segment.
pub const TORN: u64 = 2;

/// The compiled program and its maps: an ELF object, to be copied to aligned memory before parsing.
#[cfg(not(target_arch = "bpf"))]
pub const OBJECT: &[u8] = include_bytes!(env!("OBJECT"));

/// State of a direction in the map, one cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// Bytes redirected. Written only by the program, like `passed` and `redirects`.
    pub redirected: u64,
    /// Bytes left to userspace.
    pub passed: u64,
    /// 1: segments are redirected. 0: segments are left to userspace. Otherwise [`TORN`].
    pub redirects: u64,
    /// Bytes of `passed` that userspace has read and written to the destination. Written only by
    /// userspace, like `limit`, `acked_before` and `owner`.
    pub relayed: u64,
    /// Maximum of bytes given to the destination and not yet acknowledged by its peer.
    pub limit: u64,
    /// Acknowledged bytes of the destination at the start, with nothing in flight and all counts at
    /// zero.
    pub acked_before: u64,
    /// Twice the cookie of the source, plus one while its segments may be redirected.
    pub owner: u64,
    /// `write_seq` of the destination with nothing in flight. Written only by the program, at the
    /// first segment, like `next`.
    pub written_before: u32,
    /// Sequence number of the next expected byte.
    pub next: u32,
}

/// Fields of a destination socket that the program reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Bytes acknowledged by the peer (`tcp_sock.bytes_acked`).
    pub acked: u64,
    /// Sequence number of the next byte written to the socket (`tcp_sock.write_seq`).
    pub written: u32,
    /// Memory used by the send buffer (`sock.sk_wmem_queued`).
    pub queued: u32,
    /// Maximum memory of the send buffer (`sock.sk_sndbuf`).
    pub buffer: u32,
}

/// Decision on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Redirect the segment to the destination.
    Redirect,
    /// Leave the segment in the receive queue of the source, for userspace.
    Pass,
    /// Like [`Verdict::Pass`], for the first segment left to userspace.
    Full,
}

/// Length in bytes from which the memory overhead of a segment is small.
const LARGE: u64 = 2048;

impl Direction {
    /// Tests if the direction still belongs to the source with this cookie: another tunnel may have
    /// taken the slot.
    #[inline(always)]
    pub fn is_of(&self, cookie: u64) -> bool {
        self.owner >> 1 == cookie
    }

    /// Tests if the program has judged no segment of this direction yet.
    #[inline(always)]
    pub fn is_fresh(&self) -> bool {
        self.redirected == 0 && self.passed == 0
    }

    /// Bytes at the start of a segment that were judged before, at most its `length`. `first` is
    /// the sequence number of the first byte of the segment. `None` after a gap in the stream.
    ///
    /// The kernel hands over whole segments, also after an overlapping one: a peer may cut a
    /// retransmission at other boundaries (RFC 9293, 3.8), and `tcp_read_skb` (`net/ipv4/tcp.c`)
    /// does not compare with `copied_seq` as `tcp_recvmsg` does.
    #[inline(always)]
    pub fn repeated(&self, first: u32, length: u32) -> Option<u32> {
        let old = self.next.wrapping_sub(first);
        // Sequence numbers wrap: compare them within half of the number space (RFC 9293, 3.4).
        if old > u32::MAX / 2 || self.redirects == TORN { None } else { Some(old.min(length)) }
    }

    /// Judges a segment of `length` bytes and counts it.
    ///
    /// A segment beyond the limit passes to userspace, so that the limit is exact. A segment passes
    /// as well if the send buffer of the destination has no room for it beside the bytes still on
    /// their way there. Otherwise the segment would wait in the kernel's queue before that buffer,
    /// and segments left to userspace by the destination would wait behind it (`net/core/skmsg.c`,
    /// `sk_psock_backlog`): two sides that wait for each other to read would deadlock. An empty
    /// destination takes any segment: otherwise a segment larger than its buffer would never go.
    ///
    /// After the first passed segment every segment passes, in order, until userspace has relayed
    /// all of them and half of the limit and of the buffer is free. Only the program adds to the
    /// passed bytes, so at this point the next segment cannot overtake any byte.
    #[inline(always)]
    pub fn judge(&mut self, length: u32, destination: Destination) -> Verdict {
        let length = length as u64;
        let given = self.redirected.wrapping_add(self.relayed);
        if self.is_fresh() {
            self.written_before = destination.written;
        }
        self.next = self.next.wrapping_add(length as u32);
        let under_way = given.wrapping_sub(destination.acked.wrapping_sub(self.acked_before));
        // Sequence numbers have 32 bits, far more than the bytes in flight.
        let taken = destination.written.wrapping_sub(self.written_before);
        let on_the_way = (given as u32).wrapping_sub(taken) as u64;
        // Overhead of a send buffer: a few percent for a page of data or more; for small writes
        // twice the payload, since a segment holds 17 fragments at most (`MAX_SKB_FRAGS`).
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

    /// Destination with an empty queue and room for any segment, with `acked` bytes acknowledged.
    fn roomy(acked: u64, given: u64) -> Destination {
        Destination { acked, written: 7_u32.wrapping_add(given as u32), queued: 0, buffer: 1 << 30 }
    }

    /// Judges a segment for a `roomy` destination.
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
        // Large segments have less overhead.
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
        // All bytes are acknowledged, but userspace has not relayed every passed byte.
        full.relayed = 1;
        assert_eq!(judge(&mut full, 10, 1_100), Verdict::Pass);
        full.relayed = 10;
        assert_eq!(judge(&mut full, 10, 1_100), Verdict::Pass);
        // Every passed byte is relayed but not acknowledged: userspace is notified again.
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
        // Passed bytes count as well.
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
