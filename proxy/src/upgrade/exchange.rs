//! An exchange of request and answers: two connections, one deadline, and the account of every
//! byte.

use std::fmt;
use std::io::{self, ErrorKind};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::message::{BadContent, Content};
use crate::sys::deadline::timeout_at;
use crate::sys::stream::SplitStream;
use crate::sys::tcp;
use crate::tunnel::{Direction, Flow};

/// Bytes of content read at once.
const PIECE_BYTES: usize = 64 << 10;

/// Shortest and longest interval of checks for the client's acknowledgement of its answer: no event
/// reports it.
const RECHECK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// The two sockets of an exchange, its counter and its deadline.
#[derive(Clone, Copy)]
pub(super) struct Exchange<'a> {
    pub(super) client: SplitStream<'a>,
    pub(super) origin: SplitStream<'a>,
    /// Counts the bytes.
    pub(super) flow: &'a Flow,
    /// When all of it has to be over.
    pub(super) deadline: Instant,
}

impl Exchange<'_> {
    /// Source and destination of a direction.
    const fn ends(&self, direction: Direction) -> (SplitStream<'_>, SplitStream<'_>) {
        match direction {
            Direction::ToOrigin => (self.client, self.origin),
            Direction::ToClient => (self.origin, self.client),
        }
    }

    /// Sends all of `bytes`, and counts the bytes accepted by the kernel.
    ///
    /// # Errors
    /// The error of send(2); [`ErrorKind::TimedOut`] at the deadline.
    pub(super) async fn send(&self, direction: Direction, mut bytes: &[u8]) -> io::Result<()> {
        let (_, to) = self.ends(direction);
        while !bytes.is_empty() {
            let sent = self.in_time(to.write(bytes)).await?;
            self.flow.add(direction, sent as u64, std::time::Instant::now());
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Reads from the source of a direction into the spare capacity of `buffer`; 0 is the end.
    ///
    /// # Errors
    /// The error of recv(2); [`ErrorKind::TimedOut`] at the deadline.
    pub(super) async fn receive(&self, direction: Direction, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let (from, _) = self.ends(direction);
        self.in_time(from.read_buf(buffer)).await
    }

    /// Forwards content, at most `limit` bytes of it including chunk framing. Bytes behind the
    /// content stay in `buffer`, with everything read and not forwarded.
    pub(super) async fn carry(
        &self,
        direction: Direction,
        buffer: &mut Vec<u8>,
        content: &mut Content,
        limit: u64,
    ) -> Result<(), CopyError> {
        let mut room = limit;
        loop {
            let taken = content.take(buffer).map_err(|error| CopyError::Source(SourceError::Bad(error)))?;
            let within = usize::try_from(room).unwrap_or(usize::MAX).min(taken);
            self.send(direction, &buffer[..within]).await.map_err(CopyError::Destination)?;
            if within < taken {
                return Err(CopyError::Source(SourceError::TooLong));
            }
            room -= within as u64;
            buffer.drain(..taken);
            if content.is_complete() {
                return Ok(());
            }
            buffer.reserve(PIECE_BYTES);
            match self.receive(direction, buffer).await {
                Ok(0) if *content == Content::UntilClose => return Ok(()),
                Ok(0) => return Err(CopyError::Source(SourceError::Ended)),
                Ok(_) => {}
                Err(error) => return Err(CopyError::Source(SourceError::Failed(error))),
            }
        }
    }

    /// Discards the client's bytes until its end. Unread bytes would block a client that writes
    /// everything before it reads, and would turn the close into a reset, discarding the bytes
    /// still to be sent (RFC 9112, 9.6).
    pub(super) async fn discard(&self) -> io::Result<()> {
        let mut scratch = Vec::with_capacity(PIECE_BYTES);
        while self.client.read_buf(&mut scratch).await? > 0 {
            scratch.clear();
        }
        Ok(())
    }

    /// Waits until the client has acknowledged everything sent to it.
    ///
    /// # Errors
    /// [`ErrorKind::ConnectionReset`] when it leaves before; [`ErrorKind::TimedOut`] at the
    /// deadline.
    pub(super) async fn delivered(&self) -> io::Result<()> {
        let mut pause = RECHECK.0;
        while !tcp::is_delivered(&self.client) {
            if tcp::progress(&self.client)?.closed {
                return Err(ErrorKind::ConnectionReset.into());
            }
            if Instant::now() >= self.deadline {
                return Err(ErrorKind::TimedOut.into());
            }
            sleep(pause).await;
            pause = (pause * 2).min(RECHECK.1);
        }
        Ok(())
    }

    async fn in_time<T>(&self, io: impl Future<Output = io::Result<T>>) -> io::Result<T> {
        timeout_at(self.deadline, io).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }
}

/// Sets whether closing the socket is a reset from here on, as a kill, the end of a drain or a
/// time-out closes it. A peer takes a clean end for the end of an answer that announces none, or
/// for one of its own making.
pub(super) fn reset_on_close(socket: SplitStream<'_>, resets: bool) {
    // Fails for a socket other than TCP.
    let _ = tcp::reset_on_close(&socket, resets);
}

/// Why content did not get through.
pub(super) enum CopyError {
    /// Its source failed.
    Source(SourceError),
    /// Its destination failed.
    Destination(io::Error),
}

/// The failed source of content.
pub(super) enum SourceError {
    /// It sent no content.
    Bad(BadContent),
    /// It sent more than is carried.
    TooLong,
    /// It ended before the content did.
    Ended,
    /// Its connection failed, or it was too late.
    Failed(io::Error),
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bad(error) => error.fmt(f),
            Self::TooLong => f.write_str("longer than the limit"),
            Self::Ended => f.write_str("closed before its end"),
            Self::Failed(error) if error.kind() == ErrorKind::TimedOut => {
                f.write_str("not complete within --handshake-timeout")
            }
            Self::Failed(error) => error.fmt(f),
        }
    }
}
