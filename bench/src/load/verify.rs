//! Check of the integrity of the data.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Instant;

use crate::data;
use crate::flow::Role;
use crate::origin::encode_request;
use crate::socket::Route;

/// Bytes compared at once.
const BLOCK_BYTES: usize = 256 << 10;

/// Sends `bytes` random bytes through each of `tunnels` tunnels at once to an echo, as fast as
/// possible, and compares the received bytes. Each tunnel starts at another offset of the random
/// bytes, so that bytes delivered to a wrong tunnel are detected. Returns GiB per second of one
/// direction, all tunnels together.
///
/// # Errors
/// Errors of the tunnels, and the first different byte.
pub fn verify(route: &Route, tunnels: usize, bytes: u64) -> io::Result<f64> {
    let start = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..tunnels as u64)
            .map(|number| scope.spawn(move || one(route, number, bytes).map_err(|e| named(number, &e))))
            .collect();
        let results =
            threads.into_iter().map(|thread| thread.join().map_err(|_| io::Error::other("a client panicked"))?);
        results.collect::<io::Result<()>>()
    })?;
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    Ok(bytes as f64 * tunnels as f64 / f64::from(1 << 30) / start.elapsed().as_secs_f64())
}

fn named(number: u64, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("tunnel {number}: {error}"))
}

fn one(route: &Route, number: u64, bytes: u64) -> io::Result<()> {
    let place = number * 1_000_003;
    let mut stream = route.open()?;
    #[expect(clippy::cast_possible_truncation, reason = "only to spread them")]
    stream.write_all(&[encode_request(Role::Echo, number as usize)])?;
    let sending = stream.try_clone()?;
    thread::scope(|scope| {
        let sent = scope.spawn(move || send(&sending, place, bytes));
        let received = receive(&stream, place, bytes);
        // Wakes a sender blocked by a full socket.
        let _ = stream.shutdown(Shutdown::Both);
        let sent = sent.join().map_err(|_| io::Error::other("the sender panicked"))?;
        received.and(sent)
    })
}

fn send(mut stream: &TcpStream, place: u64, bytes: u64) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes {
        let next = next(place + sent, bytes - sent);
        stream.write_all(next)?;
        sent += next.len() as u64;
    }
    Ok(())
}

fn receive(mut stream: &TcpStream, place: u64, bytes: u64) -> io::Result<()> {
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut received = 0;
    while received < bytes {
        let wanted = next(place + received, bytes - received);
        let got = &mut buffer[..wanted.len()];
        stream.read_exact(got)?;
        if got != wanted {
            let place = received + (0..got.len()).take_while(|at| got[*at] == wanted[*at]).count() as u64;
            return Err(io::Error::other(format!("the byte at {place} is not the one that was sent")));
        }
        received += wanted.len() as u64;
    }
    Ok(())
}

/// Next bytes to send, at most a block.
fn next(place: u64, left: u64) -> &'static [u8] {
    let bytes = data::from(place);
    let length = bytes.len().min(BLOCK_BYTES).min(usize::try_from(left).unwrap_or(BLOCK_BYTES));
    &bytes[..length]
}
