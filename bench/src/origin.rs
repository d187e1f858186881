//! The far end: the first byte of a connection says what is wanted of it.
//!
//! | byte | what the origin does |
//! |---|---|
//! | `S` | sends for as long as it is taken |
//! | `K` | receives and forgets |
//! | `D` | both at once |
//! | `E` | sends back what comes |

use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::flow::{Flow, Role};
use crate::socket;

/// The byte that asks for a role.
#[must_use]
pub const fn byte(role: Role) -> u8 {
    match role {
        Role::Source => b'S',
        Role::Sink => b'K',
        Role::Both => b'D',
        Role::Echo => b'E',
    }
}

/// Binds an origin and serves it on threads of its own.
///
/// # Errors
/// Those of binding and of starting threads.
pub fn start(address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = socket::listen(address)?;
    let address = listener.local_addr()?;
    let flow = Flow::start(thread::available_parallelism().map_or(2, Into::into))?;
    thread::Builder::new().name("origin".into()).spawn(move || accept(&listener, &flow))?;
    Ok(address)
}

fn accept(listener: &TcpListener, flow: &Flow) {
    loop {
        match listener.accept() {
            // A peer that asks for nothing, or for what does not exist, is closed.
            Ok((stream, _)) => drop(assign(stream, flow)),
            Err(error) => eprintln!("origin: {error}"),
        }
    }
}

fn assign(mut stream: TcpStream, flow: &Flow) -> io::Result<()> {
    let mut wanted = [0];
    stream.read_exact(&mut wanted)?;
    let roles = [Role::Source, Role::Sink, Role::Both, Role::Echo];
    match roles.into_iter().find(|role| byte(*role) == wanted[0]) {
        Some(role) => flow.add(stream, role),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
