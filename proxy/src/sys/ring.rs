//! An io_uring for readiness: multishot polls in, their completions out.
//!
//! Bytes do not go through it. IORING_OP_SPLICE is always handed to a kernel worker thread
//! (`io_uring/splice.c`, `REQ_F_FORCE_ASYNC`), which costs more than the saved system call.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};
use rustix::io::Errno;

/// Requests per system call. Only new and leaving tunnels submit any.
const SUBMISSIONS: u32 = 256;

/// Completions held in memory; the kernel keeps further ones (`IORING_FEAT_NODROP`).
const COMPLETIONS: u32 = 4096;

/// Maximum of calls to process all submissions: one call may start the work completed by the next,
/// such as cancelling a poll about to report. Bounded, since peers may go on making work.
const ROUNDS: usize = 4;

/// Time of retries for a new ring while the user has no locked memory left: the kernel returns the
/// memory of a closed ring, as of a gateway just stopped, some milliseconds later.
const MEMORY: Duration = Duration::from_millis(500);

/// The key of completions of cancel requests, which are ignored.
const NOBODY: u64 = u64::MAX;

/// A completion of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The key passed at the start of the poll.
    pub key: u64,
    /// The poll(2) events of the descriptor, or the error that ended the poll.
    pub events: Result<u32, Errno>,
    /// More events will follow; otherwise the poll is over and has to be started again.
    pub more: bool,
}

/// A ring of one thread: created, used and dropped there.
pub struct Ring {
    ring: IoUring,
    enter: EnterFlags,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// Sets up a ring for the calling thread, with completions deferred to its own waits if the
    /// kernel can (6.1), otherwise without.
    ///
    /// # Errors
    /// The errors of io_uring_setup(2): EPERM by `kernel.io_uring_disabled` or a seccomp filter,
    /// ENOSYS by a filter or a kernel without io_uring, ENOMEM past RLIMIT_MEMLOCK; EOPNOTSUPP for
    /// a kernel older than 5.13 or one that loses completions.
    pub fn new() -> io::Result<Self> {
        let start = Instant::now();
        let ring = loop {
            match Self::set_up() {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOMEM) && start.elapsed() < MEMORY => {
                    std::thread::park_timeout(MEMORY / 50);
                }
                other => break other?,
            }
        };
        let params = ring.params();
        // Tagged resources came with 5.13, as did multishot polls, which have no feature flag.
        if !(params.is_feature_nodrop() && params.is_feature_ext_arg() && params.is_feature_resource_tagging()) {
            return Err(Errno::OPNOTSUPP.into());
        }
        // Waiting for a peer is not waiting for a disk: an idle gateway must not show up as I/O
        // wait.
        let enter = if params.is_feature_no_iowait() { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
        Ok(Self { ring, enter })
    }

    fn set_up() -> io::Result<IoUring> {
        match Self::deferring() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
                IoUring::builder().setup_cqsize(COMPLETIONS).setup_clamp().build(SUBMISSIONS)
            }
            other => other,
        }
    }

    fn deferring() -> io::Result<IoUring> {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        builder.setup_cqsize(COMPLETIONS).setup_clamp().build(SUBMISSIONS)
    }

    /// Polls a descriptor and reports its events under `key`: the present ones, and then each new
    /// one. Starts with the next wait or [`Ring::submit`]; the descriptor has to stay open until
    /// then. `key` is any number but the highest.
    ///
    /// # Errors
    /// The errors of io_uring_enter(2), if the queue is full and cannot be submitted.
    pub fn poll(&mut self, descriptor: &impl AsFd, events: u32, key: u64) -> io::Result<()> {
        let descriptor = Fd(descriptor.as_fd().as_raw_fd());
        self.push(&opcode::PollAdd::new(descriptor, events).multi(true).build().user_data(key))
    }

    /// Ends the poll of `key`, at the next wait or [`Ring::submit`]. Its last event may still
    /// arrive.
    ///
    /// Uses IORING_OP_ASYNC_CANCEL: IORING_OP_POLL_REMOVE spares a poll about to report (EALREADY;
    /// `io_uring/poll.c`, `io_poll_disarm`), and such a poll would never end.
    ///
    /// # Errors
    /// The errors of io_uring_enter(2), if the queue is full and cannot be submitted.
    pub fn cancel(&mut self, key: u64) -> io::Result<()> {
        self.push(&opcode::AsyncCancel::new(key).build().user_data(NOBODY))
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: the two operations used here hold no pointer, so nothing has to outlive them. The
        // descriptor of a poll is borrowed now and, as promised by its caller, open when submitted;
        // from then on the kernel holds the file itself. A descriptor closed in breach of the
        // promise causes an error or an event of another file, and touches no memory of this
        // process.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| Errno::BUSY.into())
    }

    /// Submits the queued requests, and lets the kernel run its deferred work, without waiting.
    ///
    /// # Errors
    /// The errors of io_uring_enter(2).
    pub fn submit(&mut self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            unless_soon(self.ring.submit())?;
            if !self.has_deferred() {
                break;
            }
        }
        Ok(())
    }

    /// Tests whether [`Ring::submit`] would do anything; takes no system call.
    #[must_use]
    pub fn has_deferred(&mut self) -> bool {
        let submissions = self.ring.submission();
        !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Submits the queued requests and waits for a completion, at most for `limit`.
    ///
    /// # Errors
    /// The errors of io_uring_enter(2), except for a signal or the end of the time.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.map(Timespec::from);
        let arguments = SubmitArgs::new();
        let arguments = match &limit {
            Some(limit) => arguments.timespec(limit),
            None => arguments,
        };
        unless_soon(self.ring.submitter().submit_with_args_and_flags(1, &arguments, self.enter))
    }

    /// Takes the next completion out of memory, except those of cancel requests.
    pub fn take(&mut self) -> Option<Polled> {
        loop {
            let completion = self.ring.completion().next()?;
            if completion.user_data() != NOBODY {
                return Some(polled(&completion));
            }
        }
    }
}

fn polled(completion: &cqueue::Entry) -> Polled {
    let result = completion.result();
    Polled {
        key: completion.user_data(),
        events: u32::try_from(result).map_err(|_| Errno::from_raw_os_error(-result)),
        more: cqueue::more(completion.flags()),
    }
}

/// Ignores results that only mean retry with the next call: the time is over, a signal came, or
/// completions have to be taken first.
fn unless_soon(result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    const IN: u32 = libc::POLLIN as u32;

    fn ring() -> Option<Ring> {
        match Ring::new() {
            Ok(ring) => Some(ring),
            // Only where the host refuses io_uring altogether, as a container may.
            Err(error) => {
                assert!(matches!(Errno::from_io_error(&error), Some(Errno::PERM | Errno::NOSYS)), "{error}");
                None
            }
        }
    }

    #[test]
    fn a_poll_reports_what_is_so_and_each_time_that_it_becomes_so_until_it_is_cancelled() {
        let Some(mut ring) = ring() else { return };
        let (one, mut two) = UnixStream::pair().unwrap();
        two.write_all(b"x").unwrap();
        ring.poll(&one, IN, 7).unwrap();
        for _ in 0..3 {
            ring.wait(Some(Duration::from_secs(20))).unwrap();
            assert_eq!(ring.take(), Some(Polled { key: 7, events: Ok(IN), more: true }));
            assert_eq!(ring.take(), None);
            two.write_all(b"x").unwrap();
        }
        ring.cancel(7).unwrap();
        ring.submit().unwrap();
        let last = std::iter::from_fn(|| ring.take()).last().unwrap();
        assert_eq!(last, Polled { key: 7, events: Err(Errno::CANCELED), more: false });
    }

    #[test]
    fn a_wait_ends_with_its_time_and_more_requests_than_fit_are_handed_over() {
        let Some(mut ring) = ring() else { return };
        ring.wait(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(ring.take(), None);
        let pairs: Vec<_> = (0..600).map(|_| UnixStream::pair().unwrap()).collect();
        for (key, (one, two)) in (0..).zip(&pairs) {
            ring.poll(one, IN, key).unwrap();
            (&*two).write_all(b"x").unwrap();
        }
        let mut keys = Vec::new();
        while keys.len() < pairs.len() {
            ring.wait(Some(Duration::from_secs(20))).unwrap();
            keys.extend(std::iter::from_fn(|| ring.take()).map(|polled| polled.key));
        }
        keys.sort_unstable();
        assert_eq!(keys, (0..600).collect::<Vec<_>>());
    }

    #[test]
    fn a_closed_descriptor_is_an_error_of_its_poll() {
        let Some(mut ring) = ring() else { return };
        let (one, _two) = UnixStream::pair().unwrap();
        // A number that no other thread gets meanwhile: the kernel assigns the lowest free one.
        let one = rustix::io::fcntl_dupfd_cloexec(&one, 900).unwrap();
        // A closed descriptor cannot be polled: the kernel reports this in the completion.
        ring.poll(&one, IN, 3).unwrap();
        drop(one);
        ring.wait(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(ring.take(), Some(Polled { key: 3, events: Err(Errno::BADF), more: false }));
    }
}
