//! Sockets to name servers.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioRuntimeProvider};
use tokio::io::{Interest, ReadBuf};
use tokio::net::UdpSocket;

use crate::sys::descriptors::{Purpose, admit};

/// Opens sockets as tokio does, but leaves the gateway's own descriptors alone, and connects UDP
/// sockets.
#[derive(Clone, Default)]
pub(super) struct Provider(TokioRuntimeProvider);

impl RuntimeProvider for Provider {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = Connected;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let connecting = self.0.connect_tcp(server, local, limit);
        Box::pin(async move {
            let stream = connecting.await?;
            admit(&stream.0, Purpose::Socket)?;
            Ok(stream)
        })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            admit(&socket, Purpose::Socket)?;
            socket.connect(server).await?;
            Ok(Connected::new(socket))
        })
    }
}

/// Completes when the kernel has an error for a socket.
type Failing = Pin<Box<dyn Future<Output = Option<io::Error>> + Send>>;

/// Connected UDP socket: an absent server is an error (ECONNREFUSED, udp(7)), and datagrams from
/// other addresses are not received.
pub(super) struct Connected {
    socket: Arc<UdpSocket>,
    /// Waits for a socket error: epoll reports it without EPOLLIN, so tokio wakes no reader by it.
    failing: Mutex<Option<Failing>>,
}

impl Connected {
    fn new(socket: UdpSocket) -> Self {
        let socket = Arc::new(socket);
        let failing: Failing = Box::pin({
            let socket = socket.clone();
            async move {
                let ready = socket.ready(Interest::ERROR).await;
                ready.err().or_else(|| socket.take_error().ok().flatten())
            }
        });
        Self { socket, failing: Mutex::new(Some(failing)) }
    }
}

impl fmt::Debug for Connected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connected").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl DnsUdpSocket for Connected {
    type Time = <TokioRuntimeProvider as RuntimeProvider>::Timer;

    fn poll_recv_from(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        if let Poll::Ready(received) = self.socket.poll_recv_from(context, &mut buffer) {
            return Poll::Ready(received.map(|from| (buffer.filled().len(), from)));
        }
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Poll::Ready(error)) = failing.as_mut().map(|failing| failing.as_mut().poll(context)) else {
            return Poll::Pending;
        };
        *failing = None;
        error.map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    }

    fn poll_send_to(&self, context: &mut Context<'_>, bytes: &[u8], server: SocketAddr) -> Poll<io::Result<usize>> {
        self.socket.poll_send_to(context, bytes, server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_absent_server_is_an_error_at_once() {
        let absent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = absent.local_addr().unwrap();
        drop(absent);
        let socket = Provider::default().bind_udp("127.0.0.1:0".parse().unwrap(), address).await.unwrap();
        socket.send_to(b"?", address).await.unwrap();
        let error = tokio::time::timeout(Duration::from_secs(20), socket.recv_from(&mut [0; 16])).await.unwrap();
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
