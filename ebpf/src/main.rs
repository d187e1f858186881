//! Kernel program that redirects data between the two sockets of a tunnel.
//!
//! Runs for each received segment of a socket in [`SOURCES`] (`BPF_SK_SKB_STREAM_VERDICT`,
//! `net/core/skmsg.c`, `sk_psock_verdict_recv`).
#![no_std]
#![no_main]
#![expect(unsafe_code, reason = "BPF helpers take pointers, each checked by the kernel's verifier")]

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

/// `BPF_F_MMAPABLE` (bpf(2)): userspace reads and writes the map without system calls.
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
    // A bare FIN: redirecting it would be an error of the destination. The gateway forwards it.
    if context.len() == 0 {
        return SK_DROP;
    }
    // SAFETY: the kernel passed this context, as the verifier checks.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    // SAFETY: entries of a map are never unmapped while the program runs.
    let Some(entry) = (unsafe { SLOTS.get(cookie) }) else { return SK_PASS };
    let Some((mut destination, slot)) = of_source(entry, cookie) else { return SK_PASS };
    let Some(direction) = DIRECTIONS.get_ptr_mut(slot) else { return SK_PASS };
    // SAFETY: entries of an array are never freed and are aligned to 8 bytes. The program runs for
    // one segment of a source at a time, under its lock, and userspace writes only its own fields,
    // each in one store.
    let direction = unsafe { &mut *direction };
    // The slot of a tunnel closed meanwhile on another core may belong to another tunnel.
    if !direction.is_of(cookie) {
        return SK_PASS;
    }
    if trim(&context, direction).is_none() {
        direction.redirects = TORN;
        let _ = FULL.output::<u32>(slot, 0);
        return SK_DROP;
    }
    let length = context.len();
    // A retransmission with a FIN.
    if length == 0 {
        return SK_DROP;
    }
    // A missing destination was reset, and its source is about to be: drop the segment, count
    // nothing.
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

/// Cookie of the destination and slot in an entry of [`SLOTS`], if the entry belongs to the source
/// with this cookie.
///
/// A preallocated entry deleted during the read may belong to another socket at once
/// (`kernel/bpf/hashtab.c`, `htab_map_delete_elem`). Its first word is written first, and so is
/// read last.
#[inline(always)]
fn of_source(entry: &[u64; 3], cookie: u64) -> Option<(u64, u32)> {
    let word = |place: usize| {
        // SAFETY: the index is one of the three of a mapped value.
        unsafe { (&raw const entry[place]).read_volatile() }
    };
    let (slot, destination) = (word(2), word(1));
    if word(0) == cookie { Some((destination, slot as u32)) } else { None }
}

/// Trims the bytes judged before off a segment. `None` if trimming fails or the stream has a gap.
#[inline(always)]
fn trim(context: &SkBuffContext, direction: &mut Direction) -> Option<()> {
    let segment = context.skb.skb;
    if direction.is_fresh() {
        // SAFETY: the context is the kernel's.
        let source = unsafe { (*segment).__bindgen_anon_2.sk };
        let [.., copied, _] = OFFSETS.load();
        // Userspace read all bytes before, and nothing has been left to it since.
        direction.next = read(tcp_of(source.cast())?, copied)?;
    }
    // SAFETY: the context is the kernel's. The first field of TCP's control block is the sequence
    // number of the segment (`include/net/tcp.h`, `struct tcp_skb_cb`).
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
        // SAFETY: the context is the kernel's; the helper checks the rest.
        if unsafe { bpf_skb_adjust_room(segment, -(step as i32), 0, 0) } != 0 {
            return None;
        }
        old -= step;
    }
    (old == 0).then_some(())
}

/// Tests if a segment has no other reference. Kernels before 6.4 hold one themselves while the
/// program runs (`net/ipv4/tcp.c`, `tcp_read_skb`), and trimming may crash them
/// (`net/core/skbuff.c`, `pskb_expand_head`).
#[inline(always)]
fn is_ours_alone(segment: *const u8) -> bool {
    let [.., users] = OFFSETS.load();
    read::<u32>(segment, users) == Some(1)
}

/// Maximum of bytes trimmed by one call (`net/core/filter.c`, `sk_skb_adjust_room`).
const STEP: u32 = 0xfff;
/// Calls needed for the longest segment (`include/linux/netdevice.h`, `GRO_MAX_SIZE`).
const MOST_STEPS: u32 = (8 * 65_535_u32).div_ceil(STEP);

/// Fields of the destination with this cookie; `None` if there is no such socket.
fn look_at(cookie: &u64) -> Option<Destination> {
    let map = (&raw const DESTINATIONS).cast_mut().cast();
    // SAFETY: the map holds sockets and `cookie` is a key of its type. The look-up returns a socket
    // with a reference, released below on every path.
    let socket = unsafe { bpf_map_lookup_elem(map, (&raw const *cookie).cast()) };
    if socket.is_null() {
        return None;
    }
    let found = tcp_of(socket).and_then(read_fields);
    // SAFETY: releases the reference of the look-up, once.
    unsafe { bpf_sk_release(socket) };
    found
}

/// Casts a socket to the kernel's `struct tcp_sock`; `None` for a null pointer or another kind of
/// socket.
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

/// Reads a field of a kernel struct by its offset.
#[inline(always)]
fn read<T>(structure: *const u8, place: u32) -> Option<T> {
    // SAFETY: the loader takes the offset from the kernel's own types, so it lies within the
    // struct.
    let field = unsafe { structure.add(place as usize) };
    // SAFETY: the helper checks the address itself.
    unsafe { bpf_probe_read_kernel(field.cast::<T>()) }.ok()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Helpers that read kernel memory require a GPL-compatible program (`kernel/bpf/core.c`).
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
