//! The far end: the first byte of a connection says what is wanted of it.
//!
//! | byte | what the origin does |
//! |---|---|
//! | `S` | sends for as long as it is taken |
//! | `K` | receives and forgets |
//! | `D` | both at once |
//! | `E` | sends back what comes |
//! | `N` | sends 64 KiB and closes |
//! | `P` | sends back what comes, from a thread of its own on the last core |
//! | `T` | sends that byte back, then nothing |

use std::collections::HashMap;
use std::env;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;

use crate::flow::{Flow, Role};
use crate::place::{self, End};
use crate::process::Process;
use crate::socket;

/// Asks for a ping-pong.
pub const PING: u8 = b'P';

/// Asks for one byte back.
pub const TOUCH: u8 = b'T';

const ROLES: [Role; 5] = [Role::Source, Role::Sink, Role::Both, Role::Echo, Role::Short];

/// The epoll number of the listener.
const LISTENER: u64 = 0;

/// The byte that asks for a role.
#[must_use]
pub const fn byte(role: Role) -> u8 {
    match role {
        Role::Source => b'S',
        Role::Sink => b'K',
        Role::Both => b'D',
        Role::Echo => b'E',
        Role::Short => b'N',
    }
}

/// Binds an origin and serves it on threads of its own.
///
/// The client gives its sockets to its threads in turn, and so does the origin: without a proxy the two ends of a
/// tunnel then meet in the same two threads, which the scheduler soon puts on one core, where what is sent is
/// received out of its cache. That is the most that a machine can reach, and so what gateways are compared with.
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
    let threads = thread::available_parallelism().map_or(2, Into::into);
    let flow = Flow::start(threads, if mixed { threads } else { 1 })?;
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
                    id => self.wished(id),
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
        // An error here, as in `wished`, is a connection that its peer has given up.
        if let Ok(Some(stream)) = stream.set_nonblocking(true).and_then(|()| self.look(stream)) {
            let id = self.next;
            self.next += 1;
            if epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(id), epoll::EventFlags::IN).is_ok() {
                self.waiting.insert(id, stream);
            }
        }
    }

    fn wished(&mut self, id: u64) {
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
        // It is not there when the wish was read at once.
        let _ = epoll::delete(&self.epoll, &stream);
        if wish[0] == PING {
            return ping(stream).map(|()| None);
        }
        let role = ROLES.into_iter().find(|role| byte(*role) == wish[0]).ok_or(ErrorKind::InvalidData)?;
        self.flow.add(stream, role).map(|()| None)
    }
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
