//! A tunnel in the maps of the program.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use rustix::net::sockopt::socket_cookie;

use super::offloaded_direction::OffloadedDirection;
use super::program::{Program, SlotPair};
use super::socket_pair::{SocketPair, slot_of};
use crate::relay::offload::{Offload, SourceState};
use crate::relay::step::Step;
use crate::sys::bpf::{Directions, Redirector};
use crate::tunnel::{ByteCounter, Direction, Flow};

/// A tunnel in the maps, with at least one direction that is redirected. Dropped, it is out of
/// them.
#[derive(Debug)]
pub(super) struct OffloadedTunnel {
    slots: SlotPair,
    cookies: [u64; 2],
    /// Directions that are redirected; the program refused the others.
    directions: [Option<OffloadedDirection>; 2],
    flow: Arc<Flow>,
}

impl OffloadedTunnel {
    /// Puts both sockets of tunnel `id` into the maps.
    ///
    /// # Errors
    /// As [`crate::relay::offload::Offloader::offload`].
    pub(super) fn new(program: &Arc<Program>, id: u64, sockets: [&TcpStream; 2], flow: &Arc<Flow>) -> io::Result<Self> {
        let cookies = [socket_cookie(sockets[0])?, socket_cookie(sockets[1])?];
        let slots = program.take_slots(id)?;
        // From here on dropping it undoes everything.
        let mut this = Self { slots, cookies, directions: [None, None], flow: flow.clone() };
        let redirector = program.redirector();
        let mut prepared = [None, None];
        for direction in Direction::BOTH {
            let pair = this.ends(direction, sockets);
            prepared[direction.index()] = Some(program.prepare(&pair)?);
        }
        for direction in Direction::BOTH {
            let (slot, place) = (this.slot(direction), direction.index());
            redirector.add_destination(slot, sockets[place], [cookies[place], cookies[1 - place]])?;
        }
        let mut refusal = None;
        for direction in Direction::BOTH {
            let (slot, place) = (this.slot(direction), direction.index());
            redirector.directions().enable(slot, true);
            match redirector.add_source(slot, sockets[place]) {
                Ok(()) => this.directions[place] = prepared[place].take(),
                Err(error) => refusal = Some(error),
            }
        }
        if let (Some(error), [None, None]) = (refusal, &this.directions) {
            return Err(error);
        }
        flow.attach_counter(Arc::new(Counter {
            directions: redirector.directions().clone(),
            first: this.slots.first(),
        }));
        for direction in Direction::BOTH.into_iter().filter(|direction| this.owns(*direction)) {
            // It fails only for what is no TCP socket, which would not have come so far.
            let _ = Redirector::kick(sockets[direction.index()]);
        }
        Ok(this)
    }

    #[cfg(test)]
    pub(super) const fn first_slot(&self) -> u32 {
        self.slots.first()
    }

    #[cfg(test)]
    pub(super) const fn cookies(&self) -> [u64; 2] {
        self.cookies
    }

    fn slot(&self, direction: Direction) -> u32 {
        slot_of(self.slots.first(), direction)
    }

    const fn ends<'a>(&self, direction: Direction, sockets: [&'a TcpStream; 2]) -> SocketPair<'a> {
        SocketPair::new(direction, self.slots.first(), sockets)
    }
}

impl Offload for OffloadedTunnel {
    fn owns(&self, direction: Direction) -> bool {
        self.directions[direction.index()].is_some()
    }

    fn step(&mut self, direction: Direction, sockets: [&TcpStream; 2], source: SourceState<'_>) -> Step {
        let pair = self.ends(direction, sockets);
        let Some(owned) = &mut self.directions[direction.index()] else { return Step::Blocked };
        owned.step(&pair, self.slots.program().redirector().directions(), &self.flow, source)
    }

    fn has_sent_all(&self, direction: Direction, sockets: [&TcpStream; 2]) -> bool {
        let pair = self.ends(direction, sockets);
        let directions = self.slots.program().redirector().directions();
        self.directions[direction.index()].as_ref().is_some_and(|owned| owned.has_sent_all(&pair, directions))
    }
}

impl Drop for OffloadedTunnel {
    fn drop(&mut self) {
        self.flow.detach_counter();
        let slots = Direction::BOTH.map(|direction| self.slot(direction));
        self.slots.program().redirector().remove(slots, self.cookies);
    }
}

/// Bytes that the program has redirected of one tunnel.
#[derive(Debug)]
struct Counter {
    directions: Arc<Directions>,
    first: u32,
}

impl ByteCounter for Counter {
    fn moved(&self, direction: Direction) -> u64 {
        self.directions.counts(slot_of(self.first, direction)).redirected
    }
}
