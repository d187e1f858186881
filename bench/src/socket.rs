//! Sockets of the bench: one congestion control for all of them, and CONNECT where there is a proxy.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use socket2::{Domain, Socket, Type};

/// bbr, the default of many hosts, costs a factor of three on loopback, for everybody.
pub const CONGESTION_CONTROL: &str = "cubic";

/// How long a peer may take to answer before a measurement has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is between the two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// A proxy that is asked by CONNECT.
    Connect {
        /// Where it listens.
        address: SocketAddr,
        /// `NAME:PASSWORD` for it.
        user: Option<String>,
    },
    /// One that passes every connection to the origin, because it is configured so.
    Plain(SocketAddr),
}

/// A way to an origin.
#[derive(Clone, Debug)]
pub struct Way {
    /// What is in between, if anything.
    pub proxy: Option<Proxy>,
    /// The origin.
    pub origin: SocketAddr,
}

impl Way {
    /// Opens a connection to the origin.
    ///
    /// # Errors
    /// The socket's, and any answer of the proxy but a 200.
    pub fn open(&self) -> io::Result<TcpStream> {
        let address = match &self.proxy {
            None => self.origin,
            Some(Proxy::Connect { address, .. } | Proxy::Plain(address)) => *address,
        };
        let socket = new(address)?;
        socket.connect(&address.into())?;
        let stream: TcpStream = socket.into();
        if let Some(Proxy::Connect { user, .. }) = &self.proxy {
            self.connect(user.as_deref(), &stream)?;
        }
        Ok(stream)
    }

    fn connect(&self, user: Option<&str>, mut stream: &TcpStream) -> io::Result<()> {
        let login = user.map(|user| format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(user)));
        let (origin, login) = (self.origin, login.unwrap_or_default());
        stream.write_all(format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n{login}\r\n").as_bytes())?;
        let answer = head(stream)?;
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        match line.split(' ').nth(1) {
            Some("200") => Ok(()),
            _ => Err(io::Error::other(format!("the proxy answered '{line}'"))),
        }
    }
}

/// Reads up to the empty line and not a byte further: what comes behind belongs to the origin. Peeking
/// first makes that two system calls instead of one a byte, which would be half the cost of a CONNECT.
fn head(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut peeked = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let bytes = stream.peek(&mut peeked)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = head.len();
        // The end may have begun in what was read before.
        let taken = (1..=bytes).find(|taken| ends(&head, &peeked[..*taken])).unwrap_or(bytes);
        head.resize(before + taken, 0);
        stream.read_exact(&mut head[before..])?;
    }
    Ok(head)
}

fn ends(head: &[u8], more: &[u8]) -> bool {
    let last = head.iter().rev().take(3).rev().chain(more).rev().take(4);
    last.eq(b"\n\r\n\r")
}

/// A listener at `address`.
///
/// # Errors
/// The socket's.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Whether sockets of this user may have that congestion control where it is not the default.
#[must_use]
pub fn may_choose() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
    socket.is_ok_and(|socket| socket.set_tcp_congestion(CONGESTION_CONTROL.as_bytes()).is_ok())
}

/// A socket for connections of `address`'s family.
///
/// # Errors
/// The kernel has no more.
pub fn new(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Where that is refused the host is measured with what it has; the report names it.
    let _ = socket.set_tcp_congestion(CONGESTION_CONTROL.as_bytes());
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_ends_at_its_empty_line_however_it_is_cut() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let text = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\n";
        for cut in 0..text.len() {
            let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            peer.write_all(&text[..cut]).unwrap();
            let reading = std::thread::spawn(move || {
                let mut rest = [0; 6];
                let head = head(&stream).unwrap();
                stream.read_exact(&mut rest).unwrap();
                (head, rest)
            });
            peer.write_all(&text[cut..]).unwrap();
            peer.write_all(b"origin").unwrap();
            assert_eq!(reading.join().unwrap(), (text.to_vec(), *b"origin"), "cut at {cut}");
        }
    }
}
