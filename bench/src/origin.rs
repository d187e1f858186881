//! The far end of the tunnels. The first byte of a connection, its request, selects a service.
//!
//! | lower three bits | service |
//! |---|---|
//! | 0 | sends for as long as the client receives |
//! | 1 | receives and discards |
//! | 2 | both at once |
//! | 3 | echoes |
//! | 4 | sends 64 KiB and closes |
//! | 5 | echoes, on a thread of its own on the last core |
//! | 6 | echoes the request, then waits for another |
//! | 7 | sends the number of bytes received and sent by all connections, then waits for another |
//!
//! The upper five bits are the number of the client's thread. Pairing by the order of the wishes
//! would pair the ends without a proxy, but rarely behind one.

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::affinity::{self, End};
use crate::flow::{Flow, Role, threads};
use crate::process::Process;
use crate::socket;

/// Requests a ping-pong.
pub const PING: u8 = 5;

/// Requests one byte back.
pub const TOUCH: u8 = 6;

/// Requests the byte count, as eight bytes, little-endian.
const COUNT: u8 = 7;

/// Roles by the lower bits of a request.
const ROLES: [Role; 5] = [Role::Source, Role::Sink, Role::Both, Role::Echo, Role::Short];

/// Lowest bit of the thread number.
const THREAD_SHIFT: u32 = 3;

/// The epoll number of the listener.
const LISTENER: u64 = 0;

/// Encodes a request for a role, for a connection of that thread of the client.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "what does not fit is left away")]
pub const fn encode_request(role: Role, thread: usize) -> u8 {
    let role = match role {
        Role::Source => 0,
        Role::Sink => 1,
        Role::Both => 2,
        Role::Echo => 3,
        Role::Short => 4,
    };
    role | (thread as u8) << THREAD_SHIFT
}

/// Decodes a request.
fn decode_request(request: u8) -> Option<(Role, usize)> {
    let (role, thread) = (request & ((1 << THREAD_SHIFT) - 1), request >> THREAD_SHIFT);
    Some((*ROLES.get(usize::from(role))?, thread.into()))
}

/// Binds an origin and serves it on threads of its own.
///
/// The client deals its sockets to its threads in turn, and the origin puts each on the thread of
/// the same number: both ends of every tunnel belong to one pair of threads, with and without a
/// proxy. The scheduler soon puts a pair on one core, and data is received out of its cache: the
/// maximum of a machine, and so the baseline for gateways. With `mixed`, each thread of the origin
/// gets sockets of every thread of the client. This resembles two machines and varies less, but is
/// slower: by a quarter to a half without a proxy, by little with one.
///
/// # Errors
/// Errors of binding and of starting threads.
pub fn start(address: SocketAddr, mixed: bool) -> io::Result<SocketAddr> {
    let listener = socket::listen(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let flow = Flow::start(threads(), mixed)?;
    let mut acceptor = Acceptor { listener, epoll, flow, waiting: HashMap::new(), next: LISTENER + 1 };
    thread::Builder::new().name("origin".into()).spawn(move || acceptor.run())?;
    Ok(address)
}

/// Starts an origin in a process of its own, like a real peer.
///
/// # Errors
/// The origin does not start.
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

/// Listener, and connections waiting for their first or next request.
struct Acceptor {
    listener: TcpListener,
    epoll: OwnedFd,
    flow: Flow,
    waiting: HashMap<u64, TcpStream>,
    next: u64,
}

impl Acceptor {
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
                    id => self.resume(id),
                }
            }
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => self.add(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => return eprintln!("origin: {error}"),
            }
        }
    }

    fn add(&mut self, stream: TcpStream) {
        // An error here, as in `resume`, is a connection closed by its peer.
        if let Ok(Some(stream)) = stream.set_nonblocking(true).and_then(|()| self.serve_request(stream)) {
            let id = self.next;
            self.next += 1;
            if epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id), epoll::EventFlags::IN).is_ok() {
                self.waiting.insert(id, stream);
            }
        }
    }

    fn resume(&mut self, id: u64) {
        let Some(stream) = self.waiting.remove(&id) else { return };
        if let Ok(Some(stream)) = self.serve_request(stream) {
            self.waiting.insert(id, stream);
        }
    }

    /// Reads and serves the request, if received. Returns a connection still waiting.
    fn serve_request(&self, mut stream: TcpStream) -> io::Result<Option<TcpStream>> {
        let mut request = [0];
        match stream.read(&mut request) {
            Ok(1) => {}
            Ok(_) => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Some(stream)),
            Err(error) => return Err(error),
        }
        if request[0] == TOUCH {
            return stream.write_all(&request).map(|()| Some(stream));
        }
        if request[0] == COUNT {
            return stream.write_all(&self.flow.moved().to_le_bytes()).map(|()| Some(stream));
        }
        // Not registered if the request was read at once.
        let _ = epoll::delete(&self.epoll, &stream);
        if request[0] == PING {
            return ping(stream).map(|()| None);
        }
        let (role, thread) = decode_request(request[0]).ok_or(ErrorKind::InvalidData)?;
        self.flow.add(stream, role, thread).map(|()| None)
    }
}

/// Bytes received and sent by an origin so far, requested on `stream`.
///
/// # Errors
/// Errors of the connection. The connection accepts further requests.
pub fn count(stream: &mut TcpStream) -> io::Result<u64> {
    stream.write_all(&[COUNT])?;
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Echoes on a thread of its own until the peer closes.
fn ping(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let answer = move || -> io::Result<()> {
        affinity::pin_to_core_of(End::Origin)?;
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
            assert_eq!(decode_request(encode_request(role, thread)), Some((role, thread)));
        }
        assert_eq!([PING, TOUCH, COUNT].map(decode_request), [None; 3]);
    }
}
