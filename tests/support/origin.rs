//! Origins for the gateway's tunnels.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::deadline::DEADLINE;

/// A listener, usually on loopback. The test accepts its connections itself.
#[derive(Debug)]
pub(crate) struct Origin {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Origin {
    pub(crate) fn new() -> Self {
        Self::at(Ipv4Addr::LOCALHOST.into())
    }

    /// Listens at an address reachable by the calling thread.
    pub(crate) fn at(address: IpAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        Self { listener, address }
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self) -> TcpStream {
        let timeout = Timespec::try_from(DEADLINE).expect("a short time");
        let ready = poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&timeout)).expect("poll");
        assert_eq!(ready, 1, "nobody connected to the origin within {DEADLINE:?}");
        let stream = self.listener.accept().expect("a connection").0;
        patient(&stream);
        stream
    }

    /// Serves each connection in its own thread.
    pub(crate) fn serve(self, serve: impl Fn(TcpStream) + Clone + Send + 'static) -> Serving {
        let address = self.address;
        let listener = self.listener.try_clone().expect("a descriptor");
        let thread = thread::spawn(move || {
            for stream in self.listener.incoming().map_while(Result::ok) {
                patient(&stream);
                let serve = serve.clone();
                thread::spawn(move || serve(stream));
            }
        });
        Serving { address, listener, thread: Some(thread) }
    }

    /// Echoes every byte and the FIN.
    pub(crate) fn echo() -> Serving {
        Self::new().serve(|stream| {
            // A peer may vanish in mid-stream: its own test checks that.
            let _ = echo(&stream);
        })
    }

    /// Answers every request with this body, like an HTTP/1.1 server, and closes.
    pub(crate) fn http(body: &'static str) -> Serving {
        Self::new().serve(move |mut stream| {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let _ =
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        })
    }
}

pub(crate) fn echo(mut stream: &TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            bytes => stream.write_all(&buffer[..bytes])?,
        }
    }
}

/// Sets time-outs of [`DEADLINE`] for reads and writes.
pub(crate) fn patient(stream: &TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
    stream.set_write_timeout(Some(DEADLINE)).expect("a time-out");
}

/// An origin with its own accept thread; stopped when dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        // On Linux, shutdown(2) wakes a blocked accept(2) in any thread.
        let _ = rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
