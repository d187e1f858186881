//! Self-test of an engine on this host: sends bytes through a small tunnel instead of comparing
//! versions.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, Builder};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::engine::Adopted;
use crate::sys::pipe::Pipe;
use crate::sys::probe;
use crate::tunnel::{Flow, Tunnel};

/// Time limit: long enough for the slowest host, short enough for a start.
const LIMIT: Duration = Duration::from_secs(5);

/// Bytes sent: more than all buffers on the way, so backpressure is tested too.
const LENGTH: usize = 4 << 20;

/// Sends bytes both ways through a tunnel of `adopt`, with a prefix and a half-close each way, and
/// compares them.
///
/// The sockets are Unix sockets, which need no network: the test detects refused system calls, and
/// splice(2) and epoll(7) treat both kinds of sockets alike.
pub(super) fn run(adopt: impl FnOnce(Tunnel) -> Adopted) -> io::Result<()> {
    let (client, near) = pair()?;
    let (origin, far) = pair()?;
    near.set_nonblocking(true)?;
    far.set_nonblocking(true)?;
    let (up, down) = (pattern(1), pattern(7));
    let cut = 1_000;
    let flow = Arc::new(Flow::default());
    let tunnel = Tunnel::plain(near, far, [up[..cut].to_vec(), Vec::new()], flow);
    let _end = adopt(tunnel).map_err(|(_, error)| error)?;
    thread::scope(|scope| {
        // A shortage of threads on the host is an error here, and no panic.
        let sending_up = Builder::new().spawn_scoped(scope, || send(&client, &up[cut..]));
        let sending_down = Builder::new().spawn_scoped(scope, || send(&origin, &down));
        let receiving = Builder::new().spawn_scoped(scope, || expect(&client, &down));
        let (sending_up, sending_down, receiving) = match (sending_up, sending_down, receiving) {
            (Ok(up), Ok(down), Ok(receiving)) => (up, down, receiving),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                // The started threads do not wait for the missing ones.
                for end in [&client, &origin] {
                    end.shutdown(Shutdown::Both)?;
                }
                return Err(error);
            }
        };
        let result = expect(&origin, &up);
        for thread in [sending_up, sending_down, receiving] {
            thread.join().map_err(|_| io::Error::other("a thread of the self-test panicked"))??;
        }
        result
    })
}

/// Tests splice(2) by itself, to report the kernel's own error where it is refused, as by a seccomp
/// profile: a broken tunnel shows only a reset. Also tests for a large enough pipe.
pub(super) fn splice() -> io::Result<()> {
    probe::splice()?;
    Pipe::worthwhile().map(drop)
}

fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let (one, two): (OwnedFd, OwnedFd) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let (one, two) = (TcpStream::from(one), TcpStream::from(two));
    for socket in [&one, &two] {
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
    }
    Ok((one, two))
}

fn pattern(seed: usize) -> Vec<u8> {
    let period = 251; // a prime, so that no power of two of bytes lost or repeated goes unseen
    (0..LENGTH).map(|n| u8::try_from((n * seed + n / period) % period).unwrap_or(0)).collect()
}

fn send(mut to: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).map_err(in_time)?;
    to.shutdown(Shutdown::Write)
}

fn expect(mut from: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut received = Vec::with_capacity(bytes.len());
    from.read_to_end(&mut received).map_err(in_time)?;
    if received == bytes { Ok(()) } else { Err(io::Error::other("the engine changed bytes")) }
}

fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            io::Error::new(ErrorKind::TimedOut, format!("no byte within {} s", LIMIT.as_secs()))
        }
        _ => error,
    }
}
