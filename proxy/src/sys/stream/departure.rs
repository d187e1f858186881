//! Detection of a peer's departure while a task waits for something else.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::time::timeout;

use super::split::SplitStream;
use crate::sys::raw_io::RawSocketIo;

/// A peer's way of leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The peer reset the connection.
    Reset,
    /// The peer ended its direction, and all bytes before the end were read.
    Closed,
}

/// Interval of checks on a peer with unread bytes: no event reports when they have been read.
const UNREAD_RECHECK: Duration = Duration::from_millis(250);

impl SplitStream<'_> {
    /// Waits until the peer has left. A reset counts at once. The end of its direction counts when
    /// no bytes before it are unread and none of its `early` bytes are kept elsewhere: a peer may
    /// send all its bytes, end its direction and still wait.
    ///
    /// Polled after a reader of the socket in one task, it takes nothing from the reader: bytes of
    /// a plain socket stay in the socket, bytes of a session in the session.
    pub async fn departure(self, early: &AtomicBool) -> Departure {
        while !early.load(Ordering::Relaxed) {
            // Fails when the runtime ends.
            let Ok(mut guard) = self.socket.ready(Interest::READABLE).await else { return Departure::Reset };
            let socket = self.socket.get_ref();
            let ended = match self.tls {
                Some(tls) => tls.has_ended(&mut RawSocketIo(socket)).map(|ended| ended.then_some(Departure::Closed)),
                None => peek(socket).map(|bytes| (bytes == 0).then_some(Departure::Closed)),
            };
            match ended {
                Ok(Some(departure)) if !early.load(Ordering::Relaxed) => return departure,
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                // The session has consumed all bytes: the socket is empty.
                Ok(None) if self.tls.is_some_and(|tls| !tls.is_ready()) => guard.clear_ready(),
                // Unread bytes: only a reader may clear the readiness.
                Ok(None) => {
                    let reset = self.socket.ready(Interest::ERROR);
                    if timeout(UNREAD_RECHECK, reset).await.is_ok() {
                        return Departure::Reset;
                    }
                }
                Err(_) => return Departure::Reset,
            }
        }
        // Fails when the runtime ends.
        let _ = self.socket.ready(Interest::ERROR).await;
        Departure::Reset
    }
}

fn peek(socket: &TcpStream) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, &mut [0; 1], RecvFlags::PEEK)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::stream::Stream;
    use std::io::Write;
    use std::net::{Ipv4Addr, Shutdown, TcpListener};
    use std::pin::pin;
    use std::task::Poll;

    fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        (Stream::new(socket), peer)
    }

    #[tokio::test]
    async fn a_peer_that_closes_or_resets_has_left() {
        for (departure, early) in
            [(Departure::Closed, &b""[..]), (Departure::Reset, b""), (Departure::Reset, b"bytes that wait")]
        {
            let (mut stream, mut peer) = pair();
            peer.write_all(early).unwrap();
            let none = AtomicBool::new(false);
            let left = stream.split().unwrap().departure(&none);
            let mut left = pin!(left);
            let early_on = std::future::poll_fn(|context| Poll::Ready(left.as_mut().poll(context))).await;
            assert!(early_on.is_pending(), "{departure:?}");
            match departure {
                Departure::Closed => drop(peer),
                Departure::Reset => rustix::net::connect_unspec(&peer).unwrap(),
            }
            assert_eq!(left.await, departure);
        }
    }

    #[tokio::test]
    async fn a_peer_that_ends_its_direction_behind_unread_bytes_has_not_left_until_they_are_read() {
        let (mut stream, mut peer) = pair();
        peer.write_all(b"early").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let both = stream.split().unwrap();
        let none = AtomicBool::new(false);
        let mut left = pin!(both.departure(&none));
        assert!(timeout(Duration::from_millis(5), &mut left).await.is_err());
        let mut buffer = Vec::with_capacity(9);
        assert_eq!(both.read_buf(&mut buffer).await.unwrap(), 5);
        assert_eq!(left.await, Departure::Closed);
    }

    #[tokio::test]
    async fn a_reader_beside_it_has_every_byte() {
        let (mut stream, mut peer) = pair();
        let (both, none) = (stream.split().unwrap(), AtomicBool::new(false));
        let reading = async {
            let mut buffer = Vec::with_capacity(1 << 10);
            while both.read_buf(&mut buffer).await? > 0 {
                buffer.reserve(1 << 10);
            }
            Ok::<_, io::Error>(buffer)
        };
        let writer = std::thread::spawn(move || (0..200_u8).for_each(|byte| peer.write_all(&[byte; 100]).unwrap()));
        let read = tokio::select! {
            biased;
            read = reading => read.unwrap(),
            left = both.departure(&none) => panic!("{left:?} before all was read"),
        };
        writer.join().unwrap();
        assert_eq!(read.len(), 20_000);
    }
}
