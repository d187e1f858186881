//! The far end: the first byte of a connection, its wish, says what is wanted of it.
//!
//! | lower three bits | what the origin does |
//! |---|---|
//! | 0 | sends for as long as it is taken |
//! | 1 | receives and forgets |
//! | 2 | both at once |
//! | 3 | sends back what comes |
//! | 4 | sends 64 KiB and closes |
//! | 5 | sends back what comes, from a thread of its own on the last core |
//! | 6 | sends that byte back, then waits for another wish |
//! | 7 | sends how many bytes have come in and gone out so far, all connections together, then waits for another wish |
//!
//! The upper five are the number of the thread that the client has the connection on. To go by the order in
//! which wishes arrive would pair the ends without a proxy, and only now and then behind one.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::flow::{Flow, Role, threads};
use crate::place::{self, End};
use crate::process::Process;
use crate::socket;

/// Asks for a ping-pong.
pub const PING: u8 = 5;

/// Asks for one byte back.
pub const TOUCH: u8 = 6;

/// Asks how many bytes there were, as eight bytes, the lowest first.
const COUNT: u8 = 7;

/// By the lower bits of their wishes.
const ROLES: [Role; 5] = [Role::Source, Role::Sink, Role::Both, Role::Echo, Role::Short];

/// Where the number of the thread begins.
const THREAD: u32 = 3;

/// The epoll number of the listener.
const LISTENER: u64 = 0;

/// Asks for a role, for a connection that the client has on that thread.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "what does not fit is left away")]
pub const fn wish(role: Role, thread: usize) -> u8 {
    let role = match role {
        Role::Source => 0,
        Role::Sink => 1,
        Role::Both => 2,
        Role::Echo => 3,
        Role::Short => 4,
    };
    role | (thread as u8) << THREAD
}

/// What a wish asks for.
fn wished(wish: u8) -> Option<(Role, usize)> {
    let (role, thread) = (wish & ((1 << THREAD) - 1), wish >> THREAD);
    Some((*ROLES.get(usize::from(role))?, thread.into()))
}

/// Binds an origin and serves it on threads of its own.
///
/// The client gives its sockets to its threads in turn, and the origin has each on the thread of the same number: the
/// two ends of a tunnel meet in the same two threads, with and without a proxy. The scheduler soon puts those on one
/// core, where what is sent is received out of its cache: the most that a machine can reach, and so what gateways
/// are compared with.
/// If the ends are `mixed`, each thread here gets sockets of every thread there, which is more like two machines,
/// varies less, and is slower by a quarter to a half without a proxy and by little with one.
///
/// # Errors
/// Those of binding and of starting threads.
pub fn start(address: SocketAddr, mixed: bool) -> io::Result<SocketAddr> {
    let listener = socket::listen(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let flow = Flow::start(threads(), mixed)?;
    let mut door = Door { listener, epoll, flow, waiting: HashMap::new(), next: LISTENER + 1 };
    thread::Builder::new().name("origin".into()).spawn(move || door.run())?;
    Ok(address)
}

/// An origin in a process of its own, as a peer is.
///
/// # Errors
/// It does not start.
pub fn spawn(address: SocketAddr, mixed: bool) -> io::Result<(Process, SocketAddr)> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["origin", "--listen", &address.to_string()]);
    if mixed {
        command.arg("--mixed");
    }
    let mut process = Process::start("origin", &mut command, None)?;
    let address = process.ready(|process| process.log().lines().next().and_then(|line| line.parse().ok()))?;
    Ok((process, address))
}

/// Connections whose wish is not known yet, and those that have nothing more to wish for.
struct Door {
    listener: TcpListener,
    epoll: OwnedFd,
    flow: Flow,
    waiting: HashMap<u64, TcpStream>,
    next: u64,
}

impl Door {
    fn run(&mut self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            if let Err(error) = epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                eprintln!("origin: {error}");
                continue;
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    id => self.hear(id),
                }
            }
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return eprintln!("origin: {error}"),
            }
        }
    }

    fn admit(&mut self, stream: TcpStream) {
        // An error here, as in `hear`, is a connection that its peer has given up.
        if let Ok(Some(stream)) = stream.set_nonblocking(true).and_then(|()| self.look(stream)) {
            let id = self.next;
            self.next += 1;
            if epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id), epoll::EventFlags::IN).is_ok() {
                self.waiting.insert(id, stream);
            }
        }
    }

    fn hear(&mut self, id: u64) {
        let Some(stream) = self.waiting.remove(&id) else { return };
        if let Ok(Some(stream)) = self.look(stream) {
            self.waiting.insert(id, stream);
        }
    }

    /// Reads the wish, if it is there, and sees to it; gives back a connection that goes on waiting.
    fn look(&self, mut stream: TcpStream) -> io::Result<Option<TcpStream>> {
        let mut wish = [0];
        match stream.read(&mut wish) {
            Ok(1) => {}
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(stream)),
            Err(error) => return Err(error),
        }
        if wish[0] == TOUCH {
            return stream.write_all(&wish).map(|()| Some(stream));
        }
        if wish[0] == COUNT {
            return stream.write_all(&self.flow.moved().to_le_bytes()).map(|()| Some(stream));
        }
        // It is not there when the wish was read at once.
        let _ = epoll::delete(&self.epoll, &stream);
        if wish[0] == PING {
            return ping(stream).map(|()| None);
        }
        let (role, thread) = wished(wish[0]).ok_or(ErrorKind::InvalidData)?;
        self.flow.add(stream, role, thread).map(|()| None)
    }
}

/// What an origin has received and sent so far, of which it tells on `stream`.
///
/// # Errors
/// Those of the connection, which can be asked again.
pub fn count(stream: &mut TcpStream) -> io::Result<u64> {
    stream.write_all(&[COUNT])?;
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Answers on a thread of its own until the peer is gone.
fn ping(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let answer = move || -> io::Result<()> {
        place::here(End::Origin)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let bytes = stream.read(&mut buffer)?;
            if bytes == 0 {
                return Ok(());
            }
            stream.write_all(&buffer[..bytes])?;
        }
    };
    thread::Builder::new().name("ping".into()).spawn(answer).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_understood_and_those_without_a_role_are_not() {
        for (role, thread) in ROLES.into_iter().zip([0, 1, 2, 30, 31]) {
            assert_eq!(wished(wish(role, thread)), Some((role, thread)));
        }
        assert_eq!([PING, TOUCH, COUNT].map(wished), [None; 3]);
    }
}
