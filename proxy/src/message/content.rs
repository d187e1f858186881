//! The end of the content of a message (RFC 9112, 6 and 7.1).
//!
//! The bytes themselves are passed on as they are, so every reader has to find one end in them: any
//! form the grammar leaves open to readers (a lone LF, signs, a size beyond 64 bits) is refused.

use std::fmt;

/// The longest line of a chunk's size with its extensions, and of all trailers together, in bytes.
const MAX_LINES: usize = 4096;

/// The content after a head, as far as it has not been taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A length in bytes.
    Length(u64),
    /// Chunks (RFC 9112, 7.1).
    Chunked(Chunks),
    /// Everything until the sender closes (RFC 9112, 6.3).
    UntilClose,
}

/// Malformed chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadContent(&'static str);

impl fmt::Display for BadContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for BadContent {}

/// Position in the chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    at: At,
    /// Bytes of the line, or of the trailers, so far.
    line: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// In the size, after some digits or none yet.
    Size {
        size: u64,
        digits: bool,
    },
    /// In the extensions after it.
    Extension {
        size: u64,
    },
    /// Behind the CR of the size line.
    SizeLine {
        size: u64,
    },
    /// Bytes left of the chunk's data.
    Data(u64),
    /// Before the CR, then before the LF, after it.
    DataCr,
    DataLf,
    /// At the beginning of a line of the trailers, within one, and before its LF.
    Trailers,
    Trailer,
    TrailerLf,
    /// Before the last LF.
    EndLf,
    End,
}

impl Content {
    /// No content.
    pub const NONE: Self = Self::Length(0);

    /// Chunked content, nothing read yet.
    #[must_use]
    pub const fn chunked() -> Self {
        Self::Chunked(Chunks { at: At::Size { size: 0, digits: false }, line: 0 })
    }

    /// All of it has been taken.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => matches!(chunks.at, At::End),
            Self::UntilClose => false,
        }
    }

    /// Returns the number of the next `bytes` within the content: all of them unless it ends
    /// before.
    ///
    /// # Errors
    /// The bytes are no chunks.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BadContent> {
        match self {
            Self::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::UntilClose => Ok(bytes.len()),
        }
    }
}

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, BadContent> {
        let mut at = 0;
        while at < bytes.len() && self.at != At::End {
            if let At::Data(left) = self.at {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                at += taken;
                let left = left - taken as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data(left) };
            } else {
                self.at = self.step(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Advances by one byte outside the data.
    fn step(&mut self, byte: u8) -> Result<At, BadContent> {
        self.line += 1;
        if self.line > MAX_LINES {
            return Err(BadContent("the chunk line or the trailers are too long"));
        }
        Ok(match (self.at, byte) {
            (At::Size { size, .. }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                let size = size.checked_mul(16).ok_or(BadContent("the chunk size exceeds 64 bits"))?;
                At::Size { size: size | u64::from(digit), digits: true }
            }
            (At::Size { size, digits: true }, b';') => At::Extension { size },
            (At::Size { size, digits: true } | At::Extension { size }, b'\r') => At::SizeLine { size },
            (At::Extension { size }, byte) if is_text(byte) => At::Extension { size },
            (At::SizeLine { size }, b'\n') => {
                self.line = 0;
                if size == 0 { At::Trailers } else { At::Data(size) }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                self.line = 0;
                At::Size { size: 0, digits: false }
            }
            (At::Trailers, b'\r') => At::EndLf,
            (At::Trailers | At::Trailer, byte) if is_text(byte) => At::Trailer,
            (At::Trailer, b'\r') => At::TrailerLf,
            (At::TrailerLf, b'\n') => At::Trailers,
            (At::EndLf, b'\n') => At::End,
            (At::DataCr | At::DataLf, _) => return Err(BadContent("a chunk exceeds its size")),
            _ => return Err(BadContent("invalid chunk line")),
        })
    }
}

/// Accepts visible characters, white space within a line, and the bytes of UTF-8.
const fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns the length of the chunks in `bytes`, cut into pieces of `piece` bytes.
    fn taken(bytes: &[u8], piece: usize) -> Result<(usize, bool), BadContent> {
        let mut content = Content::chunked();
        let mut taken = 0;
        for piece in bytes.chunks(piece) {
            let more = content.take(piece)?;
            taken += more;
            if more < piece.len() {
                break;
            }
        }
        Ok((taken, content.is_complete()))
    }

    #[test]
    fn chunks_end_where_they_end() {
        for whole in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n00;x=y\r\nTrailer: 1\r\nOther: 2\r\n\r\n",
            "1;a=\"b;c\";d\r\n\r\r\n000\r\n\r\n",
            "2\r\n\r\n\r\n0\r\n\r\n",
        ] {
            let bytes = [whole.as_bytes(), b"GET / HTTP/1.1\r\n\r\n"].concat();
            for piece in 1..=bytes.len() {
                assert_eq!(taken(&bytes, piece), Ok((whole.len(), true)), "{whole:?} by {piece}");
            }
            for short in 0..whole.len() {
                assert_eq!(taken(&bytes[..short], 3), Ok((short, false)), "{whole:?} to {short}");
            }
        }
    }

    #[test]
    fn what_readers_could_differ_about_is_refused() {
        for bytes in [
            "\r\n",
            " 5\r\n",
            "+5\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5 \r\n",
            "5\nhello",
            "5\rhello",
            ";\r\n",
            "g\r\n",
            "5;a\nhello",
            "5;a\0\r\n",
            "5\r\nhello!\r\n",
            "5\r\nhello\n",
            "5\r\nhello\r5",
            "10000000000000000\r\n",
            "0\r\n\n",
            "0\r\nA: b\n",
            "0\r\n\rx",
            "0\r\nA: \0\r\n",
        ] {
            assert!(taken(bytes.as_bytes(), 2).is_err(), "{bytes:?}");
        }
        let long = [b"5;".to_vec(), vec![b'a'; MAX_LINES]].concat();
        assert!(taken(&long, long.len()).is_err());
        let long = [b"0\r\n".to_vec(), b"A: b\r\n".repeat(MAX_LINES / 6 + 1)].concat();
        assert!(taken(&long, long.len()).is_err());
        assert_eq!(taken(b"ffffffffffffffff\r\nabc", 1), Ok((21, false)));
    }

    #[test]
    fn a_length_is_a_length() {
        let mut content = Content::Length(5);
        assert_eq!((content.take(b"abc"), content.is_complete()), (Ok(3), false));
        assert_eq!((content.take(b"defg"), content.is_complete()), (Ok(2), true));
        let mut none = Content::NONE;
        assert_eq!((none.take(b"a"), none.is_complete()), (Ok(0), true));
        assert_eq!((Content::UntilClose.take(b"abc"), Content::UntilClose.is_complete()), (Ok(3), false));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_chunks_are_cut(
            bytes in proptest::collection::vec(proptest::sample::select(b"05aF;\r\n x:".to_vec()), 0..40), piece in 1..8_usize,
        ) {
            prop_assert_eq!(taken(&bytes, piece), taken(&bytes, bytes.len().max(1)));
        }
    }
}
