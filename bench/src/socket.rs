//! Sockets of the bench: one congestion control for all of them, and CONNECT where there is a proxy.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use socket2::{Domain, Socket, Type};

/// bbr, the default of many hosts, costs a factor of three on loopback, for everybody.
const CONGESTION_CONTROL: &[u8] = b"cubic";

/// How long a peer may take to answer before a measurement has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A way to an origin.
#[derive(Clone, Debug)]
pub struct Way {
    /// A CONNECT proxy, or none.
    pub proxy: Option<SocketAddr>,
    /// `NAME:PASSWORD` for it.
    pub user: Option<String>,
    /// The origin.
    pub origin: SocketAddr,
}

impl Way {
    /// Opens a connection to the origin.
    ///
    /// # Errors
    /// The socket's, and any answer of the proxy but a 200.
    pub fn open(&self) -> io::Result<TcpStream> {
        let socket = new(self.proxy.unwrap_or(self.origin))?;
        socket.connect(&self.proxy.unwrap_or(self.origin).into())?;
        let stream: TcpStream = socket.into();
        if self.proxy.is_some() {
            self.connect(&stream)?;
        }
        Ok(stream)
    }

    fn connect(&self, mut stream: &TcpStream) -> io::Result<()> {
        let login = self.user.as_ref().map(|user| format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(user)));
        let (origin, login) = (self.origin, login.unwrap_or_default());
        stream.write_all(format!("CONNECT {origin} HTTP/1.1\r\nHost: {origin}\r\n{login}\r\n").as_bytes())?;
        let mut answer = Vec::new();
        // Byte by byte: what comes behind the answer belongs to the origin.
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
        match line.split(' ').nth(1) {
            Some("200") => Ok(()),
            _ => Err(io::Error::other(format!("the proxy answered '{line}'"))),
        }
    }
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

fn new(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // A host without cubic is measured with what it has; the report names the default.
    let _ = socket.set_tcp_congestion(CONGESTION_CONTROL);
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
