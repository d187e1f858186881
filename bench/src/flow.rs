//! Threads that send or receive on many sockets as cheaply as the kernel lets them, so that what is
//! between the two ends is the cost: sendfile(2) from memory one way, `MSG_TRUNC` the other, which
//! drops what was received without copying it (tcp(7)).

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

use crate::data;
use crate::place::Place;

/// What a turn of one socket moves at most.
const TURN: usize = 1 << 20;

/// As many threads as a wish can name ([`crate::origin::wish`]).
const MOST: usize = 32;

/// Threads of a side: one for each core, as far as they have names.
#[must_use]
pub fn threads() -> usize {
    thread::available_parallelism().map_or(2, usize::from).min(MOST)
}

/// What a short tunnel carries: 64 KiB.
pub const SHORT: usize = 64 << 10;

/// What is done on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Send for as long as the peer takes it.
    Source,
    /// Receive and forget.
    Sink,
    /// Send back what comes.
    Echo,
    /// Source and sink at once.
    Both,
    /// Send [`SHORT`] bytes and close.
    Short,
}

/// Threads at work on sockets; dropping it ends them and closes the sockets.
#[derive(Debug)]
pub struct Flow {
    threads: Vec<Arc<Worker>>,
    /// Sockets so far, by the number of the thread that they were given to.
    given: Vec<AtomicUsize>,
    mixed: bool,
    next_id: AtomicU64,
    /// Sockets that all of them have.
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
    /// Bytes sent, of a short one.
    sent: AtomicUsize,
}

impl Flow {
    /// Starts `threads` of them. If they are `mixed`, what is given to one goes to all of them in turn.
    ///
    /// # Errors
    /// Those of epoll_create(2), memfd_create(2) and of starting threads.
    pub fn start(threads: usize, mixed: bool) -> io::Result<Self> {
        let (open, count) = (Arc::<AtomicUsize>::default(), threads.max(1));
        let start = |number| Worker::start(Place::new(number)?, open.clone(), count);
        let threads = (0..count).map(start).collect::<io::Result<Vec<_>>>()?;
        let given = threads.iter().map(|_| AtomicUsize::new(0)).collect();
        Ok(Self { threads, given, mixed, next_id: AtomicU64::new(0), open })
    }

    /// Works on `socket` until its peer closes it or this is dropped, on the thread of that number, counted
    /// round.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add(&self, socket: TcpStream, role: Role, thread: usize) -> io::Result<()> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let worker = &self.threads[self.place(thread)];
        self.open.fetch_add(1, Ordering::Relaxed);
        worker.add(id, Carried { socket, role, sent: AtomicUsize::new(0) })
    }

    /// Which thread has the next socket for the thread of that number.
    fn place(&self, thread: usize) -> usize {
        let thread = thread % self.threads.len();
        let earlier = self.given[thread].fetch_add(1, Ordering::Relaxed);
        if self.mixed { (thread + earlier) % self.threads.len() } else { thread }
    }

    /// Bytes that this side has received so far, and those that it has given to the kernel.
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
    /// It keeps to its place while `open` are as many as there are threads.
    fn start(mut place: Place, open: Arc<AtomicUsize>, threads: usize) -> io::Result<Arc<Self>> {
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
            working.run(&open, |open| place.keep(open >= threads));
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

    fn run(&self, open: &AtomicUsize, mut settle: impl FnMut(usize)) {
        let mut events = Vec::with_capacity(64);
        let mut scratch = vec![0; TURN];
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !self.stop.load(Ordering::Relaxed) {
            events.clear();
            settle(open.load(Ordering::Relaxed));
            if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&tick)).is_err() {
                continue;
            }
            for event in &events {
                let id = event.data.u64();
                let Some(carried) = self.sockets().get(&id).cloned() else { continue };
                if self.turn(&carried, event.flags, &mut scratch).is_err() {
                    let _ = epoll::delete(&self.epoll, &carried.socket);
                    self.sockets().remove(&id);
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        self.sockets().clear();
    }

    /// One turn; an error is the end of the socket.
    fn turn(&self, carried: &Carried, flags: epoll::EventFlags, scratch: &mut [u8]) -> io::Result<()> {
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
        let bytes = sendfile(socket, &self.data, Some(&mut 0), TURN)?;
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Sends what is left of a short one; once all is sent the end is an error, as every end is.
    fn send_short(&self, carried: &Carried) -> io::Result<()> {
        let sent = carried.sent.load(Ordering::Relaxed);
        let bytes = sendfile(&carried.socket, &self.data, Some(&mut 0), SHORT - sent)?;
        carried.sent.store(sent + bytes, Ordering::Relaxed);
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if sent + bytes < SHORT { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Sends back what came, whole before the next is received: what does not fit is waited for.
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
            [0, 1, 2, 3, 0, 0].map(|thread| flow.place(thread))
        };
        assert_eq!(places(false), [0, 1, 0, 1, 0, 0]);
        assert_eq!(places(true), [0, 1, 1, 0, 0, 1]);
    }
}
