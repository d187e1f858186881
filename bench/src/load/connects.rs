//! How fast tunnels can be opened and closed, empty or with a little in them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};

use crate::flow::{Role, SHORT};
use crate::origin::{TOUCH, wish};
use crate::socket::Way;
use crate::stats::Samples;

/// What opening tunnels gave.
#[derive(Clone, Debug)]
pub struct Connects {
    /// Tunnels a second, of all clients together.
    pub per_second: f64,
    /// Microseconds from connect to the byte that came back, or to the end of what came.
    pub latency: Samples,
}

/// Lets `clients` open a tunnel, send a byte, get it back and close, again and again for `time`.
///
/// # Errors
/// Those of any tunnel.
pub fn connects(way: &Way, clients: usize, time: Duration) -> io::Result<Connects> {
    repeat(clients, time, |_| touch(way).map(drop))
}

/// Lets `clients` open a tunnel, take the 64 KiB that come, and close, again and again for `time`.
///
/// # Errors
/// Those of any tunnel, and one that ends with more or less than that.
pub fn short(way: &Way, clients: usize, time: Duration) -> io::Result<Connects> {
    repeat(clients, time, |client| {
        let mut stream = way.open()?;
        stream.write_all(&[wish(Role::Short, client)])?;
        let mut arrived = 0;
        let mut scratch = [0; SHORT];
        loop {
            // MSG_TRUNC drops the bytes without copying them (tcp(7)).
            match recv(&stream, &mut scratch[..], RecvFlags::TRUNC)?.1 {
                0 if arrived == SHORT => return Ok(()),
                0 => return Err(io::Error::other(format!("{arrived} bytes arrived instead of {SHORT}"))),
                bytes => arrived += bytes,
            }
        }
    })
}

/// A tunnel that has carried a byte both ways.
///
/// # Errors
/// Those of the tunnel.
pub fn touch(way: &Way) -> io::Result<TcpStream> {
    let mut stream = way.open()?;
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
