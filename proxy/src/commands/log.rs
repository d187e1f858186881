//! Writes log lines to standard error, on a thread of its own, so a slow reader delays no tunnel.
//!
//! The thread writes the collected lines and then pauses for [`PAUSE`]. A gateway logging thousands
//! of lines a second wakes it a hundred times a second instead of once per line; a wake-up per line
//! cost a tenth of the CPU time of opening a tunnel.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes queued for a slow reader, some 10,000 lines; further lines are dropped, since
/// an unread log must not block the gateway. Their number is logged.
const MOST: usize = 4 << 20;

/// Pause between writes, for collecting lines.
const PAUSE: Duration = Duration::from_millis(10);

/// Time limit for writing the last lines at the end of the process.
const LAST: Duration = Duration::from_secs(1);

/// The lines on their way; a clone is another way in.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There are lines, or no more will come.
    come: Condvar,
    /// The last lines are written.
    gone: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines dropped for lack of room since the last report.
    dropped: u64,
    /// The thread has written all lines and waits to be woken for the next.
    idle: bool,
    ending: bool,
    ended: bool,
}

/// Has the last lines written when it is dropped.
#[derive(Debug)]
pub(super) struct Flush(Lines);

impl Lines {
    /// Starts the thread for writing to `to`.
    ///
    /// # Errors
    /// The error of starting a thread.
    pub(super) fn start(to: impl Write + Send + 'static) -> io::Result<(Self, Flush)> {
        let lines = Self::default();
        let taken = lines.clone();
        thread::Builder::new().name("log".into()).spawn(move || taken.write_to(to))?;
        Ok((lines.clone(), Flush(lines)))
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut to: impl Write) {
        let mut batch = Vec::new();
        let mut lost = 0;
        loop {
            let ending = self.take(&mut batch);
            let unwritten = write_whole(&mut to, &batch);
            lost += unwritten;
            batch.clear();
            let mut waiting = self.waiting();
            let lines = std::mem::take(&mut waiting.dropped);
            if lines > 0 {
                drop(waiting);
                tracing::warn!(lines, "log lines dropped: standard error is read too slowly");
                waiting = self.waiting();
            }
            // Only where a line can be written again: to try for the sake of this one would never
            // end.
            if lost > 0 && unwritten == 0 {
                drop(waiting);
                let lines = std::mem::take(&mut lost);
                tracing::warn!(lines, "log lines lost: standard error cannot be written");
                waiting = self.waiting();
            }
            if ending && waiting.bytes.is_empty() {
                waiting.ended = true;
                return self.0.gone.notify_all();
            }
            let paused = self.0.come.wait_timeout_while(waiting, PAUSE, |waiting| !waiting.ending);
            drop(paused);
        }
    }

    /// Waits for lines and swaps them for the empty `batch`; whether the process is about to end.
    fn take(&self, batch: &mut Vec<u8>) -> bool {
        let mut waiting = self.waiting();
        while waiting.bytes.is_empty() && !waiting.ending {
            waiting.idle = true;
            waiting = self.0.come.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.idle = false;
        std::mem::swap(&mut waiting.bytes, batch);
        waiting.ending
    }
}

/// Writes all bytes, also to a descriptor made non-blocking by another process. On an error, as on
/// a full disk, at the limit on the size of a file, or on a pipe without a reader, the remaining
/// bytes are lost: their lines are counted.
fn write_whole(to: &mut impl Write, mut bytes: &[u8]) -> u64 {
    let lines = |rest: &[u8]| rest.iter().filter(|byte| **byte == b'\n').count() as u64;
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return lines(bytes),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(PAUSE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return lines(bytes),
        }
    }
    let _ = to.flush();
    0
}

impl Write for Lines {
    /// Takes a whole line, or drops it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.waiting();
        if waiting.bytes.len() + line.len() <= MOST {
            waiting.bytes.extend_from_slice(line);
        } else {
            waiting.dropped += 1;
        }
        if std::mem::replace(&mut waiting.idle, false) {
            drop(waiting);
            self.0.come.notify_one();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for Flush {
    fn drop(&mut self) {
        let mut waiting = self.0.waiting();
        waiting.ending = true;
        self.0.0.come.notify_all();
        let until = Instant::now() + LAST;
        while !waiting.ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            waiting = self.0.0.gone.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// Passes on each write, and blocks until it is received.
    struct Slow(mpsc::SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_comes_in_its_order_and_the_last_before_the_end() {
        let (sender, written) = mpsc::sync_channel(10_000);
        let (mut lines, flush) = Lines::start(Slow(sender)).unwrap();
        let mut said = Vec::new();
        for n in 0..5_000 {
            let line = format!("line {n}\n");
            lines.write_all(line.as_bytes()).unwrap();
            said.extend_from_slice(line.as_bytes());
        }
        drop(flush);
        let written: Vec<Vec<u8>> = written.try_iter().collect();
        assert!(written.concat() == said, "lost or mixed up");
        assert!(written.iter().all(|batch| batch.ends_with(b"\n")), "a line was cut");
    }

    #[test]
    fn a_line_does_not_wait_for_another() {
        let (sender, written) = mpsc::sync_channel(1);
        let (mut lines, _flush) = Lines::start(Slow(sender)).unwrap();
        for line in [b"one\n", b"two\n"] {
            lines.write_all(line).unwrap();
            assert_eq!(written.recv_timeout(Duration::from_secs(20)).unwrap(), line);
        }
    }

    #[test]
    fn a_reader_who_takes_nothing_costs_lines_but_neither_time_nor_memory() {
        let (sender, written) = mpsc::sync_channel(0);
        let (mut lines, flush) = Lines::start(Slow(sender)).unwrap();
        let line = [b'x'; 64 << 10];
        for _ in 0..1_000 {
            lines.write_all(&line).unwrap();
        }
        assert!(lines.waiting().bytes.len() <= MOST);
        drop(written);
        drop(flush);
        assert!(lines.waiting().ended);
    }

    #[test]
    fn a_reader_that_is_not_ready_gets_the_rest_later_and_what_finds_no_room_is_counted() {
        /// Takes three bytes, then none, in turn.
        struct Slow(Vec<u8>, bool);
        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let taken = bytes.len().min(3);
                self.0.extend_from_slice(&bytes[..taken]);
                Ok(taken)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut slow = Slow(Vec::new(), false);
        write_whole(&mut slow, b"a line\n");
        assert_eq!(slow.0, b"a line\n");
        let mut lines = Lines::default();
        lines.write_all(&vec![b'x'; MOST]).unwrap();
        lines.write_all(b"no room\n").unwrap();
        assert_eq!(lines.waiting().dropped, 1);
    }
}
