//! Bytes of a source that are forwarded without a pipe: peeked at, sent, and only then taken out of
//! the source, so that at no moment this process alone has them.

use std::io;
use std::net::TcpStream;

use rustix::net::{RecvFlags, recv};

/// Copies the next bytes of a source and leaves them there. 0: end of the stream.
///
/// # Errors
/// Those of recv(2); [`io::ErrorKind::WouldBlock`] if there are none.
pub(super) fn peek(source: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(source, buffer, RecvFlags::PEEK | RecvFlags::DONTWAIT)?.0)
}

/// Copies the next bytes of a source and leaves them there. 0: there are none, now or for good.
///
/// # Errors
/// Those of recv(2).
pub(super) fn peek_now(source: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match peek(source, buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        peeked => peeked,
    }
}

/// Takes as many bytes out of a source as `scratch` has room for; they were peeked at before.
///
/// # Errors
/// Those of recv(2), and [`io::ErrorKind::UnexpectedEof`] if the bytes are gone.
pub(super) fn discard(source: &TcpStream, scratch: &mut [u8]) -> io::Result<()> {
    let mut left = scratch.len();
    while left > 0 {
        let (taken, _) = recv(source, &mut scratch[..left], RecvFlags::DONTWAIT)?;
        if taken == 0 {
            // Waiting for them here would hold up every tunnel of the worker.
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= taken;
    }
    Ok(())
}
