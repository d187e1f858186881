//! One side of a TLS connection: encrypted bytes on the socket, plain bytes for the caller.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection};

use super::failure::{broken, once_more, truncated, words};
use super::suites;

/// Bytes read from a socket at once.
const READ_BYTES: usize = 64 << 10;

/// Bytes read from a socket at once during the handshake; other bytes may follow the handshake.
const HANDSHAKE_READ_BYTES: usize = 4 << 10;

/// Largest record, in bytes (RFC 8446, 5.1).
pub(super) const MAX_RECORD_BYTES: usize = 16 << 10;

/// Upper limit of the records without user data: of the handshake and of the end.
pub(super) const RESERVED_RECORDS: u64 = 16;

/// One side of a TLS connection over a non-blocking socket owned by the caller. Two tasks may use
/// it at once, one to read and one to write.
///
/// Each call takes the socket to read from or write to, and never waits: an operation that would
/// block returns [`ErrorKind::WouldBlock`], like the socket itself.
pub struct Session(Mutex<State>);

struct State {
    connection: Connection,
    /// Decrypted bytes not yet read.
    plain: usize,
    /// Bytes have been received.
    began: bool,
    /// Error that ended reading.
    failed: Option<io::Error>,
    /// Encrypted records that carry bytes of this side.
    records: u64,
}

impl Session {
    /// Creates the server side of a session.
    ///
    /// # Errors
    /// rustls's error for an unusable configuration.
    pub fn server(config: Arc<ServerConfig>) -> io::Result<Self> {
        Ok(Self::of(ServerConnection::new(config).map_err(io::Error::other)?.into()))
    }

    /// Creates the client side of a session, with a server that must present a certificate for
    /// `name`.
    ///
    /// # Errors
    /// rustls's error for an unusable configuration.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        Ok(Self::of(ClientConnection::new(config, name).map_err(io::Error::other)?.into()))
    }

    fn of(connection: Connection) -> Self {
        Self(Mutex::new(State { connection, plain: 0, began: false, failed: None, records: 0 }))
    }

    /// Returns true once the handshake is complete.
    #[must_use]
    pub fn is_established(&self) -> bool {
        !self.lock().connection.is_handshaking()
    }

    /// Returns the protocol version, or `TLS` while it is not negotiated.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match self.lock().connection.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLS",
        }
    }

    /// Returns true if a read returns bytes or the end without the socket.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let mut state = self.lock();
        state.plain > 0 || state.failed.is_some() || state.is_closed()
    }

    /// Returns true while [`Session::flush`] has bytes to write.
    #[must_use]
    pub fn wants_write(&self) -> bool {
        self.lock().connection.wants_write()
    }

    /// Takes in bytes read before the connection was known to be TLS.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn take_in(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock();
        while !bytes.is_empty() && state.feed(&mut bytes)? > 0 {}
        Ok(())
    }

    /// Advances the handshake with the bytes available on the socket; the caller must flush the
    /// reply.
    ///
    /// # Errors
    /// As [`Session::read`]; a plain [`ErrorKind::UnexpectedEof`] if nothing has come at all.
    pub fn advance(&self, socket: &mut impl Read) -> io::Result<()> {
        // rustls buffers all bytes behind the handshake within this size.
        let mut piece = [0; HANDSHAKE_READ_BYTES];
        match socket.read(&mut piece)? {
            0 if !self.lock().began => Err(ErrorKind::UnexpectedEof.into()),
            0 => Err(broken("ended during the handshake")),
            bytes => self.take_in(&piece[..bytes]),
        }
    }

    /// Reads into `out` as much as is available; 0 is the peer's announced end (close_notify).
    ///
    /// # Errors
    /// The socket's errors. [`ErrorKind::ConnectionReset`], with rustls's message, for bytes that
    /// are not TLS, records not sent by the peer, or an unannounced end, since a third party may
    /// have cut the stream (RFC 8446, 6.1). An alert may then be left to flush.
    pub fn read(&self, socket: &mut impl Read, out: &mut [u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let mut filled = state.drain(out)?;
        let mut piece = [0; READ_BYTES];
        while filled < out.len() && state.failed.is_none() && !state.is_closed() {
            // At most the room in `out`: the rest is less than a record, and rustls keeps it.
            let room = piece.len().min(out.len() - filled);
            let mut bytes = match socket.read(&mut piece[..room]) {
                Ok(0) => {
                    state.failed = Some(truncated());
                    break;
                }
                Ok(bytes) => &piece[..bytes],
                Err(error) if error.kind() == ErrorKind::WouldBlock && filled > 0 => break,
                // The kernel reports the error once; the bytes read before it must still be
                // delivered.
                Err(error) if filled > 0 => {
                    state.failed = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            };
            while !bytes.is_empty() && state.feed(&mut bytes).is_ok_and(|taken| taken > 0) {
                filled += state.drain(&mut out[filled..])?;
            }
        }
        match &state.failed {
            // The bytes before the error are sound.
            Some(error) if filled == 0 => Err(once_more(error)),
            _ => Ok(filled),
        }
    }

    /// Reads into the spare capacity of `buffer`. Nothing else is left there, whatever the result:
    /// a caller waiting for more may be dropped.
    ///
    /// # Errors
    /// As [`Session::read`].
    pub fn read_buf(&self, socket: &mut impl Read, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let start = buffer.len();
        buffer.resize(buffer.capacity(), 0);
        let read = self.read(socket, &mut buffer[start..]);
        buffer.truncate(start + read.as_ref().map_or(0, |read| *read));
        read
    }

    /// Checks if the peer has ended its stream with nothing left to read before the end. Takes in
    /// available bytes for the check, unless decrypted bytes are already waiting.
    ///
    /// # Errors
    /// The socket's errors.
    pub fn has_ended(&self, socket: &mut impl Read) -> io::Result<bool> {
        let mut state = self.lock();
        let mut piece = [0; HANDSHAKE_READ_BYTES];
        loop {
            if state.plain > 0 {
                return Ok(false);
            }
            if state.failed.is_some() || state.is_closed() {
                return Ok(true);
            }
            let mut bytes = match socket.read(&mut piece) {
                Ok(0) => {
                    state.failed = Some(truncated());
                    return Ok(true);
                }
                Ok(bytes) => &piece[..bytes],
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            };
            while !bytes.is_empty() && state.feed(&mut bytes).is_ok_and(|taken| taken > 0) {}
        }
    }

    /// Encrypts as much of `bytes` as there is room for; [`Session::flush`] sends it.
    ///
    /// # Errors
    /// rustls's errors, and an error when the keys of TLS 1.2 are used up: rustls would then
    /// announce a false end.
    pub fn put(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.lock();
        let last = state.connection.negotiated_cipher_suite().map_or(u64::MAX, suites::last_record);
        if state.records.saturating_add(bytes.len().div_ceil(MAX_RECORD_BYTES) as u64 + RESERVED_RECORDS) > last {
            return Err(io::Error::other("TLS 1.2: its keys are used up; TLS 1.3 gets new ones"));
        }
        let put = state.connection.writer().write(bytes)?;
        state.records += put.div_ceil(MAX_RECORD_BYTES) as u64;
        Ok(put)
    }

    /// Writes the encrypted bytes.
    ///
    /// # Errors
    /// The socket's errors; [`ErrorKind::WouldBlock`] until everything is written.
    pub fn flush(&self, socket: &mut impl Write) -> io::Result<()> {
        let mut state = self.lock();
        while state.connection.wants_write() {
            state.connection.write_tls(socket)?;
        }
        Ok(())
    }

    /// Announces the end of this side's stream; the caller must flush.
    pub fn close(&self) {
        self.lock().connection.send_close_notify();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes in some of `bytes`; nothing behind the peer's announced end.
    fn feed(&mut self, bytes: &mut &[u8]) -> io::Result<usize> {
        self.began = true;
        let taken = self.connection.read_tls(bytes)?;
        match self.connection.process_new_packets() {
            Ok(state) => self.plain = state.plaintext_bytes_to_read(),
            Err(error) => {
                let error = self.failed.insert(broken(&words(&error)));
                return Err(once_more(error));
            }
        }
        Ok(taken)
    }

    fn drain(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while self.plain > 0 && filled < out.len() {
            let bytes = self.connection.reader().read(&mut out[filled..])?;
            self.plain = self.plain.saturating_sub(bytes);
            filled += bytes;
        }
        Ok(filled)
    }

    /// Returns true once the peer has announced the end of its stream and everything before it was
    /// read.
    fn is_closed(&mut self) -> bool {
        self.plain == 0 && matches!(self.connection.reader().read(&mut [0]), Ok(0))
    }
}

impl fmt::Debug for Session {
    /// Shows nothing of the content.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}
