//! Clients of the gateway.

use std::fmt::Display;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::deadline::eventually;
use super::noise::{End, Noise};
use super::origin::patient;

/// The complete answer to a CONNECT; the next byte belongs to the tunnel.
pub(crate) const ESTABLISHED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

/// A connection to the gateway with no byte sent.
pub(crate) fn dial(gateway: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(gateway).expect("the gateway accepts");
    patient(&stream);
    stream
}

/// Opens a tunnel to `target` through an open gateway.
pub(crate) fn connect(gateway: SocketAddr, target: impl Display) -> TcpStream {
    established(gateway, &request(target, None), b"")
}

/// Opens a tunnel as the user `NAME:PASSWORD`.
pub(crate) fn connect_as(gateway: SocketAddr, target: impl Display, user: &str) -> TcpStream {
    established(gateway, &request(target, Some(user)), b"")
}

/// Opens a tunnel with its first bytes in the segment of the request head.
pub(crate) fn established(gateway: SocketAddr, head: &str, early: &[u8]) -> TcpStream {
    let mut stream = dial(gateway);
    stream.write_all(&[head.as_bytes(), early].concat()).expect("the gateway reads");
    assert_eq!(read_head(&stream), ESTABLISHED);
    stream
}

/// The head of a CONNECT, as curl writes it.
pub(crate) fn request(target: impl Display, user: Option<&str>) -> String {
    let credentials = user.map(|user| format!("Proxy-Authorization: {}\r\n", basic(user))).unwrap_or_default();
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{credentials}\r\n")
}

/// The value of `Proxy-Authorization`.
pub(crate) fn basic(user: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(user))
}

/// Status for a CONNECT with these credentials.
pub(crate) fn status(gateway: SocketAddr, target: impl Display, user: &str) -> String {
    let mut stream = dial(gateway);
    stream.write_all(request(target, Some(user)).as_bytes()).expect("it reads");
    read_head(&stream).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Reads to the empty line and no byte further; later bytes stay in the socket.
pub(crate) fn read_head(mut stream: &TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        let got = stream.read(&mut byte).unwrap_or_else(|error| panic!("{error} after {}", head.escape_ascii()));
        assert_eq!(got, 1, "closed after {:?}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("an answer is ASCII")
}

/// Sends bytes and reads the answer until the gateway closes. The client closes last, like an HTTP
/// client.
pub(crate) fn ask(gateway: SocketAddr, bytes: &[u8]) -> (SocketAddr, String) {
    let mut stream = dial(gateway);
    let from = stream.local_addr().expect("an address");
    stream.write_all(bytes).expect("the gateway reads");
    (from, answer(stream))
}

/// Reads to the end of the stream, which must be a FIN.
pub(crate) fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer and a clean end");
    answer
}

/// Waits until all sent bytes are acknowledged, so that the next bytes travel in another segment.
pub(crate) fn arrives(stream: &TcpStream) {
    eventually("it is acknowledged", || sluicegate::sys::tcp::unacknowledged(stream).expect("a socket") == 0);
}

/// Sends bytes in two segments, split at `cut`.
pub(crate) fn send_cut(mut stream: &TcpStream, bytes: &[u8], cut: usize) {
    stream.set_nodelay(true).expect("a TCP socket");
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    stream.write_all(first).expect("the peer reads");
    arrives(stream);
    stream.write_all(second).expect("the peer reads");
}

/// Returns true if the stream has no unread bytes.
pub(crate) fn is_silent(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a socket");
    let seen = stream.peek(&mut [0]);
    stream.set_nonblocking(false).expect("a socket");
    seen.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

/// The head of a request to upgrade to `x/1`, with these header lines.
pub(crate) fn upgrade(target: impl Display, user: Option<&str>, lines: &str) -> String {
    let credentials = user.map(|user| format!("Proxy-Authorization: {}\r\n", basic(user))).unwrap_or_default();
    format!("POST http://{target}/a HTTP/1.1\r\n{credentials}Connection: Upgrade\r\nUpgrade: x/1\r\n{lines}\r\n")
}

/// The upgrade head as the origin receives it; `lines` holds only the end-to-end header lines.
pub(crate) fn upgrade_at_origin(target: impl Display, lines: &str) -> String {
    format!(
        "POST /a HTTP/1.1\r\nHost: {target}\r\n{lines}Via: 1.1 sluicegate\r\nConnection: Upgrade\r\nUpgrade: x/1\r\n\r\n"
    )
}

/// A 101 of an origin.
pub(crate) const SWITCHING: &str = "HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nA: b\r\nUpgrade: x/1\r\n\r\n";

/// The 101 as the client receives it.
pub(crate) const SWITCHED: &str =
    "HTTP/1.1 101 Switching\r\nA: b\r\nVia: 1.1 sluicegate\r\nConnection: Upgrade\r\nUpgrade: x/1\r\n\r\n";

/// Resets a connection at once.
pub(crate) fn reset(stream: &TcpStream) {
    rustix::net::connect_unspec(stream).expect("a reset");
}

/// Waits for the end of a stream with no bytes left to read.
pub(crate) fn end_of(mut stream: &TcpStream) -> End {
    match stream.read(&mut [0]) {
        Ok(0) => End::Clean,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => End::Reset,
        other => panic!("neither an end nor a reset: {other:?}"),
    }
}

/// Sends bytes through an echo origin and compares the bytes received.
pub(crate) fn echoes(stream: &TcpStream, length: usize) {
    let mut noise = Noise::new(length as u64 + 1);
    let mut same = noise.clone();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(noise.send(stream, length), length));
        same.expect_exactly(stream, length);
    });
}

/// Half-closes a tunnel to an echo origin and waits for its FIN.
pub(crate) fn hang_up(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).expect("an open stream");
    assert_eq!(end_of(stream), End::Clean);
}

/// Half-closes a tunnel from each end in turn.
pub(crate) fn hang_up_both(first: &TcpStream, second: &TcpStream) {
    for (ends, hears) in [(first, second), (second, first)] {
        ends.shutdown(Shutdown::Write).expect("an open stream");
        assert_eq!(end_of(hears), End::Clean);
    }
}
