//! TCP's own figures of a connection, and its abrupt end.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::io::Errno;

use super::option::{Plain, get, set};

/// The start of `struct tcp_info` (`include/uapi/linux/tcp.h`), as far as the gateway reads it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Raw {
    bytes: [u8; 8],
    before_rto: [u32; 24],
    /// Pacing rate and its maximum, bytes acknowledged and bytes received.
    rates: [u64; 4],
    /// Segments out and in, bytes not yet sent, minimum round trip, data segments in and out.
    segments: [u32; 6],
    delivery_rate: u64,
    busy_time: u64,
    rwnd_limited: u64,
    sndbuf_limited: u64,
    delivered: [u32; 2],
}

// SAFETY: integers, at offsets that leave no padding between them nor at the end (below).
unsafe impl Plain for Raw {}

/// Indices of `tcpi_state` and `tcpi_probes` in [`Raw::bytes`].
const STATE: usize = 0;
const PROBES: usize = 3;

/// Indices in [`Raw::before_rto`]: the retransmission time-out in microseconds, segments in flight,
/// and milliseconds since data was last sent (counting retransmissions but not probes), since data
/// was last received, and since an acknowledgement was last received.
const RTO: usize = 0;
const UNACKED: usize = 4;
const LAST_DATA_SENT: usize = 9;
const LAST_DATA_RECV: usize = 11;
const LAST_ACK_RECV: usize = 12;

/// Index of `tcpi_segs_in` in [`Raw::segments`].
const SEGS_IN: usize = 1;

/// State of a closed connection (`include/net/tcp_states.h`).
const TCP_CLOSE: u8 = 7;

// The kernel's offsets: a field added here by mistake would shift everything behind it.
const _: () = assert!(offset_of!(Raw, rates) == 104 && offset_of!(Raw, busy_time) == 168);
const _: () = assert!(size_of::<Raw>() == 200);

/// `include/uapi/asm-generic/sockios.h`; libc has it for some targets only.
const SIOCATMARK: libc::Ioctl = 0x8905;

/// Time for which a connection's sending was limited, by cause, since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Time with data to send, limited or not.
    pub busy: Duration,
    /// Time stalled because the peer's receive window was too small.
    pub receiver: Duration,
    /// Time stalled because the send buffer was too small.
    pub send_buffer: Duration,
    /// The socket's rate limit ([`super::pacing`]) is below the rate of the congestion control.
    pub paced: bool,
}

/// Reads [`Limits`] from `TCP_INFO` (tcp(7)).
///
/// # Errors
/// The error of getsockopt(2), as for a socket other than TCP.
pub fn limits(socket: &impl AsFd) -> io::Result<Limits> {
    Ok(info(socket)?.limits())
}

/// Positions of both streams of a connection, in bytes. Only differences between two readings are
/// meaningful: a SYN counts or not depending on the initiator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes acknowledged by the peer.
    pub acknowledged: u64,
    /// Bytes received from the peer, read or not; its FIN counts as one.
    pub received: u64,
    /// The connection is over: by a reset, or by a FIN each way.
    pub closed: bool,
}

/// Reads [`Progress`] from `TCP_INFO`, which the kernel fills at one moment (`net/ipv4/tcp.c`,
/// `tcp_get_info`).
///
/// # Errors
/// As [`limits`].
pub fn progress(socket: &impl AsFd) -> io::Result<Progress> {
    Ok(info(socket)?.progress())
}

/// One reading of `TCP_INFO`: [`Limits`], [`Progress`], and the signs telling an idle, a slow and a
/// vanished peer apart.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Limits on sending.
    pub limits: Limits,
    /// Positions of both streams.
    pub progress: Progress,
    /// Time since data was last received from the peer, in order.
    pub since_data: Duration,
    /// Time since the peer last acknowledged anything, including a keepalive or window probe.
    pub since_acknowledgement: Duration,
    /// Minimum time since the peer acknowledged the last byte sent: the acknowledgement took a
    /// retransmission time-out at most. `None` while bytes are unacknowledged.
    pub since_all_acknowledged: Option<Duration>,
    /// Segments received so far, including those of no use to the kernel. Wraps around.
    pub segments: u32,
    /// The peer owes an answer: data, a keepalive probe or a window probe was sent after its last
    /// segment. Bytes waiting behind a closed window ask nothing of the peer between two probes.
    pub unanswered: bool,
}

/// Reads a [`Sample`].
///
/// # Errors
/// As [`limits`].
pub fn sample(socket: &impl AsFd) -> io::Result<Sample> {
    let raw = info(socket)?;
    let age = |place: usize| Duration::from_millis(raw.before_rto[place].into());
    let (since_data, since_acknowledgement) = (age(LAST_DATA_RECV), age(LAST_ACK_RECV));
    let in_flight = raw.before_rto[UNACKED] > 0 && age(LAST_DATA_SENT) < since_data.min(since_acknowledgement);
    // Time within which a peer on a lossless path acknowledges a byte.
    let patience = Duration::from_micros(raw.before_rto[RTO].into());
    Ok(Sample {
        limits: raw.limits(),
        progress: raw.progress(),
        since_data,
        since_acknowledgement,
        since_all_acknowledged: (raw.before_rto[UNACKED] == 0).then(|| age(LAST_DATA_SENT).saturating_sub(patience)),
        segments: raw.segments[SEGS_IN],
        unanswered: in_flight || raw.bytes[PROBES] > 0,
    })
}

impl Raw {
    fn limits(&self) -> Limits {
        let [pacing, most, ..] = self.rates;
        Limits {
            busy: Duration::from_micros(self.busy_time),
            receiver: Duration::from_micros(self.rwnd_limited),
            send_buffer: Duration::from_micros(self.sndbuf_limited),
            paced: most != u64::MAX && pacing >= most,
        }
    }

    const fn progress(&self) -> Progress {
        let [_, _, acknowledged, received] = self.rates;
        Progress { acknowledged, received, closed: self.bytes[STATE] == TCP_CLOSE }
    }
}

/// Final value of [`Progress::acknowledged`] once all bytes written so far are acknowledged. The
/// figures of TCP_INFO for bytes sent and retransmitted do not add up to it: they include bytes
/// then refused by the device.
///
/// # Errors
/// As [`limits`] and [`unacknowledged`], and `WouldBlock` while acknowledgements arrive without a
/// pause.
pub fn acknowledged_in_the_end(socket: &impl AsFd) -> io::Result<u64> {
    // Each acknowledgement moves bytes from one figure to the other.
    let (acknowledged, waiting) =
        at_one_moment(|| Ok(progress(socket)?.acknowledged), || Ok(unacknowledged(socket)? as u64))?;
    Ok(acknowledged + waiting)
}

/// Bytes received and not yet read (SIOCINQ, tcp(7)).
///
/// # Errors
/// The error of ioctl(2).
pub fn unread(socket: &impl AsFd) -> io::Result<u64> {
    Ok(rustix::io::ioctl_fionread(socket)?)
}

/// [`Progress::received`] without the bytes not yet read.
///
/// # Errors
/// As [`limits`], and `WouldBlock` while bytes arrive without a pause.
pub fn read_so_far(socket: &impl AsFd) -> io::Result<u64> {
    let (received, waiting) = at_one_moment(|| Ok(progress(socket)?.received), || unread(socket))?;
    Ok(received - waiting)
}

/// Two figures of one moment: the second is read between two equal readings of the first.
///
/// # Errors
/// The errors of either, and `WouldBlock` if the first keeps changing.
fn at_one_moment(first: impl Fn() -> io::Result<u64>, second: impl Fn() -> io::Result<u64>) -> io::Result<(u64, u64)> {
    let mut before = first()?;
    for _ in 0..LOOKS {
        let between = second()?;
        let now = first()?;
        if now == before {
            return Ok((now, between));
        }
        before = now;
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Maximum of readings; each takes a microsecond.
const LOOKS: usize = 1_000;

fn info(socket: &impl AsFd) -> io::Result<Raw> {
    Ok(get(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?.0)
}

/// Bytes in the send buffer not acknowledged by the peer (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// The error of ioctl(2).
pub fn unacknowledged(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which is SIOCOUTQ on a socket, writes one int to `bytes`, which outlives
    // the call; the kernel keeps no pointer. The descriptor is borrowed for the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(usize::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

/// Tests whether urgent data is next in the stream (SIOCATMARK, tcp(7)), received or still under
/// way; false if the kernel does not tell.
#[must_use]
pub fn is_at_mark(socket: &impl AsFd) -> bool {
    let mut at_mark: libc::c_int = 0;
    // SAFETY: SIOCATMARK writes one int to `at_mark`, which outlives the call; the kernel keeps no
    // pointer. The descriptor is borrowed for the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCATMARK, &raw mut at_mark) };
    result == 0 && at_mark != 0
}

/// Makes closing the socket, also by the death of the process, a reset (`SO_LINGER` 0, socket(7))
/// or a clean end.
///
/// # Errors
/// The error of setsockopt(2).
pub fn reset_on_close(socket: &impl AsFd, reset: bool) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_socket_linger(socket, reset.then_some(Duration::ZERO))?)
}

/// Tests whether the peer has acknowledged every byte sent; a FIN, counting as one byte, may still
/// be on its way ([`unacknowledged`]).
#[must_use]
pub fn is_delivered(socket: &impl AsFd) -> bool {
    unacknowledged(socket).is_ok_and(|bytes| bytes <= 1)
}

/// Resets a connection at once, even if the socket has other holders.
///
/// `SO_LINGER` 0 and close do this only for the last holder; connect(2) to `AF_UNSPEC` disconnects
/// the socket itself (`net/ipv4/tcp.c`, `tcp_disconnect`). The content of the send buffer is
/// dropped.
///
/// # Errors
/// The error of connect(2); an already closed connection is no error.
pub fn reset(socket: &impl AsFd) -> io::Result<()> {
    Ok(rustix::net::connect_unspec(socket)?)
}

/// `include/uapi/linux/tcp.h`, since Linux 6.15; libc does not have it yet.
const TCP_RTO_MAX_MS: libc::c_int = 44;

/// Range of values accepted by the kernel.
const RTO_MAX: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(120));

/// Sets the longest pause between two retransmissions, and between two probes of a closed window,
/// to the nearest of 1 to 120 s. Without it the pauses grow to two minutes each, even while the
/// peer answers (`net/ipv4/tcp_input.c`, `tcp_ack_probe`). A kernel without the option keeps its
/// own pauses.
///
/// # Errors
/// The error of setsockopt(2), except for an unknown option.
pub fn set_longest_pause(socket: &impl AsFd, pause: Duration) -> io::Result<()> {
    static UNKNOWN: AtomicBool = AtomicBool::new(false);
    if UNKNOWN.load(Ordering::Relaxed) {
        return Ok(());
    }
    let milliseconds = libc::c_int::try_from(pause.clamp(RTO_MAX.0, RTO_MAX.1).as_millis()).unwrap_or(libc::c_int::MAX);
    match set(socket, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, milliseconds) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOPROTOOPT) => {
            UNKNOWN.store(true, Ordering::Relaxed);
            Ok(())
        }
        other => other,
    }
}

/// See [`set_longest_pause`]; `None` if the kernel has no such option.
#[cfg(test)]
pub(super) fn longest_pause(socket: &impl AsFd) -> Option<Duration> {
    let (milliseconds, _) = get::<libc::c_int>(socket, libc::IPPROTO_TCP, TCP_RTO_MAX_MS).ok()?;
    Some(Duration::from_millis(u64::try_from(milliseconds).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (one, listener.accept().unwrap().0)
    }

    #[test]
    fn reset_reaches_the_peer_while_a_copy_is_held() {
        let (one, mut two) = pair();
        let copy = one.try_clone().unwrap();
        reset(&one).unwrap();
        let error = two.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        drop(copy);
    }

    #[test]
    fn a_mark_is_where_urgent_data_is_next() {
        let (one, mut two) = pair();
        (&one).write_all(b"a").unwrap();
        rustix::net::send(&one, b"!", rustix::net::SendFlags::OOB).unwrap();
        rustix::net::sockopt::set_socket_oobinline(&two, true).unwrap();
        assert!(!is_at_mark(&two));
        two.read_exact(&mut [0; 1]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_at_mark(&two) {
            assert!(Instant::now() < deadline, "the urgent byte never came");
        }
        two.read_exact(&mut [0; 1]).unwrap();
        assert!(!is_at_mark(&two));
    }

    #[test]
    fn a_rate_that_is_less_than_the_path_takes_is_what_holds_up() {
        let (one, two) = pair();
        assert!(!limits(&one).unwrap().paced);
        crate::sys::pacing::set_max_pacing_rate(&one, Some(50 << 20)).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| io::copy(&mut io::repeat(7).take(8 << 20), &mut &one).unwrap());
            io::copy(&mut (&two).take(8 << 20), &mut io::sink()).unwrap();
        });
        let limits = limits(&one).unwrap();
        assert!(limits.paced && limits.busy > Duration::from_millis(50), "{limits:?}");
        // More than loopback ever reaches.
        crate::sys::pacing::set_max_pacing_rate(&one, Some(1 << 50)).unwrap();
        (&one).write_all(&[7; 1_000]).unwrap();
        (&two).read_exact(&mut [0; 1_000]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while super::limits(&one).unwrap().paced {
            assert!(Instant::now() < deadline, "held up by a rate that nothing reaches");
        }
    }

    /// Waits until a sample meets the condition.
    fn sampled(socket: &TcpStream, condition: impl Fn(&Sample) -> bool) -> Sample {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let sample = sample(socket).unwrap();
            if condition(&sample) {
                return sample;
            }
            assert!(Instant::now() < deadline, "{sample:?}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_sample_tells_bytes_that_were_acknowledged_and_received_from_silence() {
        let (mut one, mut two) = pair();
        let before = sample(&one).unwrap();
        one.write_all(b"to two").unwrap();
        let acknowledged = sampled(&one, |now| now.progress.acknowledged == before.progress.acknowledged + 6);
        assert!(!acknowledged.unanswered && acknowledged.segments != before.segments);
        assert_eq!(acknowledged.progress.received, before.progress.received);
        let quiet = sampled(&one, |now| now.since_data >= Duration::from_millis(50));
        two.write_all(b"to one").unwrap();
        let received = sampled(&one, |now| now.progress.received == quiet.progress.received + 6);
        assert!(received.since_data < quiet.since_data, "{received:?}");
    }

    /// A peer with a closed window is probed again and again, and answers.
    #[test]
    fn a_stopped_reader_leaves_bytes_unacknowledged_and_owes_nothing() {
        let (mut one, two) = pair();
        one.set_nonblocking(true).unwrap();
        let block = [7; 65_536];
        let stalled = sampled(&one, |now| {
            while (&one).write(&block).is_ok() {}
            now.limits.receiver > Duration::from_millis(20)
        });
        assert!(unacknowledged(&one).unwrap() > 0 && stalled.limits.busy > Duration::ZERO);
        assert!(one.write(&block).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        sampled(&one, |now| now.segments != stalled.segments && !now.unanswered);
        drop(two);
    }
}
