//! A non-blocking TCP socket, registered with the runtime only when a task has to wait for it.
//!
//! Most handshakes never wait: the request arrives before the connection is accepted, and the
//! answer fits the send buffer. Registering such a socket with the runtime's epoll, and removing it
//! before an engine registers it with its own, would be two system calls and two locks for nothing.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::raw_io::RawSocketIo;
use crate::tls::Session;

mod departure;
mod listener;
mod split;

pub use departure::Departure;
pub use listener::Listener;
pub use split::SplitStream;

use split::{receive, send};

/// The socket, its registration once there is one, and its TLS session if any.
#[derive(Debug)]
pub struct Stream {
    /// Dropped before the socket is given away.
    registered: Option<AsyncFd<Arc<TcpStream>>>,
    socket: Arc<TcpStream>,
    tls: Option<Box<Session>>,
}

impl Stream {
    /// Wraps a socket, which must be non-blocking.
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        Self::with(socket, None)
    }

    /// Wraps a socket with an established TLS session, or without TLS.
    #[must_use]
    pub fn with(socket: TcpStream, tls: Option<Box<Session>>) -> Self {
        Self { registered: None, socket: Arc::new(socket), tls }
    }

    /// Performs the TLS handshake; reads and writes are encrypted afterwards. `early` holds TLS
    /// bytes already read. Returns the version.
    ///
    /// # Errors
    /// The error of recv(2) or send(2), of registering, or a TLS error ([`Session::read`]), which
    /// is also sent to the peer as an alert.
    pub async fn secure(&mut self, session: Session, early: &[u8]) -> io::Result<&'static str> {
        let mut early = session.take_in(early);
        while !session.is_established() || session.wants_write() {
            let step = match (std::mem::replace(&mut early, Ok(())), session.wants_write()) {
                (Err(error), _) => Err(error),
                (Ok(()), true) => self.when(Interest::WRITABLE, |socket| session.flush(&mut RawSocketIo(socket))).await,
                (Ok(()), false) => {
                    self.when(Interest::READABLE, |socket| session.advance(&mut RawSocketIo(socket))).await
                }
            };
            if step.is_err() {
                // Sends as much of an alert as the socket accepts.
                let _ = session.flush(&mut RawSocketIo(&self.socket));
            }
            step?;
        }
        let version = session.version();
        self.tls = Some(Box::new(session));
        Ok(version)
    }

    /// Reads into the spare capacity of `buffer`; 0 is the end of the stream.
    ///
    /// # Errors
    /// The error of recv(2), or of registering, or a TLS error ([`Session::read`]).
    pub async fn read_buf(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self.tls {
            None => self.when(Interest::READABLE, |socket| receive(socket, buffer)).await,
            Some(_) => Box::pin(self.split()?.read_buf(buffer)).await,
        }
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The error of send(2), or of registering.
    pub async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.tls.is_some() {
            return Box::pin(self.split()?.write_all(bytes)).await;
        }
        while !bytes.is_empty() {
            let sent = self.when(Interest::WRITABLE, |socket| send(socket, bytes)).await?;
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// The local address of the connection.
    ///
    /// # Errors
    /// The error of getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Splits the socket for two concurrent users, one reading and one writing.
    ///
    /// # Errors
    /// The error of registering.
    pub fn split(&mut self) -> io::Result<SplitStream<'_>> {
        self.registration()?;
        let tls = self.tls.as_deref();
        self.registered
            .as_ref()
            .map(|socket| SplitStream { socket, tls })
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Signals the end of the stream to the peer.
    ///
    /// # Errors
    /// The error of shutdown(2).
    pub fn shutdown(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            tls.close();
            // Best effort: if the socket has no room for the close_notify, the peer has stopped
            // reading anyway.
            let _ = tls.flush(&mut RawSocketIo(&self.socket));
        }
        Ok(rustix::net::shutdown(&self.socket, Shutdown::Write)?)
    }

    /// Connects the socket.
    ///
    /// # Errors
    /// The error of connect(2), at once or later, or of registering.
    pub async fn connect(&mut self, address: SocketAddr) -> io::Result<()> {
        // A second connect(2) returns the result: a peer on this host has already answered.
        for _ in 0..2 {
            match rustix::net::connect(&self.socket, &address) {
                Ok(()) | Err(Errno::ISCONN) => return Ok(()),
                Err(Errno::INPROGRESS | Errno::ALREADY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let registration = self.registration()?;
        Box::pin(registration.writable()).await?.retain_ready();
        self.socket.take_error()?.map_or(Ok(()), Err)
    }

    /// Returns the socket, unregistered, and its TLS session.
    ///
    /// # Errors
    /// None known: nothing else holds the socket.
    pub fn into_parts(self) -> io::Result<(TcpStream, Option<Box<Session>>)> {
        drop(self.registered);
        let socket = Arc::try_unwrap(self.socket).map_err(|_| io::Error::other("the socket is still registered"))?;
        Ok((socket, self.tls))
    }

    /// Returns the socket of a stream without TLS, unregistered.
    ///
    /// # Errors
    /// As [`Stream::into_parts`].
    pub fn into_std(self) -> io::Result<TcpStream> {
        self.into_parts().map(|(socket, _)| socket)
    }

    /// Performs `io`, waiting until it is possible.
    async fn when<R>(&mut self, interest: Interest, mut io: impl FnMut(&TcpStream) -> io::Result<R>) -> io::Result<R> {
        if self.registered.is_none() {
            match io(&self.socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
        // Boxed: a stream without waits reserves no space for the future.
        let registration = self.registration()?;
        Box::pin(registration.async_io(interest, |socket| io(socket))).await
    }

    fn registration(&mut self) -> io::Result<&AsyncFd<Arc<TcpStream>>> {
        let new = match self.registered.take() {
            Some(registered) => registered,
            // SAFETY: the clone keeps the socket open for as long as it is registered, and a
            // TcpStream behind an Arc has one descriptor for all its life.
            None => unsafe { AsyncFd::register(Arc::clone(&self.socket)) }?,
        };
        Ok(self.registered.insert(new))
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::listener::accept;
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};

    fn pair() -> (Stream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, address) = accept(&listener).unwrap();
        assert_eq!(address, peer.local_addr().unwrap());
        (Stream::new(socket), peer)
    }

    #[tokio::test]
    async fn what_is_there_is_read_unregistered_and_what_is_not_is_waited_for() {
        let (mut stream, mut peer) = pair();
        peer.write_all(b"one").unwrap();
        let mut buffer = Vec::with_capacity(10);
        assert_eq!(stream.read_buf(&mut buffer).await.unwrap(), 3);
        stream.write_all(b"two").await.unwrap();
        assert!(stream.registered.is_none());
        let late = std::thread::spawn(move || {
            peer.read_exact(&mut [0; 3]).unwrap();
            peer.write_all(b"three").unwrap();
            peer
        });
        while buffer.len() < 8 {
            stream.read_buf(&mut buffer).await.unwrap();
        }
        assert_eq!(buffer, b"onethree");
        drop(late.join().unwrap());
        assert_eq!(stream.read_buf(&mut buffer).await.unwrap(), 0);
        assert!(stream.into_std().is_ok());
    }

    #[tokio::test]
    async fn one_reads_while_another_writes() {
        let (mut stream, peer) = pair();
        let bytes = vec![7; 16 << 20];
        let echo = std::thread::spawn(move || io::copy(&mut &peer, &mut &peer));
        let (expected, both) = (bytes.len(), stream.split().unwrap());
        let reading = async {
            let (mut read, mut buffer) = (0, Vec::with_capacity(1 << 16));
            while read < expected {
                buffer.clear();
                read += both.read_buf(&mut buffer).await?;
            }
            Ok(read)
        };
        let (written, read) = tokio::join!(both.write_all(&bytes), reading);
        assert_eq!((written.unwrap(), read.unwrap_or_else(|error: io::Error| panic!("{error}"))), ((), expected));
        stream.shutdown().unwrap();
        assert_eq!(echo.join().unwrap().unwrap(), expected as u64);
    }

    #[tokio::test]
    async fn more_than_fits_is_written_while_the_peer_reads() {
        let (mut stream, mut peer) = pair();
        let bytes: Vec<u8> = (0..16 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
        let reading = std::thread::spawn(move || {
            let mut read = Vec::new();
            peer.read_to_end(&mut read).map(|_| read)
        });
        stream.write_all(&bytes).await.unwrap();
        assert!(stream.registered.is_some());
        stream.shutdown().unwrap();
        assert!(reading.join().unwrap().unwrap() == bytes);
    }
}
