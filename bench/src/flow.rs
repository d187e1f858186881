//! Threads that send or receive on many sockets as cheaply as the kernel lets them, so that what is
//! between the two ends is the cost: sendfile(2) from memory one way, `MSG_TRUNC` the other, which
//! drops what was received without copying it (tcp(7)).

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use rustix::net::{RecvFlags, SendFlags, recv, send};

/// What a turn of one socket moves at most.
const TURN: usize = 1 << 20;

/// The random data that is sent, again and again.
const DATA: usize = 16 << 20;

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
}

/// Threads at work on sockets; dropping it ends them and closes the sockets.
#[derive(Debug)]
pub struct Flow {
    threads: Vec<Arc<Worker>>,
    next: AtomicU64,
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
}

impl Flow {
    /// Starts `threads` of them.
    ///
    /// # Errors
    /// Those of epoll_create(2), memfd_create(2) and of starting threads.
    pub fn start(threads: usize) -> io::Result<Self> {
        let threads = (0..threads.max(1)).map(|_| Worker::start()).collect::<io::Result<_>>()?;
        Ok(Self { threads, next: AtomicU64::new(0) })
    }

    /// Works on `socket` until its peer closes it or this is dropped.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn add(&self, socket: TcpStream, role: Role) -> io::Result<()> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let worker = &self.threads[usize::try_from(id).unwrap_or(0) % self.threads.len()];
        worker.add(id, Carried { socket, role })
    }

    /// Bytes that this side has received so far or, as a source, given to the kernel.
    #[must_use]
    pub fn moved(&self, role: Role) -> u64 {
        let of = |worker: &Arc<Worker>| match role {
            Role::Source => worker.sent.load(Ordering::Relaxed),
            Role::Sink | Role::Echo | Role::Both => worker.received.load(Ordering::Relaxed),
        };
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
            data: data()?,
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
            Role::Source => Flags::OUT,
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

    /// Sends back what came. Echoes are short, and taken back whole before the next: what does not
    /// fit is waited for.
    fn echo(&self, socket: &TcpStream, scratch: &mut [u8]) -> io::Result<()> {
        let (bytes, _) = recv(socket, &mut *scratch, RecvFlags::DONTWAIT)?;
        if bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        socket.set_nonblocking(false)?;
        let mut rest = &scratch[..bytes];
        while !rest.is_empty() {
            rest = &rest[send(socket, rest, SendFlags::NOSIGNAL)?..];
        }
        socket.set_nonblocking(true)
    }
}

/// A file in memory with random bytes.
fn data() -> io::Result<OwnedFd> {
    let file = memfd_create("bench-data", MemfdFlags::CLOEXEC)?;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let bytes: Vec<u8> = (0..DATA / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    let mut written = 0;
    while written < bytes.len() {
        written += rustix::io::pwrite(&file, &bytes[written..], written as u64)?;
    }
    Ok(file)
}

/// xorshift64: fast, repeatable, and of no other worth.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
