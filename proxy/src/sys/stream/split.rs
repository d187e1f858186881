//! The two uses of a stream at once: one task reads and another writes.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::raw_io::RawSocketIo;
use crate::tls::Session;

/// A registered stream; see [`super::Stream::split`].
#[derive(Clone, Copy, Debug)]
pub struct SplitStream<'a> {
    pub(super) socket: &'a AsyncFd<Arc<TcpStream>>,
    pub(super) tls: Option<&'a Session>,
}

impl SplitStream<'_> {
    /// As [`super::Stream::read_buf`].
    ///
    /// # Errors
    /// The error of recv(2), or as [`Session::read`].
    pub async fn read_buf(self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let Some(tls) = self.tls else {
            return self.socket.async_io(Interest::READABLE, |socket| receive(socket, buffer)).await;
        };
        let read = match tls.is_ready() {
            // Decrypted bytes are no longer in the socket, which may then report nothing.
            true => tls.read_buf(&mut RawSocketIo(self.socket.get_ref()), buffer),
            false => {
                self.socket.async_io(Interest::READABLE, |socket| tls.read_buf(&mut RawSocketIo(socket), buffer)).await
            }
        };
        if tls.wants_write() {
            // Sends a TLS reply or alert to the peer, as far as there is room now.
            let _ = tls.flush(&mut RawSocketIo(self.socket.get_ref()));
        }
        read
    }

    /// As [`super::Stream::write_all`].
    ///
    /// # Errors
    /// The error of send(2).
    pub async fn write_all(self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[self.write(bytes).await?..];
        }
        Ok(())
    }

    /// Waits for room, writes as many of `bytes` as fit, and returns their number. If dropped
    /// before, nothing has been written; a TLS session may have encrypted some of the bytes by
    /// then, and sends them with the next ones.
    ///
    /// # Errors
    /// As [`SplitStream::write_all`].
    pub async fn write(self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = self.tls else {
            return self.socket.async_io(Interest::WRITABLE, |socket| send(socket, bytes)).await;
        };
        let put = tls.put(bytes)?;
        self.socket.async_io(Interest::WRITABLE, |socket| tls.flush(&mut RawSocketIo(socket))).await?;
        Ok(put)
    }
}

impl AsFd for SplitStream<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }
}

pub(super) fn receive(socket: &TcpStream, buffer: &mut Vec<u8>) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, spare_capacity(buffer), RecvFlags::empty())?.1)
}

pub(super) fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL)?)
}
