//! An io_uring that reports readiness: multishot polls in, their completions out.
//!
//! Bytes do not go through it. IORING_OP_SPLICE is always handed to a kernel worker thread
//! (`io_uring/splice.c`, `REQ_F_FORCE_ASYNC`), which costs more than the system call that it saves.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode};
use rustix::io::Errno;

/// Requests that one system call takes along. Only new and leaving tunnels make any.
const SUBMISSIONS: u32 = 256;

/// Completions that wait in memory; the kernel keeps what is beyond (`IORING_FEAT_NODROP`).
const COMPLETIONS: u32 = 4096;

/// Calls in which what was handed over is through: one may begin what the next one completes, as the
/// cancelling of a poll that is about to report. Bounded, since peers may go on making work.
const ROUNDS: usize = 4;

/// How long a new ring is tried for that the user has no locked memory left for: the kernel gives back that of a
/// ring that is closed, as of a gateway that was just stopped, some milliseconds later.
const MEMORY: Duration = Duration::from_millis(500);

/// The key of what cancelling itself completes with, which nobody waits for.
const NOBODY: u64 = u64::MAX;

/// What was reported of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The key that the poll was started with.
    pub key: u64,
    /// The poll(2) events of the descriptor, or why it is no longer polled.
    pub events: Result<u32, Errno>,
    /// More will be reported; otherwise the poll is over and has to be started again.
    pub more: bool,
}

/// A ring of one thread: it is made, used and dropped there.
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
    /// Sets a ring up for the calling thread, with completions deferred to its own waiting where the
    /// kernel can (6.1), and otherwise as it comes.
    ///
    /// # Errors
    /// Those of io_uring_setup(2): EPERM where `kernel.io_uring_disabled` or a seccomp filter refuses,
    /// ENOSYS where a filter or the kernel has none, ENOMEM past RLIMIT_MEMLOCK; EOPNOTSUPP for a
    /// kernel that is older than 5.13 or loses completions.
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
        // Tagged resources came with 5.13, as multishot polls did, which have no flag of their own.
        if !(params.is_feature_nodrop() && params.is_feature_ext_arg() && params.is_feature_resource_tagging()) {
            return Err(Errno::OPNOTSUPP.into());
        }
        // Waiting for a peer is no waiting for a disk: an idle gateway must not look like one.
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

    /// Has the events of a descriptor reported under `key`: those that it has now, and then each time
    /// that one of them occurs again. It begins with the next wait or [`Ring::submit`], until which the
    /// descriptor has to stay open. `key` is any number but the highest.
    ///
    /// # Errors
    /// Those of io_uring_enter(2), when the queue is full and cannot be handed over.
    pub fn poll(&mut self, descriptor: &impl AsFd, events: u32, key: u64) -> io::Result<()> {
        let descriptor = Fd(descriptor.as_fd().as_raw_fd());
        self.push(&opcode::PollAdd::new(descriptor, events).multi(true).build().user_data(key))
    }

    /// Ends the poll of `key`, from the next wait or [`Ring::submit`] on. Its last report may still come.
    ///
    /// By IORING_OP_ASYNC_CANCEL: IORING_OP_POLL_REMOVE leaves a poll alone that is about to report
    /// (EALREADY; `io_uring/poll.c`, `io_poll_disarm`), and nobody would ever end that one.
    ///
    /// # Errors
    /// Those of io_uring_enter(2), when the queue is full and cannot be handed over.
    pub fn cancel(&mut self, key: u64) -> io::Result<()> {
        self.push(&opcode::AsyncCancel::new(key).build().user_data(NOBODY))
    }

    fn push(&mut self, entry: &Entry) -> io::Result<()> {
        if self.ring.submission().is_full() {
            self.submit()?;
        }
        // SAFETY: the two operations that get here hold no pointer, so nothing has to outlive them. The
        // descriptor of a poll is borrowed now and, as its caller promises, open when it is submitted;
        // from then on the kernel holds the file itself. A descriptor that was closed against that
        // promise makes an error or a report about another file, and touches no memory of this process.
        unsafe { self.ring.submission().push(entry) }.map_err(|_| Errno::BUSY.into())
    }

    /// Hands over what was asked for so far, and lets the kernel do what it has deferred, without waiting.
    ///
    /// # Errors
    /// Those of io_uring_enter(2).
    pub fn submit(&mut self) -> io::Result<()> {
        for _ in 0..ROUNDS {
            unless_soon(self.ring.submit())?;
            if !self.has_deferred() {
                break;
            }
        }
        Ok(())
    }

    /// Whether [`Ring::submit`] would do anything; to know takes no system call.
    #[must_use]
    pub fn has_deferred(&mut self) -> bool {
        let submissions = self.ring.submission();
        !submissions.is_empty() || submissions.taskrun() || submissions.cq_overflow()
    }

    /// Hands over what was asked for, and waits for a completion, or as long as `limit` says.
    ///
    /// # Errors
    /// Those of io_uring_enter(2); a signal, or the end of the time, is none.
    pub fn wait(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let limit = limit.map(Timespec::from);
        let arguments = SubmitArgs::new();
        let arguments = match &limit {
            Some(limit) => arguments.timespec(limit),
            None => arguments,
        };
        unless_soon(self.ring.submitter().submit_with_args_and_flags(1, &arguments, self.enter))
    }

    /// Takes the next completion out of memory. None is reported of cancelling.
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

/// What only means that the next call has to do it: the time is over, a signal came, or completions
/// have to be taken first.
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
        // A file that cannot be polled for lack of a descriptor: the kernel says so in the completion.
        ring.poll(&one, IN, 3).unwrap();
        drop(one);
        ring.wait(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(ring.take(), Some(Polled { key: 3, events: Err(Errno::BADF), more: false }));
    }
}
