//! Listeners and their accepted connections.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::SocketFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener watched by the runtime; accepted sockets are not registered.
#[derive(Debug)]
pub struct Listener(AsyncFd<TcpListener>);

impl Listener {
    /// Registers a listener, which must be non-blocking.
    ///
    /// # Errors
    /// The error of epoll_ctl(2).
    pub fn new(listener: TcpListener) -> io::Result<Self> {
        // SAFETY: the registration owns the listener, and nothing here gives it out for change: it
        // stays open, with one descriptor, until both are dropped.
        Ok(Self(unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?))
    }

    /// Waits for a connection; returns the socket, non-blocking, and the address of its peer.
    ///
    /// # Errors
    /// The error of accept(2).
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.async_io(Interest::READABLE, accept).await
    }

    /// Accepts the next connection in the queue, without checking the runtime's readiness.
    ///
    /// # Errors
    /// The error of accept(2): `EAGAIN` if the queue is empty.
    pub fn accept_now(&self) -> io::Result<(TcpStream, SocketAddr)> {
        accept(self.0.get_ref())
    }
}

pub(super) fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let (socket, peer) = rustix::net::acceptfrom_with(listener, flags)?;
    let peer = peer.and_then(|peer| peer.try_into().ok());
    // An IP listener has only IP peers.
    peer.map(|peer| (socket.into(), peer)).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
