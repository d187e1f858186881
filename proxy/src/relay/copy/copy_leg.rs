//! One leg of a tunnel: a socket, and the TLS session in it if there is one.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::Shutdown;
use tokio::io::Interest;
use tokio::net::TcpStream;

use crate::sys::raw_io::RawSocketIo;
use crate::tls::Session;

/// A socket, and the TLS session in it.
#[derive(Debug)]
pub(super) struct CopyLeg {
    pub(super) socket: TcpStream,
    tls: Option<Box<Session>>,
}

impl CopyLeg {
    pub(super) const fn new(socket: TcpStream, tls: Option<Box<Session>>) -> Self {
        Self { socket, tls }
    }

    /// Waits until there is something to read.
    pub(super) async fn readable(&self) -> io::Result<()> {
        match &self.tls {
            Some(tls) if tls.is_ready() => Ok(()),
            _ => self.socket.readable().await,
        }
    }

    /// Reads what is there; 0 is the end.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else { return self.socket.try_read(buffer) };
        let mut read = || tls.read(&mut RawSocketIo(&self.socket), buffer);
        // Decrypted bytes are not in the socket any more, which may have nothing to report.
        let result = if tls.is_ready() { read() } else { self.socket.try_io(Interest::READABLE, read) };
        if tls.wants_write() {
            // An answer to the peer's TLS, or an alert, as far as there is room now.
            let _ = self.flush(tls);
        }
        result
    }

    /// Sends some of the bytes, and returns how many the kernel has taken.
    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let Some(tls) = &self.tls else {
            return self.when_writable(|| self.socket.try_write(bytes)).await;
        };
        let put = tls.put(bytes)?;
        self.when_writable(|| self.flush(tls)).await?;
        Ok(put)
    }

    /// Sends the end of the stream.
    pub(super) async fn finish(&self) -> io::Result<()> {
        if let Some(tls) = &self.tls {
            tls.close();
            self.when_writable(|| self.flush(tls)).await?;
        }
        Ok(rustix::net::shutdown(&self.socket, Shutdown::Write)?)
    }

    fn flush(&self, tls: &Session) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || tls.flush(&mut RawSocketIo(&self.socket)))
    }

    async fn when_writable<T>(&self, mut io: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match io() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.socket.writable().await?,
                done => return done,
            }
        }
    }
}

impl AsFd for CopyLeg {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
