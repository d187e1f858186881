//! Listeners, and the connections that they accept.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener that the runtime watches; what it accepts is not registered.
#[derive(Debug)]
pub struct Listener(AsyncFd<TcpListener>);

impl Listener {
    /// Registers a listener, which must be non-blocking.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        // SAFETY: the listener is owned by the registration, which nothing here gives out for change:
        // it stays open, with the same descriptor, until both are dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?))
    }

    /// Waits for a connection: the socket, non-blocking, and the address of its peer.
    ///
    /// # Errors
    /// The error of accept(2).
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.async_io(Interest::READABLE, accept).await
    }

    /// The next connection in the queue, without a look at what the runtime knows of it.
    ///
    /// # Errors
    /// The error of accept(2): `EAGAIN` when the queue is empty.
    pub fn accept_now(&self) -> io::Result<(TcpStream, SocketAddr)> {
        accept(self.0.get_ref())
    }
}

pub(super) fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| peer.try_into().ok());
    // A listener for IP knows no other peers.
    peer.map(|peer| (socket.into(), peer)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
