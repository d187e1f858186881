//! Pacing of a socket's sends by the kernel.

use std::io;
use std::os::fd::AsFd;

use super::option::{get, set};

/// Limits the socket's send rate to `rate` bytes per second; `None` leaves it to the congestion
/// control (`SO_MAX_PACING_RATE`, socket(7)). TCP delays the segments itself unless the queueing
/// discipline `fq` does (`net/ipv4/tcp_output.c`, `tcp_pacing_check`). TCP counts the payload of
/// segments, `fq` their headers as well.
///
/// # Errors
/// The error of setsockopt(2).
pub fn set_max_pacing_rate(socket: &impl AsFd, rate: Option<u64>) -> io::Result<()> {
    // All bits set: no limit. The kernel takes an unsigned long (`net/core/sock.c`,
    // `sk_setsockopt`), since 5.0; on a 32-bit machine four gigabytes a second are no limit either.
    let value = rate.map_or(libc::c_ulong::MAX, |rate| libc::c_ulong::try_from(rate).unwrap_or(libc::c_ulong::MAX));
    set(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, value)
}

/// Reads the rate set by [`set_max_pacing_rate`].
///
/// # Errors
/// The error of getsockopt(2).
pub fn max_pacing_rate(socket: &impl AsFd) -> io::Result<Option<u64>> {
    let (value, _) = get::<libc::c_ulong>(socket, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE)?;
    Ok((value != libc::c_ulong::MAX).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::{Domain, Socket, Type};

    #[test]
    fn a_rate_is_set_and_taken_back() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        assert_eq!(max_pacing_rate(&socket).unwrap(), None);
        for rate in [Some(1 << 10), Some(10 << 30), None] {
            set_max_pacing_rate(&socket, rate).unwrap();
            assert_eq!(max_pacing_rate(&socket).unwrap(), rate);
        }
    }
}
