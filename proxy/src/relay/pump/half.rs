//! One direction of a tunnel: the bytes that were read and not sent yet, and how far its stream is.

use crate::relay::pipes::Pipes;
use crate::sys::pipe::Pipe;

/// Progress of the stream of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// The end was not read yet.
    Open,
    /// The end was read. It is passed on as soon as all bytes before it are.
    EndRead,
    /// The end was passed on.
    Finished,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Half {
    pub(super) life: Life,
    /// Bytes from after the head that are not sent yet; they go before everything else.
    pub(super) prefix: Vec<u8>,
    pub(super) pipe: Option<Pipe>,
    /// Bytes in the pipe.
    pub(super) held: usize,
    /// The last attempt to borrow a pipe failed.
    pub(super) no_pipe: bool,
}

impl Half {
    pub(super) const fn new(prefix: Vec<u8>) -> Self {
        Self { life: Life::Open, prefix, pipe: None, held: 0, no_pipe: false }
    }

    /// Tests whether there are bytes that were read and not sent.
    pub(super) const fn is_under_way(&self) -> bool {
        self.held > 0 || !self.prefix.is_empty()
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            Pipes::close(pipe);
        }
    }
}
