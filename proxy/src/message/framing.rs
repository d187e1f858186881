//! Framing of content: by length, by chunks, or not at all.

use super::content::Content;
use super::headers::append;

/// The most bytes of content after a request to switch protocols, chunk framing included. Clients
/// send none, or a few kilobytes; larger content belongs in a tunnel.
pub const MAX_CONTENT_BYTES: u64 = 1 << 20;

/// Framing of a message's content (RFC 9112, 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Not at all.
    Unsaid,
    /// By its length in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
}

impl Framing {
    /// Appends the header of this framing.
    pub fn append(self, to: &mut Vec<u8>) {
        match self {
            Self::Unsaid => {}
            Self::Length(length) => append(to, "Content-Length", length.to_string().as_bytes()),
            Self::Chunked => append(to, "Transfer-Encoding", b"chunked"),
        }
    }

    /// Returns the content; `unsaid` is the content without a framing header.
    #[must_use]
    pub const fn content(self, unsaid: Content) -> Content {
        match self {
            Self::Unsaid => unsaid,
            Self::Length(length) => Content::Length(length),
            Self::Chunked => Content::chunked(),
        }
    }
}
