//! What a loop asks epoll to report of the two sockets of a tunnel.

use std::io;
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use super::super::pump::Pump;
use crate::sys::tcp;
use crate::tunnel::Direction;

/// What the kernel is to report, each time that it begins to be so.
const INTEREST: epoll::EventFlags = epoll::EventFlags::IN
    .union(epoll::EventFlags::PRI)
    .union(epoll::EventFlags::OUT)
    .union(epoll::EventFlags::RDHUP)
    .union(epoll::EventFlags::ET);

/// Adds both sockets of a tunnel to an epoll instance.
pub(super) fn register(epoll: &OwnedFd, id: u64, pump: &mut Pump) -> io::Result<()> {
    for direction in Direction::BOTH {
        // splice(2) looks at the flag of the socket, not of the call.
        pump.source(direction).socket.set_nonblocking(true)?;
        // Whatever kills the process in mid-stream must not look like the end of the stream.
        tcp::reset_on_close(&pump.source(direction).socket, true)?;
        if let Err(error) = epoll::add(epoll, &pump.source(direction).socket, data(id, direction), INTEREST) {
            if direction == Direction::ToClient {
                let _ = epoll::delete(epoll, &pump.source(Direction::ToOrigin).socket);
            }
            return Err(error.into());
        }
    }
    Ok(())
}

/// Has everything reported once more that is so at this moment: without that, an end that came right
/// behind the first bytes, before the loop knew the tunnel, would never be heard of.
pub(super) fn report_again(epoll: &OwnedFd, id: u64, pump: &mut Pump) -> io::Result<()> {
    for direction in Direction::BOTH {
        epoll::modify(epoll, &pump.source(direction).socket, data(id, direction), INTEREST)?;
    }
    Ok(())
}

fn data(id: u64, direction: Direction) -> epoll::EventData {
    epoll::EventData::new_u64(id << 1 | direction.index() as u64)
}
