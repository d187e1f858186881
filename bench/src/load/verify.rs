//! Whether the bytes arrive as they were sent.

use std::io::{self, Read, Write};
use std::thread;

use crate::flow::{Random, Role};
use crate::origin::byte;
use crate::socket::Way;

/// Bytes compared at once.
const BLOCK: usize = 64 << 10;

/// Sends `blocks` blocks of 64 KiB of random bytes to an echo, and compares what comes back.
///
/// # Errors
/// Those of the tunnel, and the first byte that differs.
pub fn verify(way: &Way, blocks: usize, seed: u64) -> io::Result<()> {
    let mut stream = way.open()?;
    stream.write_all(&[byte(Role::Echo)])?;
    let mut sending = stream.try_clone()?;
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            let mut random = Random(seed);
            (0..blocks).try_for_each(|_| sending.write_all(&block(&mut random)))
        });
        let mut random = Random(seed);
        let mut got = vec![0; BLOCK];
        for number in 0..blocks {
            stream.read_exact(&mut got)?;
            let wanted = block(&mut random);
            if let Some(place) = (0..BLOCK).find(|place| got[*place] != wanted[*place]) {
                let place = number * BLOCK + place;
                stream.shutdown(std::net::Shutdown::Both)?;
                return Err(io::Error::other(format!("the byte at {place} is not the one that was sent")));
            }
        }
        sent.join().map_err(|_| io::Error::other("the sender panicked"))?
    })
}

fn block(random: &mut Random) -> Vec<u8> {
    (0..BLOCK / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}
