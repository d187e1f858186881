//! Pipes as the buffer between two sockets, and the system calls moving bytes through them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};

/// Preferred size of a pipe, in bytes: 256 KiB costs a quarter of the throughput of four tunnels,
/// and 4 MiB gains nothing. Also the default of `/proc/sys/fs/pipe-max-size`, open to any user.
pub const WANTED_CAPACITY: usize = 1 << 20;

/// Minimum useful size of a pipe, in bytes. A smaller pipe means its owner's pages are used up
/// (`pipe-user-pages-soft`, pipe(7)), and each system call would move two pages.
const LEAST_CAPACITY: usize = 64 << 10;

/// A non-blocking pipe for bytes on their way from one socket to another.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    capacity: usize,
}

impl Pipe {
    /// Creates a pipe as large as the host's budget allows, up to [`WANTED_CAPACITY`].
    ///
    /// # Errors
    /// EMFILE or ENFILE if descriptors are used up, or the user's pages exceed
    /// `pipe-user-pages-hard`.
    pub fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        let mut size = WANTED_CAPACITY;
        // EPERM above the user's budget or the maximum: halve the size, until the present size is
        // no smaller.
        while fcntl_getpipe_size(&write)? < size && fcntl_setpipe_size(&write, size).is_err() {
            size /= 2;
        }
        let capacity = fcntl_getpipe_size(&write)?;
        Ok(Self { read, write, capacity })
    }

    /// The write end. Its number is the higher one: it is created last.
    #[must_use]
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// Capacity in bytes if every page is full. Small writes take a page each, so fewer bytes may
    /// fit.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Creates a pipe large enough to be useful.
    ///
    /// # Errors
    /// The errors of [`Pipe::new`], and `QuotaExceeded` for a pipe below [`LEAST_CAPACITY`].
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

    /// Moves up to `most` received bytes from the socket `from` into the pipe; `Ok(0)` is the end
    /// of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if the socket is empty or the pipe is full; otherwise the socket's error,
    /// reported only after all bytes received before it.
    pub fn fill(&self, from: &impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(from, None, &self.write, None, most.min(self.capacity), SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    /// Copies bytes into the pipe, as many as it has room for.
    ///
    /// # Errors
    /// The error of write(2), except for a full pipe: `Ok(0)`.
    pub fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.write, bytes) {
            Err(rustix::io::Errno::AGAIN) => Ok(0),
            written => Ok(written?),
        }
    }

    /// Moves up to `length` bytes from the pipe to `to`. `to` must be a non-blocking socket: the
    /// kernel checks the socket's own flag, not the call's (`fs/splice.c`, `splice_to_socket`).
    ///
    /// # Errors
    /// `WouldBlock` if the send buffer is full; otherwise the socket's error. The pipe keeps all
    /// bytes not moved.
    pub fn drain(&self, to: &impl AsFd, length: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, to, None, length, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }
}
