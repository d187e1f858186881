//! Pipes as the buffer between two sockets, and the system calls that move bytes through them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

/// The size that a pipe should have: 256 KiB costs a quarter of the throughput of four tunnels, and
/// 4 MiB gains nothing. It is also what `/proc/sys/fs/pipe-max-size` allows anybody by default.
pub const WANTED_CAPACITY: usize = 1 << 20;

/// Below this a pipe is not worth having: its owner's pages are used up (`pipe-user-pages-soft`,
/// pipe(7)) and each system call would move two pages.
const LEAST_CAPACITY: usize = 64 << 10;

/// A non-blocking pipe that holds bytes on their way from one socket to another.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl Pipe {
    /// Makes a pipe as large as the host's budget allows, up to [`WANTED_CAPACITY`].
    ///
    /// # Errors
    /// EMFILE or ENFILE when descriptors are used up, also when the user's pages are past
    /// `pipe-user-pages-hard`.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let mut size = WANTED_CAPACITY;
        // EPERM above the user's budget or the maximum: take the half, until what it has is no less.
        while fcntl_getpipe_size(&write)? < size && fcntl_setpipe_size(&write, size).is_err() {
            size /= 2;
        }
        let capacity = fcntl_getpipe_size(&write)?;
        Ok(Self { read, write, capacity })
    }

    /// The end that bytes go in by, whose number is the higher one: it was made last.
    #[must_use]
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// Bytes that fit when every page is full. Small writes take a page each, so that less may fit.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Makes one that is worth having.
    ///
    /// # Errors
    /// Those of [`Pipe::new`], and `QuotaExceeded` for one below [`LEAST_CAPACITY`].
    pub fn worthwhile() -> io::Result<Self> {
        let pipe = Self::new()?;
        if pipe.capacity < LEAST_CAPACITY { Err(pipe.too_small()) } else { Ok(pipe) }
    }

    fn too_small(&self) -> io::Error {
        let held = self.capacity >> 10;
        let remedy = "raise fs.pipe-user-pages-soft or give the gateway CAP_SYS_RESOURCE";
        let said = format!("a pipe of {held} KiB is all that the user's pipe budget leaves: {remedy}");
        io::Error::new(io::ErrorKind::QuotaExceeded, said)
    }

    /// Moves up to `most` bytes of what `from` has received into the pipe; `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there or the pipe is full; otherwise the socket's error, which
    /// comes only after the bytes that were received before it.
    pub fn fill(&self, from: &impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(from, None, &self.write, None, most.min(self.capacity), SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    /// Copies bytes into the pipe, as many as it has room for.
    ///
    /// # Errors
    /// That of write(2), but for a pipe that is full, which takes none.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.write, bytes) {
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            written => Ok(written?),
        }
    }

    /// Moves up to `length` bytes out of the pipe to `to`, which must be a non-blocking socket: the
    /// kernel looks at the socket's own flag, not at the call's (`fs/splice.c`, `splice_to_socket`).
    ///
    /// # Errors
    /// `WouldBlock` when the send buffer is full; otherwise the socket's error. The pipe keeps what
    /// was not moved.
    pub fn drain(&self, to: &impl AsFd, length: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, to, None, length, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }
}
