//! Handmade TCP segments: the bytes of a stream, cut as no kernel would cut them.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, sendto, socket_with};

use super::deadline::eventually;

/// `th_flags` (RFC 9293, 3.1).
pub(crate) const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;

/// Sends segments in the name of the local end of a connection, through raw(7). The kernel at this
/// end has never sent those bytes, and ignores acknowledgements of them.
#[derive(Debug)]
pub(crate) struct Forger {
    raw: OwnedFd,
    from: SocketAddrV4,
    to: SocketAddrV4,
    /// Next sequence number expected by the other end, and next one sent by it.
    expected: u32,
    next: u32,
}

impl Forger {
    /// Forges for the local end of `stream`, over IPv4. The next segment to arrive sets the
    /// sequence numbers.
    pub(crate) fn of(stream: &TcpStream) -> Self {
        let raw = socket_with(AddressFamily::INET, SocketType::RAW, SocketFlags::NONBLOCK, Some(ipproto::TCP))
            .expect("root may have raw sockets");
        let [from, to] = [stream.local_addr(), stream.peer_addr()].map(|address| match address {
            Ok(SocketAddr::V4(address)) => address,
            other => panic!("{other:?}"),
        });
        Self { raw, from, to, expected: 0, next: 0 }
    }

    /// Waits for a segment from the other end with a new acknowledgement number.
    pub(crate) fn catch_up(&mut self) {
        let before = self.expected;
        eventually("an acknowledgement", || {
            self.hear();
            self.expected != before
        });
    }

    /// Sends bytes starting `before` bytes before the other end's next expected byte, and waits
    /// until all are acknowledged.
    pub(crate) fn send(&mut self, before: usize, bytes: &[u8], flags: u8) {
        let begin = self.expected.wrapping_sub(u32::try_from(before).expect("a few bytes"));
        self.post(begin, bytes, flags);
        self.wait_for(begin, bytes, flags);
    }

    /// Sends the next bytes in segments of `length` bytes, the first segment last and FIN in the
    /// final one, and waits until all are acknowledged.
    pub(crate) fn send_the_first_last(&mut self, bytes: &[u8], length: usize) {
        let begin = self.expected;
        let at = |place: usize| begin.wrapping_add(u32::try_from(place).expect("a few bytes"));
        for place in (length..bytes.len()).step_by(length) {
            let end = bytes.len().min(place + length);
            self.post(at(place), &bytes[place..end], if end == bytes.len() { FIN } else { 0 });
        }
        self.post(begin, &bytes[..length], 0);
        self.wait_for(begin, bytes, FIN);
    }

    fn post(&self, begin: u32, bytes: &[u8], flags: u8) {
        let segment = self.segment(begin, flags | ACK | PSH, bytes);
        let sent = sendto(&self.raw, &segment, SendFlags::empty(), &self.to).expect("a segment goes out");
        assert_eq!(sent, segment.len());
    }

    fn wait_for(&mut self, begin: u32, bytes: &[u8], flags: u8) {
        let end = u32::try_from(bytes.len()).expect("a few bytes") + u32::from(flags & FIN != 0);
        eventually("all is acknowledged", || {
            self.hear();
            self.expected == begin.wrapping_add(end)
        });
    }

    /// Takes the sequence numbers from the segments received.
    fn hear(&mut self) {
        let mut packet = vec![0; 1 << 16];
        while let Ok((_, length)) = recv(&self.raw, &mut packet[..], RecvFlags::empty()) {
            // The TCP header follows the IP header (RFC 791, 3.1).
            let tcp = &packet[usize::from(packet[0] & 0xf) * 4..length];
            let short = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
            let long = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
            if (short(0), short(2)) != (self.to.port(), self.from.port()) {
                continue;
            }
            let bytes = tcp.len() - usize::from(tcp[12] >> 4) * 4;
            self.next = long(4).wrapping_add(u32::try_from(bytes).expect("at most 64 KiB"));
            self.expected = long(8);
        }
    }

    fn segment(&self, sequence: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(self.from.port().to_be_bytes());
        segment.extend(self.to.port().to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(self.next.to_be_bytes());
        // A header of five words, an open window, a zero checksum, no urgent data.
        segment.extend([5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(bytes);
        let sum = checksum(*self.from.ip(), *self.to.ip(), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        segment
    }
}

/// Checksum of a segment with a zero checksum field (RFC 9293, 3.1; RFC 1071).
fn checksum(from: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let length = u32::try_from(segment.len()).expect("at most 64 KiB").to_be_bytes();
    let pseudo = [&from.octets()[..], &to.octets(), &length, &[0, 0, 0, 6]].concat();
    let words = pseudo.chunks(2).chain(segment.chunks(2));
    let sum: u64 = words.map(|word| u64::from(word[0]) << 8 | word.get(1).copied().map_or(0, u64::from)).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("two carries at most")
}
