//! The program that redirects between the two sockets of a tunnel, in the kernel.
//!
//! It runs for each segment that a socket in [`SOURCES`] has received (`BPF_SK_SKB_STREAM_VERDICT`, `net/core/skmsg.c`,
//! `sk_psock_verdict_recv`).
#![no_std]
#![no_main]

use core::ffi::c_void;

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::helpers::{
    bpf_get_socket_cookie, bpf_map_lookup_elem, bpf_probe_read_kernel, bpf_sk_release, bpf_skb_adjust_room,
    bpf_skc_to_tcp_sock,
};
use aya_ebpf::macros::{map, stream_verdict};
use aya_ebpf::maps::{Array, HashMap, RingBuf, SockHash, SockMap};
use aya_ebpf::programs::SkBuffContext;
use aya_ebpf::{EbpfContext as _, Global};
use sluicegate_ebpf::{Destination, Direction, FIELDS, TORN, Verdict};

/// `BPF_F_MMAPABLE` (bpf(2)): userspace reads and writes it without a call.
const MAPPED: u32 = 1 << 10;

#[map]
static DIRECTIONS: Array<Direction> = Array::with_max_entries(1, MAPPED);
#[map]
static SLOTS: HashMap<u64, [u64; 3]> = HashMap::with_max_entries(1, 0);
#[map]
static DESTINATIONS: SockHash<u64> = SockHash::with_max_entries(1, 0);
#[map]
static SOURCES: SockMap = SockMap::with_max_entries(1, 0);
#[map]
static FULL: RingBuf = RingBuf::with_byte_size(1 << 16, 0);

#[unsafe(no_mangle)]
static OFFSETS: Global<[u32; FIELDS.len()]> = Global::new([0; FIELDS.len()]);

#[stream_verdict]
fn redirect(context: SkBuffContext) -> u32 {
    // A bare FIN: redirected it would be an error of the destination. The gateway passes it on.
    if context.len() == 0 {
        return SK_DROP;
    }
    // SAFETY: the context is the one that the kernel called this with, as the verifier checks.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // SAFETY: entries of a map are never unmapped while the program runs.
    let Some(entry) = (unsafe { SLOTS.get(cookie) }) else { return SK_PASS };
    let Some((mut destination, slot)) = of_source(entry, cookie) else { return SK_PASS };
    let Some(direction) = DIRECTIONS.get_ptr_mut(slot) else { return SK_PASS };
    // SAFETY: entries of an array are never freed and are aligned to 8 bytes; the program runs for one segment of a
    // source at a time, under its lock, and userspace writes fields of its own alone, each in one store.
    let direction = unsafe { &mut *direction };
    // The slot of a tunnel that has ended on another core since may be another's already.
    if !direction.is_of(cookie) {
        return SK_PASS;
    }
    if trim(&context, direction).is_none() {
        direction.redirects = TORN;
        let _ = FULL.output::<u32>(slot, 0);
        return SK_DROP;
    }
    let length = context.len();
    // What came again with a FIN.
    if length == 0 {
        return SK_DROP;
    }
    // A destination that is gone was reset, and its source is about to be: nothing can be given to it, or is counted.
    let Some(found) = look_at(&destination) else { return SK_DROP };
    match direction.judge(length, found) {
        Verdict::Redirect => DESTINATIONS.redirect_skb(&context, &mut destination, 0) as u32,
        Verdict::Pass => SK_PASS,
        Verdict::Full => {
            let _ = FULL.output::<u32>(slot, 0);
            SK_PASS
        }
    }
}

/// The cookie of the destination and the slot in an entry of [`SLOTS`], if it is that of the source with this cookie.
///
/// A preallocated entry that is taken out while it is read may be that of another socket the next moment
/// (`kernel/bpf/hashtab.c`, `htab_map_delete_elem`). Its first word is written first, and so is read last.
#[inline(always)]
fn of_source(entry: &[u64; 3], cookie: u64) -> Option<(u64, u32)> {
    let word = |place: usize| {
        // SAFETY: the place is one of the three of a value that is mapped.
        unsafe { (&raw const entry[place]).read_volatile() }
    };
    let (slot, destination) = (word(2), word(1));
    if word(0) == cookie { Some((destination, slot as u32)) } else { None }
}

/// Takes off a segment what was judged already; `None` if that cannot be, or a part of the stream is missing.
#[inline(always)]
fn trim(context: &SkBuffContext, direction: &mut Direction) -> Option<()> {
    let segment = context.skb.skb;
    if direction.is_fresh() {
        // SAFETY: the context is the kernel's.
        let source = unsafe { (*segment).__bindgen_anon_2.sk };
        let [.., copied, _] = OFFSETS.load();
        // What userspace read before; nothing that was left to it since.
        direction.next = read(tcp_of(source.cast())?, copied)?;
    }
    // SAFETY: the context is the kernel's. The segment's first sequence number is the first field of TCP's control block
    // (`include/net/tcp.h`, `struct tcp_skb_cb`).
    let first = unsafe { (*segment).cb[0] };
    let mut old = direction.repeated(first, context.len())?;
    if old > 0 && !is_ours_alone(segment.cast()) {
        return None;
    }
    for _ in 0..MOST_STEPS {
        if old == 0 {
            break;
        }
        let step = old.min(STEP);
        // SAFETY: the context is the kernel's, which checks the rest.
        if unsafe { bpf_skb_adjust_room(segment, -(step as i32), 0, 0) } != 0 {
            return None;
        }
        old -= step;
    }
    (old == 0).then_some(())
}

/// Whether nobody else holds a segment. Kernels before 6.4 (`net/ipv4/tcp.c`, `tcp_read_skb`) hold it themselves while
/// this runs; to take anything off it there may be the end of them (`net/core/skbuff.c`, `pskb_expand_head`).
#[inline(always)]
fn is_ours_alone(segment: *const u8) -> bool {
    let [.., users] = OFFSETS.load();
    read::<u32>(segment, users) == Some(1)
}

/// What the kernel takes off at once, in bytes (`net/core/filter.c`, `sk_skb_adjust_room`).
const STEP: u32 = 0xfff;
/// As often as the longest segment wants it (`include/linux/netdevice.h`, `GRO_MAX_SIZE`).
const MOST_STEPS: u32 = (8 * 65_535_u32).div_ceil(STEP);

/// What there is to know of the destination with this cookie; `None` if there is no such socket.
fn look_at(cookie: &u64) -> Option<Destination> {
    let map = (&raw const DESTINATIONS).cast_mut().cast();
    // SAFETY: the map is one of sockets and `cookie` a key of its type; what is found is a socket with a reference, which
    // is given back below on every way.
    let socket = unsafe { bpf_map_lookup_elem(map, (&raw const *cookie).cast()) };
    if socket.is_null() {
        return None;
    }
    let found = tcp_of(socket).and_then(read_fields);
    // SAFETY: the reference of the look-up, given back once.
    unsafe { bpf_sk_release(socket) };
    found
}

/// A socket as the kernel's `struct tcp_sock`; `None` if there is none, or it is of another kind.
#[inline(always)]
fn tcp_of(socket: *mut c_void) -> Option<*const u8> {
    if socket.is_null() {
        return None;
    }
    // SAFETY: `socket` is not null.
    let tcp = unsafe { bpf_skc_to_tcp_sock(socket) };
    if tcp.is_null() { None } else { Some(tcp.cast()) }
}

#[inline(always)]
fn read_fields(tcp: *const u8) -> Option<Destination> {
    let [acked, written, queued, buffer, ..] = OFFSETS.load();
    Some(Destination {
        acked: read(tcp, acked)?,
        written: read(tcp, written)?,
        queued: read(tcp, queued)?,
        buffer: read(tcp, buffer)?,
    })
}

/// A field of the kernel's, by its place.
#[inline(always)]
fn read<T>(structure: *const u8, place: u32) -> Option<T> {
    // SAFETY: whoever loads the program has the place from the kernel's own types, so that it is within the struct.
    let field = unsafe { structure.add(place as usize) };
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(field.cast::<T>()) }.ok()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The helpers that read the kernel's memory are for programs under its licence (`kernel/bpf/core.c`).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
