//! Rate of opening and closing tunnels, empty or with a small payload.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use crate::flow::{Role, SHORT};
use crate::origin::{TOUCH, encode_request};
use crate::socket::Route;
use crate::stats::Samples;

/// Result of opening tunnels.
#[derive(Clone, Debug)]
pub struct Connects {
    /// Tunnels per second, all clients together.
    pub per_second: f64,
    /// Microseconds from connect to the echoed byte, or to the end of the payload.
    pub latency: Samples,
}

/// Lets `clients` clients open a tunnel, send a byte, receive its echo and close, repeatedly for
/// `time`.
///
/// # Errors
/// Errors of any tunnel.
pub fn connects(route: &Route, clients: usize, time: Duration) -> io::Result<Connects> {
    repeat(clients, time, |_| touch(route).map(drop))
}

/// Lets `clients` clients open a tunnel, receive 64 KiB and close, repeatedly for `time`.
///
/// # Errors
/// Errors of any tunnel, and another length of the payload.
pub fn short(route: &Route, clients: usize, time: Duration) -> io::Result<Connects> {
    repeat(clients, time, |client| {
        let mut stream = route.open()?;
        stream.write_all(&[encode_request(Role::Short, client)])?;
        let mut arrived = 0;
        let mut scratch = [0; SHORT];
        loop {
            // MSG_TRUNC drops the bytes without copying (tcp(7)).
            match recv(&stream, &mut scratch[..], RecvFlags::TRUNC)?.1 {
                0 if arrived == SHORT => return Ok(()),
                0 => return Err(io::Error::other(format!("{arrived} bytes arrived instead of {SHORT}"))),
                bytes => arrived += bytes,
            }
        }
    })
}

/// Opens a tunnel and echoes one byte through it.
///
/// # Errors
/// Errors of the tunnel.
pub fn touch(route: &Route) -> io::Result<TcpStream> {
    let mut stream = route.open()?;
    stream.write_all(&[TOUCH])?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer == [TOUCH] { Ok(stream) } else { Err(ErrorKind::InvalidData.into()) }
}

fn repeat(clients: usize, time: Duration, tunnel: impl Fn(usize) -> io::Result<()> + Sync) -> io::Result<Connects> {
    let start = Instant::now();
    let client = |number| {
        let mut latencies = Vec::new();
        while start.elapsed() < time {
            let opened = Instant::now();
            tunnel(number)?;
            latencies.push(opened.elapsed().as_secs_f64() * 1e6);
        }
        Ok(latencies)
    };
    let latency = thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|number| scope.spawn(move || client(number))).collect();
        let results =
            threads.into_iter().map(|thread| thread.join().map_err(|_| io::Error::other("a client panicked"))?);
        results.collect::<io::Result<Vec<_>>>()
    })?
    .concat();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let per_second = latency.len() as f64 / start.elapsed().as_secs_f64();
    Ok(Connects { per_second, latency: Samples(latency) })
}
