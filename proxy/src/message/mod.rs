//! Common parts of requests and answers (RFC 9112): the lines of a head, its hop-by-hop headers,
//! and the end of the content.

mod answer;
mod content;
mod foreign;
mod framing;
mod head;
mod headers;

pub use answer::{AnswerHead, MAX_INTERIM_ANSWERS, answer};
pub use content::{BadContent, Content};
pub use foreign::{Foreign, Opening, opening, opens_as_request};
pub use framing::{Framing, MAX_CONTENT_BYTES};
pub use head::{MAX_HEAD, MAX_HEADERS, known_minor_version, one_line_ending, phrase};
pub use headers::{VIA, all, append, append_forwarded, elements, elements_of, length};
