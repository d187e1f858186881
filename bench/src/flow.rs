//! Threads that send or receive on many sockets at the least cost, so that the path between the two
//! ends dominates: sendfile(2) from memory for sending, and `MSG_TRUNC` for receiving, for it drops
//! received bytes without copying (tcp(7)).

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::affinity::CpuAffinity;
use crate::data;

/// Maximum of bytes moved by one step of a socket.
const STEP_BYTES: usize = 1 << 20;

/// Maximum number of threads: the range of a request ([`crate::origin::encode_request`]).
const MAX_THREADS: usize = 32;

/// Number of threads of a side: one for each core, at most 32, the maximum of a request.
#[must_use]
pub fn threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from).min(MAX_THREADS)
}

/// Payload of a short tunnel: 64 KiB.
pub const SHORT: usize = 64 << 10;

/// Work on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Send for as long as the peer receives.
    Source,
    /// Receive and discard.
    Sink,
    /// Echo received bytes.
    Echo,
    /// Send and receive at once.
    Both,
    /// Send [`SHORT`] bytes and close.
    Short,
}

/// Threads working on sockets. Dropping ends the threads and closes the sockets.
#[derive(Debug)]
pub struct Flow {
    threads: Vec<Arc<Worker>>,
    /// Number of sockets given to each thread so far.
    given: Vec<AtomicUsize>,
    mixed: bool,
    next_id: AtomicU64,
    /// Number of open sockets of all threads.
    open: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Worker {
    epoll: OwnedFd,
    data: OwnedFd,
    sockets: Mutex<HashMap<u64, Arc<Carried>>>,
    received: AtomicU64,
    sent: AtomicU64,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Carried {
    socket: TcpStream,
    role: Role,
    /// Bytes sent, for [`Role::Short`].
    sent: AtomicUsize,
}

impl Flow {
    /// Starts `threads` threads. With `mixed`, the sockets given to one thread go to all threads in
    /// turn.
    ///
    /// # Errors
    /// Errors of epoll_create(2), memfd_create(2) and of starting threads.
    pub fn start(threads: usize, mixed: bool) -> io::Result<Self> {
        let (open, count) = (Arc::<AtomicUsize>::default(), threads.max(1));
        let start = |number| Worker::start(CpuAffinity::new(number)?, open.clone(), count);
        let threads = (0..count).map(start).collect::<io::Result<Vec<_>>>()?;
        let given = threads.iter().map(|_| AtomicUsize::new(0)).collect();
        Ok(Self { threads, given, mixed, next_id: AtomicU64::new(0), open })
    }

    /// Works on `socket` until its peer closes it or the flow is dropped, on the thread number
    /// `thread` modulo the number of threads.
    ///
    /// # Errors
    /// Errors of epoll_ctl(2).
    pub fn add(&self, socket: TcpStream, role: Role, thread: usize) -> io::Result<()> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let worker = &self.threads[self.thread_for(thread)];
        self.open.fetch_add(1, Ordering::Relaxed);
        worker.add(id, Carried { socket, role, sent: AtomicUsize::new(0) })
    }

    /// Index of the thread for the next socket given to number `thread`.
    fn thread_for(&self, thread: usize) -> usize {
        let thread = thread % self.threads.len();
        let earlier = self.given[thread].fetch_add(1, Ordering::Relaxed);
        if self.mixed { (thread + earlier) % self.threads.len() } else { thread }
    }

    /// Bytes received by this side so far, plus bytes written to the kernel.
    #[must_use]
    pub fn moved(&self) -> u64 {
        let of = |worker: &Arc<Worker>| worker.received.load(Ordering::Relaxed) + worker.sent.load(Ordering::Relaxed);
        self.threads.iter().map(of).sum()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.threads.iter().for_each(|worker| worker.stop.store(true, Ordering::Relaxed));
    }
}

impl Worker {
    /// Starts a thread, pinned to its core while `open` equals the number of threads.
    fn start(mut affinity: CpuAffinity, open: Arc<AtomicUsize>, threads: usize) -> io::Result<Arc<Self>> {
        let worker = Arc::new(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            data: data::file()?,
            sockets: Mutex::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let working = worker.clone();
        thread::Builder::new().name("flow".into()).spawn(move || {
            working.run(&open, |open| affinity.set_pinned(open >= threads));
        })?;
        Ok(worker)
    }

    fn add(&self, id: u64, carried: Carried) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        carried.socket.set_nonblocking(true)?;
        let interest = match carried.role {
            Role::Source | Role::Short => Flags::OUT,
            Role::Sink | Role::Echo => Flags::IN,
            Role::Both => Flags::IN | Flags::OUT,
        };
        let carried = Arc::new(carried);
        self.sockets().insert(id, carried.clone());
        Ok(epoll::add(&self.epoll, &carried.socket, epoll::EventData::new_u64(id), interest)?)
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Carried>>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, open: &AtomicUsize, mut set_affinity: impl FnMut(usize)) {
        let mut events = Vec::with_capacity(64);
        let mut scratch = vec![0; STEP_BYTES];
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !self.stop.load(Ordering::Relaxed) {
            events.clear();
            set_affinity(open.load(Ordering::Relaxed));
            if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&tick)).is_err() {
                continue;
            }
            for event in &events {
                let id = event.data.u64();
                let Some(carried) = self.sockets().get(&id).cloned() else { continue };
                if self.step(&carried, event.flags, &mut scratch).is_err() {
                    let _ = epoll::delete(&self.epoll, &carried.socket);
                    self.sockets().remove(&id);
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        self.sockets().clear();
    }

    /// One step of a socket; an error is the end of the socket.
    fn step(&self, carried: &Carried, flags: epoll::EventFlags, scratch: &mut [u8]) -> io::Result<()> {
        use epoll::EventFlags as Flags;
        let readable = flags.intersects(Flags::IN | Flags::HUP | Flags::ERR);
        let result = match carried.role {
            Role::Echo => self.echo(&carried.socket, scratch),
            Role::Sink => self.receive(&carried.socket, scratch),
            Role::Source => self.send(&carried.socket),
            Role::Short => self.send_short(carried),
            Role::Both => {
                let received = if readable { self.receive(&carried.socket, scratch) } else { Ok(()) };
                if flags.contains(Flags::OUT) { received.and_then(|()| self.send(&carried.socket)) } else { received }
            }
        };
        match result {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => other,
        }
    }

    fn receive(&self, socket: &TcpStream, scratch: &mut [u8]) -> io::Result<()> {
        let (_, bytes) = recv(socket, scratch, RecvFlags::TRUNC | RecvFlags::DONTWAIT)?;
        if bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    fn send(&self, socket: &TcpStream) -> io::Result<()> {
        let bytes = sendfile(socket, &self.data, Some(&mut 0), STEP_BYTES)?;
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Sends the rest of a short tunnel. The end is reported as an error, like every end.
    fn send_short(&self, carried: &Carried) -> io::Result<()> {
        let sent = carried.sent.load(Ordering::Relaxed);
        let bytes = sendfile(&carried.socket, &self.data, Some(&mut 0), SHORT - sent)?;
        carried.sent.store(sent + bytes, Ordering::Relaxed);
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if sent + bytes < SHORT { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Echoes received bytes, all of them before the next receive: waits for a full socket.
    fn echo(&self, socket: &TcpStream, scratch: &mut [u8]) -> io::Result<()> {
        let (bytes, _) = recv(socket, &mut *scratch, RecvFlags::DONTWAIT)?;
        if bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        let sent = match send(socket, &scratch[..bytes], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Err(Errno::AGAIN) => 0,
            sent => sent?,
        };
        if sent == bytes {
            return Ok(());
        }
        socket.set_nonblocking(false)?;
        io::Write::write_all(&mut { socket }, &scratch[sent..bytes])?;
        socket.set_nonblocking(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_thread_has_what_is_given_to_it_and_all_have_it_if_they_are_mixed() {
        let places = |mixed| {
            let flow = Flow::start(2, mixed).unwrap();
            [0, 1, 2, 3, 0, 0].map(|thread| flow.thread_for(thread))
        };
        assert_eq!(places(false), [0, 1, 0, 1, 0, 0]);
        assert_eq!(places(true), [0, 1, 1, 0, 0, 1]);
    }
}
