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

/// What a turn of one socket moves at most.
const TURN: usize = 1 << 20;

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
    in_a_row: usize,
    next: AtomicUsize,
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
    /// Starts `threads` of them. Each gets so many sockets `in_a_row` before the next one does.
    ///
    /// # Errors
    /// Those of epoll_create(2), memfd_create(2) and of starting threads.
    pub fn start(threads: usize, in_a_row: usize) -> io::Result<Self> {
        let threads = (0..threads.max(1)).map(|_| Worker::start()).collect::<io::Result<_>>()?;
        Ok(Self { threads, in_a_row: in_a_row.max(1), next: AtomicUsize::new(0) })
    }

    /// Works on `socket` until its peer closes it or this is dropped.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add(&self, socket: TcpStream, role: Role) -> io::Result<()> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let worker = &self.threads[id / self.in_a_row % self.threads.len()];
        worker.add(id as u64, Carried { socket, role, sent: AtomicUsize::new(0) })
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
    fn start() -> io::Result<Arc<Self>> {
        let worker = Arc::new(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            data: data::file()?,
            sockets: Mutex::default(),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let working = worker.clone();
        thread::Builder::new().name("flow".into()).spawn(move || working.run())?;
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

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        let mut scratch = vec![0; TURN];
        let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
        while !self.stop.load(Ordering::Relaxed) {
            events.clear();
            if epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&tick)).is_err() {
                continue;
            }
            for event in &events {
                let id = event.data.u64();
                let Some(carried) = self.sockets().get(&id).cloned() else { continue };
                if self.turn(&carried, event.flags, &mut scratch).is_err() {
                    let _ = epoll::delete(&self.epoll, &carried.socket);
                    self.sockets().remove(&id);
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
