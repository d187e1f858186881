//! Sockets of the bench: one congestion control for all, and CONNECT to a proxy.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use socket2::{Domain, Socket, Type};

/// Congestion control of the bench. bbr, the default of many hosts, is slower by a factor of three
/// on loopback for every contender.
pub const CONGESTION_CONTROL: &str = "cubic";

/// Read and write timeout of a socket; a longer silence fails the measurement.
const SOCKET_TIMEOUT: Duration = Duration::from_secs(20);

/// Proxy between the two ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proxy {
    /// An HTTP proxy that supports CONNECT.
    Connect {
        /// Listen address.
        address: SocketAddr,
        /// Credentials, `NAME:PASSWORD`.
        user: Option<String>,
    },
    /// A TCP proxy with the origin as its fixed upstream.
    Plain(SocketAddr),
}

/// Route to an origin.
#[derive(Clone, Debug)]
pub struct Route {
    /// Proxy on the route; `None` for a direct connection.
    pub proxy: Option<Proxy>,
    /// The origin.
    pub origin: SocketAddr,
}

impl Route {
    /// Opens a connection to the origin.
    ///
    /// # Errors
    /// Errors of the socket, and any status of the proxy but 200.
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

/// Reads up to the empty line and no further: the next bytes belong to the origin. Peeking first
/// takes two system calls instead of one per byte, which would be half the cost of a CONNECT.
fn head(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut peeked = [0; 4096];
    while !head.ends_with(b"\r\n\r\n") {
        let bytes = stream.peek(&mut peeked)?;
        if bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let before = head.len();
        // The terminator may have started in the previous read.
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

/// Binds a listener to `address`.
///
/// # Errors
/// Errors of the socket.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = new(address)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// Tests if this user's sockets may use [`CONGESTION_CONTROL`] if it is not the default.
#[must_use]
pub fn may_choose() -> bool {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None);
    socket.is_ok_and(|socket| socket.set_tcp_congestion(CONGESTION_CONTROL.as_bytes()).is_ok())
}

/// Creates a socket of `address`'s family.
///
/// # Errors
/// The kernel has no more sockets.
pub fn new(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // If refused, the host's congestion control is measured, and the report names it.
    let _ = socket.set_tcp_congestion(CONGESTION_CONTROL.as_bytes());
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    socket.set_write_timeout(Some(SOCKET_TIMEOUT))?;
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
