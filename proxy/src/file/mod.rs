//! Reading of files named by an operator, bounded in size and in time.
//!
//! A thread of its own makes the system calls, since stat(2), open(2) and read(2) on a network file
//! system that does not answer never return, not even for a signal. The caller waits for
//! [`TIMEOUT`] at most and gets an error with the name of the file. The thread is started once, so
//! a later look at a file needs no new thread.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

mod error;
mod thread;

pub use error::{ReadError, TIMEOUT};

use thread::Reader;

/// Largest configuration file, certificate chain, key or bundle of certificate authorities, in
/// bytes. The bundle of Debian has some 220 KiB.
pub const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Largest users file, in bytes: some 200,000 users.
pub const MAX_USERS_BYTES: u64 = 16 << 20;

/// The reader's thread, once it was needed.
static READER: Mutex<Option<Reader>> = Mutex::new(None);

/// Start-up is over: pipes were read once and cannot be read again.
static SERVING: AtomicBool = AtomicBool::new(false);

/// Reads a whole file of at most `limit` bytes. Only regular files are read, and until [`serving`]
/// pipes as well, as in `--config <(sops -d gateway.toml)`.
///
/// # Errors
/// The cause, within [`TIMEOUT`] and a moment.
pub fn read(path: &Path, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let own = path.to_owned();
    with_deadline(path, move || read_now(&own, limit, TIMEOUT))?
}

/// Returns the metadata of a file, through symbolic links.
///
/// # Errors
/// As [`read`].
pub fn metadata(path: &Path) -> Result<Metadata, ReadError> {
    let own = path.to_owned();
    Ok(with_deadline(path, move || std::fs::metadata(own))??)
}

/// Opens each file on a thread of its own, after `prepare` has taken privileges from that thread,
/// to learn whether the file can be read without them. Of a pipe only the metadata is read, since
/// its content cannot be read again.
///
/// # Errors
/// Those of `prepare`; no thread can be started; no answer within [`TIMEOUT`].
pub fn try_to_read(
    files: Vec<PathBuf>,
    prepare: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> io::Result<Vec<Result<(), ReadError>>> {
    let (sender, receiver) = mpsc::channel();
    let attempt = |file: &PathBuf| {
        if std::fs::metadata(file)?.is_file() {
            open(file)?;
        }
        Ok(())
    };
    let thread = std::thread::Builder::new().spawn(move || {
        let _ = sender.send(prepare().map(|()| files.iter().map(attempt).collect()));
    })?;
    let tried = receiver.recv_timeout(TIMEOUT).map_err(|_| io::ErrorKind::TimedOut)?;
    // Afterwards no thread is left that has other privileges than the rest.
    let _ = thread.join();
    tried
}

/// Runs `work`, which may block on the file system of `path`, on the reader's thread, and waits for
/// it.
///
/// # Errors
/// [`ReadError::Stuck`], also while the thread waits for another file; no thread can be started.
pub fn with_deadline<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ReadError> {
    let request = {
        let mut reader = reader();
        if reader.is_none() {
            *reader = Some(Reader::start()?);
        }
        reader.as_ref().expect("just started").request(path, work)?
    };
    // Longer than the wait for a pipe, whose error is more specific.
    request.wait(TIMEOUT + Duration::from_secs(1))
}

/// Ends start-up: starts the reader's thread again, with the current privileges of the calling
/// thread, and refuses pipes from now on.
///
/// # Errors
/// The error of starting a thread.
pub fn serving() -> io::Result<()> {
    SERVING.store(true, Ordering::Relaxed);
    let mut reader = reader();
    if let Some(old) = reader.take() {
        old.end();
    }
    *reader = Some(Reader::start()?);
    Ok(())
}

fn reader() -> MutexGuard<'static, Option<Reader>> {
    READER.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(path: &Path) -> io::Result<File> {
    // With these flags neither open(2) nor read(2) blocks on a FIFO, and no terminal becomes the
    // process's controlling one.
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
    let flags = i32::try_from(flags).expect("flags of open(2) fit an int");
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn read_now(path: &Path, limit: u64, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return read_regular(&file, metadata.len(), limit);
    }
    if metadata.file_type().is_fifo() && !SERVING.load(Ordering::Relaxed) {
        return read_pipe(file, limit, timeout);
    }
    Err(ReadError::Kind(kind(&metadata)))
}

fn read_regular(file: &File, size: u64, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    if size > limit {
        return Err(ReadError::TooLarge(limit));
    }
    // With room for all: growing would leave copies of passwords behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 64));
    file.take(limit + 1).read_to_end(&mut bytes)?;
    within(bytes, limit)
}

fn read_pipe(mut pipe: File, limit: u64, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    let deadline = Instant::now() + timeout;
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(limit).unwrap_or_default() + 64));
    let mut piece = Zeroizing::new([0; 4096]);
    while bytes.len() as u64 <= limit {
        match pipe.read(&mut piece[..]) {
            Ok(0) if bytes.is_empty() && had_writer(&pipe)? => return Err(ReadError::Empty),
            Ok(0) if bytes.is_empty() => wait_until_readable(&pipe, deadline)?,
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_until_readable(&pipe, deadline)?,
            Err(error) => return Err(error.into()),
        }
    }
    within(bytes, limit)
}

fn wait_until_readable(pipe: &File, deadline: Instant) -> Result<(), ReadError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(ReadError::Silent);
    }
    let left = Timespec::try_from(left).unwrap_or_default();
    match poll(&mut [PollFd::new(pipe, PollFlags::IN)], Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(ReadError::Io(error.into())),
    }
}

/// Tells if a writer has come and gone since the FIFO was opened here: otherwise one may still come
/// (`fs/pipe.c`, `pipe_poll`).
fn had_writer(pipe: &File) -> Result<bool, ReadError> {
    let mut polled = [PollFd::new(pipe, PollFlags::IN)];
    poll(&mut polled, Some(&Timespec::default())).map_err(io::Error::from)?;
    Ok(polled[0].revents().contains(PollFlags::HUP))
}

fn within(bytes: Zeroizing<Vec<u8>>, limit: u64) -> Result<Zeroizing<Vec<u8>>, ReadError> {
    if bytes.len() as u64 > limit { Err(ReadError::TooLarge(limit)) } else { Ok(bytes) }
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_char_device() || kind.is_block_device() => "a device",
        () if kind.is_socket() => "a socket",
        () => "something else",
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn error(path: &Path) -> String {
        read(path, 1 << 20).unwrap_err().invalid("do this").to_string()
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read_and_nothing_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), b"text").unwrap();
        assert_eq!(read(&at("file"), 4).unwrap().as_slice(), b"text");
        assert!(matches!(read(&at("file"), 3), Err(ReadError::TooLarge(3))));
        File::create(at("sparse")).unwrap().set_len(5 << 30).unwrap();
        assert_eq!(error(&at("sparse")), "cannot be read: larger than 1 MiB; name the right file, or make it smaller");
        assert!(error(folder.path()).contains("a directory, not a regular file; put a regular file there"));
        assert!(error(Path::new("/dev/zero")).contains("a device, not"));
        assert!(error(&at("none")).ends_with("No such file or directory (os error 2); do this"));
        let _listener = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        assert!(error(&at("socket")).starts_with("cannot be read: "));
        // Of no size to stat(2), and endless.
        assert!(matches!(read_now(Path::new("/proc/kallsyms"), 10, TIMEOUT), Err(ReadError::TooLarge(10))));
    }

    #[test]
    fn a_pipe_is_read_to_its_end_or_given_up() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let mut write = File::from(write);
        assert!(matches!(reopened(&read, TIMEOUT / 1000), Err(ReadError::Silent)));
        write.write_all(b"some").unwrap();
        let late = std::thread::spawn(move || write.write_all(b" bytes"));
        assert_eq!(reopened(&read, TIMEOUT).unwrap().as_slice(), b"some bytes");
        late.join().unwrap().unwrap();
        assert!(matches!(reopened(&read, TIMEOUT), Err(ReadError::Empty)));
    }

    /// As `mkfifo f; (sops -d gateway.toml > f) & sluicegate serve --config f` has it.
    #[test]
    fn a_fifo_may_be_opened_before_its_writer_comes() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        assert!(matches!(read_now(&fifo, 10, TIMEOUT / 1000), Err(ReadError::Silent)));
        for (written, expected) in [(&b"late"[..], Some(&b"late"[..])), (b"", None)] {
            let fifo = fifo.clone();
            let own = fifo.clone();
            // Opening it waits for the reader.
            let writer = std::thread::spawn(move || std::fs::write(own, written));
            let read = read_now(&fifo, 10, TIMEOUT);
            writer.join().unwrap().unwrap();
            assert_eq!(read.as_ref().ok().map(|bytes| bytes.as_slice()), expected, "{read:?}");
        }
    }

    /// Reads a pipe as `/dev/fd/N` does.
    fn reopened(pipe: &rustix::fd::OwnedFd, timeout: Duration) -> Result<Zeroizing<Vec<u8>>, ReadError> {
        use std::os::fd::AsRawFd;
        read_now(Path::new(&format!("/proc/self/fd/{}", pipe.as_raw_fd())), 1 << 10, timeout)
    }

    #[test]
    fn a_file_system_that_does_not_answer_is_named_and_holds_up_only_its_reader() {
        let reader = Reader::start().unwrap();
        let (release, released) = mpsc::channel::<()>();
        let hung = reader.request(Path::new("/hung/users"), move || released.recv()).unwrap();
        let behind = reader.request(Path::new("/etc/other"), || 1).unwrap();
        for request in [hung.wait(Duration::from_millis(10)).err(), behind.wait(Duration::from_millis(10)).err()] {
            assert!(request.unwrap().to_string().contains("the file system of /hung/users has not answered"));
        }
        // Nothing is queued behind it any more.
        let refused = reader.request_after(Path::new("/etc/other"), Duration::ZERO, || 1).err().unwrap();
        assert!(matches!(refused, ReadError::Stuck(path) if path == Path::new("/hung/users")));
        drop(release);
        let deadline = Instant::now() + Duration::from_secs(30);
        let answer = loop {
            let answer = reader.request(Path::new("/etc/other"), || 2).and_then(|request| request.wait(TIMEOUT));
            if answer.is_ok() || Instant::now() > deadline {
                break answer;
            }
        };
        assert_eq!(answer.unwrap(), 2);
        reader.end();
    }
}
