//! Random bytes reproducible at both ends: the receiver compares every byte and reports the offset
//! of the first wrong one, which a hash cannot.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

/// Bytes generated, sent or compared at a time, 256 KiB.
const BLOCK: usize = 256 << 10;

/// A stream of random bytes, determined by its seed (xorshift64, Marsaglia 2003).
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    state: u64,
    rest: [u8; 8],
    left: usize,
}

/// End of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By FIN.
    Clean,
    /// By a reset.
    Reset,
}

impl Noise {
    pub(crate) const fn new(seed: u64) -> Self {
        // Close seeds give close first numbers, and zero is the one state xorshift never leaves.
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, rest: [0; 8], left: 0 }
    }

    /// The next random number.
    pub(crate) const fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// A number below `limit`.
    pub(crate) const fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    /// Fills `bytes` with the next bytes of the stream; the split into calls makes no difference.
    pub(crate) fn fill(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                let whole = bytes.len() / 8 * 8;
                let (numbers, tail) = bytes.split_at_mut(whole);
                for number in numbers.chunks_exact_mut(8) {
                    number.copy_from_slice(&self.next().to_le_bytes());
                }
                bytes = tail;
                if bytes.is_empty() {
                    return;
                }
                (self.rest, self.left) = (self.next().to_le_bytes(), 8);
            }
            let taken = self.left.min(bytes.len());
            bytes[..taken].copy_from_slice(&self.rest[8 - self.left..][..taken]);
            self.left -= taken;
            bytes = &mut bytes[taken..];
        }
    }

    /// The next `length` bytes of the stream.
    pub(crate) fn take(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(&mut bytes);
        bytes
    }

    /// Sends `length` bytes and returns the number sent before the stream broke.
    pub(crate) fn send(&mut self, mut to: &TcpStream, length: usize) -> usize {
        let mut block = vec![0; BLOCK.min(length)];
        let mut sent = 0;
        while sent < length {
            let next = block.len().min(length - sent);
            self.fill(&mut block[..next]);
            let mut of_block = 0;
            while of_block < next {
                match to.write(&block[of_block..next]) {
                    Ok(bytes) => of_block += bytes,
                    Err(error) if is_reset(&error) => return sent + of_block,
                    Err(error) => panic!("after {} bytes sent: {error}", sent + of_block),
                }
            }
            sent += next;
        }
        sent
    }

    /// Sends until the socket would block and returns the number of bytes sent.
    pub(crate) fn send_what_fits(&mut self, mut to: &TcpStream) -> usize {
        to.set_nonblocking(true).expect("an open stream");
        let mut sent = 0;
        loop {
            let before = self.clone();
            let block = self.take(64 << 10);
            let result = to.write(&block);
            // Unsent bytes must be generated again.
            *self = before;
            match result {
                Ok(bytes) => {
                    self.take(bytes);
                    sent += bytes;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    to.set_nonblocking(false).expect("an open stream");
                    return sent;
                }
            }
        }
    }

    /// Reads `from` to its end and compares; returns the number of bytes, all correct, and the end.
    pub(crate) fn expect(&mut self, from: &TcpStream) -> (usize, End) {
        let mut got = 0;
        loop {
            match self.expect_some(from, BLOCK, got) {
                Ok(0) => return (got, End::Clean),
                Ok(bytes) => got += bytes,
                Err(error) if is_reset(&error) => return (got, End::Reset),
                Err(error) => panic!("after {got} bytes received: {error}"),
            }
        }
    }

    /// Reads exactly `length` bytes and compares them.
    pub(crate) fn expect_exactly(&mut self, from: &TcpStream, length: usize) {
        let mut got = 0;
        while got < length {
            match self.expect_some(from, BLOCK.min(length - got), got) {
                Ok(0) => panic!("the stream ended after {got} of {length} bytes"),
                Ok(bytes) => got += bytes,
                Err(error) => panic!("after {got} of {length} bytes: {error}"),
            }
        }
    }

    fn expect_some(&mut self, mut from: &TcpStream, most: usize, offset: usize) -> std::io::Result<usize> {
        let mut bytes = vec![0; most];
        let got = from.read(&mut bytes)?;
        let right = self.take(got);
        if bytes[..got] != right {
            let wrong = bytes.iter().zip(&right).position(|(one, other)| one != other).unwrap_or(0);
            panic!("the stream is another one from byte {} on", offset + wrong);
        }
        Ok(got)
    }
}

fn is_reset(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
