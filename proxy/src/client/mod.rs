//! The client's socket until the hand-off: reads the head, writes the one answer.
//!
//! Nothing else in the gateway writes HTTP to a client, except an origin's answer to an Upgrade.

use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use zeroize::{Zeroize as _, Zeroizing};

use crate::message::Content;
use crate::proxy_protocol;
use crate::reason::{Reason, Refusal};
use crate::request::{self, MAX_HEAD, Request};
use crate::sys::deadline::{timeout, timeout_at};
use crate::sys::stream::{SplitStream, Stream};
use crate::tls::{ServerCertificate, Session};

mod answer;
mod hello;
mod leaving;

pub use leaving::cancel_if_client_leaves;

use answer::answer;
use hello::hello;

/// The answer before the tunnel begins. stunnel skips header lines but takes a body for the peer's
/// TLS, so there is neither.
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Time for a refused client to read its answer and close.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes read from a refused client before it is cut off: closing with unread bytes sends a reset,
/// and a reset would destroy the answer before the client has read it (RFC 9112, 9.6).
const LINGER_BYTES: usize = 256 << 10;

/// Size of the first read: enough for every known client, and small for clients that send nothing.
const FIRST_READ: usize = 1 << 10;

/// The parts of a client with an established tunnel.
#[derive(Debug)]
pub struct Parts {
    /// The socket.
    pub socket: TcpStream,
    /// The TLS session, if the client speaks TLS.
    pub tls: Option<Box<Session>>,
    /// Bytes behind the head.
    pub early: Vec<u8>,
}

/// A client without a tunnel yet.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    /// Time of acceptance; the limit for everything the client sends before its tunnel counts from
    /// here.
    began: Instant,
    /// Overwritten before it is freed: heads hold passwords.
    buffer: Zeroizing<Vec<u8>>,
}

impl Client {
    /// Takes an accepted connection; the socket must be non-blocking.
    #[must_use]
    pub fn new(socket: TcpStream) -> Self {
        Self { stream: Stream::new(socket), began: Instant::now(), buffer: Zeroizing::default() }
    }

    /// Reads a request; bytes behind its head stay for [`Client::into_established`].
    ///
    /// # Errors
    /// A refusal as [`request::parse`] has it; [`Reason::HandshakeTimeout`] when the head is not
    /// complete within `limit`, and [`Reason::Silent`] when not a byte of it came;
    /// [`Reason::ClientGone`] when the client
    /// closes before.
    pub async fn request(&mut self, limit: Duration) -> Result<Request, Refusal> {
        let late = || {
            let detail = format!("no complete request within {limit:?} (--handshake-timeout)");
            Refusal::new(Reason::HandshakeTimeout, detail)
        };
        let parse = |bytes: &[u8]| Ok(request::parse(bytes)?.map(|parsed| (parsed.request, parsed.head_len)));
        self.first(limit, "request", parse, late).await
    }

    /// Reads the PROXY protocol header, which must come first: the connection's source and
    /// destination, unless the connection is the proxy's own.
    ///
    /// # Errors
    /// [`Reason::NotProxied`] for anything else, and when it is not complete within `limit`;
    /// [`Reason::Silent`];
    /// [`Reason::ClientGone`].
    pub async fn read_proxy_header(&mut self, limit: Duration) -> Result<Option<(SocketAddr, SocketAddr)>, Refusal> {
        let refused = |why: &str| Refusal::new(Reason::NotProxied, format!("{why} (--proxy-protocol-from)"));
        let parse = |bytes: &[u8]| match proxy_protocol::parse(bytes) {
            Ok(header) => Ok(header.map(|header| (header.addresses, header.len))),
            Err(error) => Err(refused(&error.to_string())),
        };
        let late = || {
            let detail = format!("PROXY header not complete within {limit:?} (--handshake-timeout)");
            Refusal::new(Reason::NotProxied, detail)
        };
        self.first(limit, "PROXY header", parse, late).await
    }

    /// Establishes TLS with the client by `identity`; gives its version.
    ///
    /// # Errors
    /// [`Reason::PlainHttp`] for a request in the clear, and the refusal of
    /// [`request::other_protocol`] for other protocols, both answered in the clear;
    /// [`Reason::TlsFailed`] for other bytes that are not TLS, for a failed negotiation, and for a
    /// handshake longer than `limit`; [`Reason::Silent`]; [`Reason::ClientGone`].
    pub async fn secure(&mut self, certificate: &ServerCertificate, limit: Duration) -> Result<&'static str, Refusal> {
        let failed = |why: &str| Refusal::new(Reason::TlsFailed, format!("{why} (--listen-tls)"));
        let late = || {
            let detail = format!("TLS handshake not complete within {limit:?} (--handshake-timeout)");
            Refusal::new(Reason::TlsFailed, detail)
        };
        let hello = self.first(limit, "TLS handshake", |bytes| Ok(hello(bytes)?.map(|hello| (hello, 0))), late).await?;
        let session = certificate.session(hello).map_err(|error| failed(&error.to_string()))?;
        // The ClientHello, and the bytes behind it.
        let early = std::mem::take(&mut *self.buffer);
        match timeout_at(self.began + limit, self.stream.secure(session, &early)).await {
            Ok(Ok(version)) => Ok(version),
            Ok(Err(error)) if error.get_ref().is_none() => Err(self.gone(&error.to_string())),
            Ok(Err(error)) => Err(failed(&error.to_string())),
            Err(_) => Err(late()),
        }
    }

    /// Reads until `parse` finds a complete item at the start; removes it by the length returned.
    async fn first<T>(
        &mut self,
        limit: Duration,
        what: &str,
        parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Refusal>,
        late: impl Fn() -> Refusal,
    ) -> Result<T, Refusal> {
        let deadline = self.began + limit;
        loop {
            if let Some((found, length)) = parse(&self.buffer)? {
                self.buffer[..length].zeroize();
                self.buffer.drain(..length);
                return Ok(found);
            }
            match timeout_at(deadline, self.read_more()).await {
                Ok(Ok(0)) => return Err(self.gone(&format!("closed before its {what} was complete"))),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(self.gone(&error.to_string())),
                // A connection pool that connects ahead of need would take an unsolicited answer
                // for a fault.
                Err(_) if self.buffer.is_empty() => {
                    let detail = format!("no byte of a {what} received within {limit:?} (--handshake-timeout)");
                    return Err(Refusal::new(Reason::Silent, detail));
                }
                Err(_) => return Err(late()),
            }
        }
    }

    /// Returns the local address of the connection.
    ///
    /// # Errors
    /// [`Reason::ClientGone`].
    pub fn local_addr(&self) -> Result<SocketAddr, Refusal> {
        self.stream.local_addr().map_err(|error| self.gone(&error.to_string()))
    }

    /// Reads without ever holding more than [`MAX_HEAD`] bytes; the parser refuses an incomplete
    /// head of this size.
    async fn read_more(&mut self) -> io::Result<usize> {
        if self.buffer.len() == self.buffer.capacity() {
            let more = self.buffer.len().max(FIRST_READ).min(MAX_HEAD.saturating_sub(self.buffer.len()).max(1));
            // Growing in place could leave a copy behind.
            let mut larger = Zeroizing::new(Vec::with_capacity(self.buffer.len() + more));
            larger.extend_from_slice(&self.buffer);
            self.buffer = larger;
        }
        self.stream.read_buf(&mut self.buffer).await
    }

    fn gone(&self, how: &str) -> Refusal {
        Refusal::new(Reason::ClientGone, format!("client {how} ({} bytes read)", self.buffer.len()))
    }

    /// Returns the bytes read so far and not consumed by a request.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len()
    }

    /// Sends the client its 200, and gives up the socket with the bytes after the head.
    ///
    /// # Errors
    /// [`Reason::ClientGone`] when the answer cannot be written, or not within `limit`.
    pub async fn into_established(mut self, limit: Duration) -> Result<Parts, Refusal> {
        let written = timeout(limit, self.stream.write_all(ESTABLISHED)).await;
        written.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into())).map_err(|error| took_no_answer(&error))?;
        self.into_parts()
    }

    /// Gives up the socket of an answered client, with the bytes after the head.
    ///
    /// # Errors
    /// No known ones.
    pub fn into_parts(mut self) -> Result<Parts, Refusal> {
        let (socket, tls) = self.stream.into_parts().map_err(|error| took_no_answer(&error))?;
        // A long-lived tunnel keeps no empty buffer.
        Ok(Parts {
            socket,
            tls,
            early: if self.buffer.is_empty() { Vec::new() } else { std::mem::take(&mut *self.buffer) },
        })
    }

    /// Returns the socket, and the bytes read from it behind the head.
    ///
    /// # Errors
    /// [`Reason::Exhausted`] if the socket cannot be waited for.
    pub fn split(&mut self) -> Result<(SplitStream<'_>, &mut Vec<u8>), Refusal> {
        match self.stream.split() {
            Ok(both) => Ok((both, &mut *self.buffer)),
            Err(error) => Err(Refusal::new(Reason::Exhausted, format!("cannot poll the client: {error}"))),
        }
    }

    /// Runs `work`, which does not use the client, unless the client leaves first: `work` is
    /// dropped then. `content` is the request's content; bytes behind it belong to the tunnel.
    ///
    /// # Errors
    /// Errors of `work`; [`Reason::ClientGone`]; [`Reason::Exhausted`] if the socket cannot be
    /// waited for.
    pub async fn cancel_if_client_leaves<T>(
        &mut self,
        content: Option<&Content>,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let mut work = pin!(work);
        // Most work never waits. A client is registered and watched only if its work waits.
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            return done;
        }
        let (client, pending) = self.split()?;
        let taken = content.map_or(Ok(0), |content| content.clone().take(pending));
        let early = taken.map_or(true, |taken| taken < pending.len());
        cancel_if_client_leaves(client, &AtomicBool::new(early), work).await
    }

    /// Answers a refusal, and closes once the client has read the answer, as after an origin's
    /// answer. Only closes if the client is gone.
    pub async fn refuse(mut self, refusal: &Refusal) {
        let answer = match refusal.reason.status() {
            Some(status) => answer(status, refusal),
            // It has an answer already, or an alert.
            None if matches!(refusal.reason, Reason::NotUpgraded | Reason::TlsFailed) => String::new(),
            None => {
                if refusal.reason == Reason::Silent {
                    // Of a session it is the announced end.
                    let _ = self.stream.shutdown();
                }
                return;
            }
        };
        let _ = timeout(LINGER, async {
            self.stream.write_all(answer.as_bytes()).await?;
            self.stream.shutdown()?;
            self.discard().await
        })
        .await;
    }

    /// Reads until the client closes, or has sent too much.
    async fn discard(&mut self) -> io::Result<()> {
        let mut discarded = 0;
        while discarded < LINGER_BYTES {
            self.buffer.clear();
            self.buffer.reserve(FIRST_READ);
            match self.stream.read_buf(&mut self.buffer).await? {
                0 => break,
                bytes => discarded += bytes,
            }
        }
        Ok(())
    }
}

/// Builds the refusal of a client after a failed answer.
pub fn took_no_answer(error: &io::Error) -> Refusal {
    Refusal::new(Reason::ClientGone, format!("cannot send the answer to the client: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_that_comes_before_a_tunnel_has_one_time_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut client = Client::new(socket);
        // As a PROXY header and TLS may take.
        tokio::time::advance(Duration::from_secs(20)).await;
        let then = Instant::now();
        let refusal = client.request(Duration::from_secs(30)).await.unwrap_err();
        assert_eq!((refusal.reason, then.elapsed().as_secs()), (Reason::Silent, 10));
    }
}
