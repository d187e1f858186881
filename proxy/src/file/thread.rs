//! The thread for file system calls.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::error::{ReadError, TIMEOUT};

/// Work for the thread, and its file.
type Job = (PathBuf, Box<dyn FnOnce() + Send>);

/// The file of the work in progress, and the start of that work.
type Busy = Arc<Mutex<Option<(PathBuf, Instant)>>>;

/// A thread with a queue of jobs, run one after the other.
#[derive(Debug)]
pub(super) struct Reader {
    jobs: Sender<Job>,
    busy: Busy,
    thread: JoinHandle<()>,
}

/// A requested job.
#[derive(Debug)]
pub(super) struct Request<T> {
    path: PathBuf,
    result: Receiver<T>,
    busy: Busy,
}

impl Reader {
    /// Starts the thread.
    ///
    /// # Errors
    /// The error of starting a thread.
    pub(super) fn start() -> io::Result<Self> {
        let (jobs, taken) = channel::<Job>();
        let busy = Busy::default();
        let shown = Arc::clone(&busy);
        let work = move || {
            for (path, work) in taken {
                set(&shown, Some((path, Instant::now())));
                // A panic ends the request, not the thread.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                set(&shown, None);
            }
        };
        let thread = Builder::new().name("files".into()).spawn(work)?;
        Ok(Self { jobs, busy, thread })
    }

    /// Runs `work`, about the file `path`, on the thread.
    ///
    /// # Errors
    /// The file that has blocked the thread for longer than [`TIMEOUT`].
    pub(super) fn request<T: Send + 'static>(
        &self,
        path: &Path,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Request<T>, ReadError> {
        self.request_after(path, TIMEOUT, work)
    }

    /// As [`Reader::request`], with another limit on the work in progress.
    pub(super) fn request_after<T: Send + 'static>(
        &self,
        path: &Path,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Request<T>, ReadError> {
        if let Some((stuck, _)) = get(&self.busy).filter(|(_, since)| since.elapsed() > limit) {
            return Err(ReadError::Stuck(stuck));
        }
        let (give, result) = channel();
        let work = move || {
            // A send without a receiver is no failure: the caller has stopped waiting.
            let _ = give.send(work());
        };
        let gone = |_| ReadError::Io(io::Error::other("the thread that reads files has ended"));
        self.jobs.send((path.to_owned(), Box::new(work))).map_err(gone)?;
        Ok(Request { path: path.to_owned(), result, busy: Arc::clone(&self.busy) })
    }

    /// Ends the thread, unless it is stuck, and joins it.
    pub(super) fn end(self) {
        let Self { jobs, busy, thread } = self;
        drop(jobs);
        if get(&busy).is_none() {
            let _ = thread.join();
        }
    }
}

impl<T> Request<T> {
    /// Waits for the result.
    ///
    /// # Errors
    /// [`ReadError::Stuck`] after `timeout`, with the file of the work in progress.
    pub(super) fn wait(self, timeout: Duration) -> Result<T, ReadError> {
        self.result.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => ReadError::Stuck(get(&self.busy).map_or(self.path, |(path, _)| path)),
            RecvTimeoutError::Disconnected => ReadError::Io(io::Error::other("reading the file panicked")),
        })
    }
}

fn set(busy: &Busy, now: Option<(PathBuf, Instant)>) {
    *busy.lock().unwrap_or_else(PoisonError::into_inner) = now;
}

fn get(busy: &Busy) -> Option<(PathBuf, Instant)> {
    busy.lock().unwrap_or_else(PoisonError::into_inner).clone()
}
