//! The engine `sockmap`: a BPF program and two maps make the kernel redirect from one socket of a
//! tunnel to the other.
//!
//! A tunnel begins as with the engine `splice`, at the same workers: the pump passes on the bytes
//! already in the sockets. As soon as no bytes are under way there, and unless the tunnel is
//! rate-limited ([`Pump::redirect`](super::pump::Pump::redirect)), the pair goes into the maps
//! ([`Pair::offload`]). From then on the worker handles only ends, failures, and destinations that
//! do not keep up ([`OffloadedDirection`]).
//!
//! | file | content |
//! |---|---|
//! | `offloaded` | one direction: its position in both streams, and its end |
//! | `offloaded/behind` | work of userspace while the destination does not keep up |
//! | `offloaded/spill` | memory for that work, bounded for all tunnels together |
//! | `backpressure` | thread receiving backpressure events from the program |
//! | `btf` | offsets of the fields read by the program in the kernel's sockets |
//! | `hint` | remedies for a host unable to run the engine |
//! | `selftest` | test of redirection on this kernel, as the engine needs it |

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;

use super::poller::Epoll;
use super::pump::Step;
use super::workers::Workers;
use super::{Component, Engine, EngineUnavailable, Options};
use crate::sys::bpf::{Directions, Redirector};
use crate::tunnel::{ByteCounter, Direction, Flow};
use sluicegate_ebpf::FIELDS;

mod backpressure;
mod btf;
mod hint;
mod offloaded;
pub(super) mod selftest;

#[cfg(test)]
mod tests;

pub(super) use backpressure::BackpressureWatch;
pub(super) use offloaded::send_buffer;

use offloaded::{Ends, OffloadedDirection, SpillBudget};

/// The program, its maps, and the owners of the slots.
#[derive(Debug)]
pub struct Program {
    redirector: Redirector,
    /// First slots of the free pairs. A returned pair goes to the back of the queue, so nothing of
    /// its last tunnel can still be under way in the kernel when it is used again.
    free: Mutex<VecDeque<u32>>,
    /// Tunnel ids, by pair.
    owners: Box<[AtomicU64]>,
    /// Budget for bytes spilled to userspace while destinations do not keep up.
    budget: Arc<SpillBudget>,
}

impl Program {
    /// Loads the program, with room for `tunnels`.
    ///
    /// # Errors
    /// The component refused by the kernel, and the error.
    pub(super) fn load(tunnels: usize) -> Result<Self, (Component, io::Error)> {
        let setting = std::fs::read_to_string(hint::PANIC_ON_WARN).unwrap_or_default();
        hint::outlives_warnings(&setting).map_err(|error| (Component::PanicOnWarn, error))?;
        let pairs = u32::try_from(tunnels).unwrap_or(MAX_TUNNELS).min(MAX_TUNNELS);
        let offsets = btf::offsets_in_kernel(FIELDS).map_err(|error| (Component::Types, error))?;
        let redirector = Redirector::load(pairs * 2, offsets).map_err(|refused| {
            let part = if refused.what == "map" { Component::Maps } else { Component::Program };
            let said =
                if refused.detail.is_empty() { refused.error } else { detailed(&refused.error, &refused.detail) };
            (part, said)
        })?;
        Ok(Self {
            redirector,
            free: Mutex::new((0..pairs).map(|pair| pair * 2).collect()),
            owners: (0..pairs).map(|_| AtomicU64::new(0)).collect(),
            budget: Arc::default(),
        })
    }

    /// Descriptor readable when a direction has gone over its limit.
    pub(super) fn full(&self) -> io::Result<OwnedFd> {
        self.redirector.full()
    }

    /// Appends the ids of tunnels with a direction gone over its limit since the last call.
    pub(super) fn take_full(&self, tunnels: &mut Vec<u64>) {
        let mut slots = Vec::new();
        self.redirector.take_full(&mut slots);
        tunnels.extend(
            slots
                .iter()
                .filter_map(|slot| self.owners.get(*slot as usize / 2))
                .map(|owner| owner.load(Ordering::Relaxed)),
        );
    }

    /// Redirected bytes of all tunnels in the maps, by [`Direction::index`].
    fn redirected(&self) -> [u64; 2] {
        let owned = self.owners.iter().zip((0..).step_by(2)).filter(|(owner, _)| owner.load(Ordering::Relaxed) != 0);
        let directions = self.redirector.directions();
        owned.fold([0; 2], |sum, (_, first)| {
            Direction::BOTH
                .map(|direction| sum[direction.index()] + directions.counts(slot_in(first, direction)).redirected)
        })
    }
}

/// Starts the engine and tests everything kernels are known to get wrong.
///
/// # Errors
/// The component that failed, and the error.
pub(super) fn start(options: &Options) -> Result<Workers, (Component, io::Error)> {
    let program = match &options.program {
        Some(Ok(program)) => program.clone(),
        _ => Program::load(options.tunnels).map(Arc::new)?,
    };
    let loops = Workers::start_redirecting::<Epoll>(program.clone(), options);
    let loops = loops.map_err(|error| (Component::Threads, error))?;
    let tried = selftest::run(&program, options.sockmap_backlog, |tunnel| loops.adopt(tunnel));
    tried.map_err(|error| (Component::Tunnel, error))?;
    Ok(loops)
}

/// Describes a host unable to run a component of the engine.
pub(super) fn unavailable((part, error): (Component, io::Error)) -> EngineUnavailable {
    EngineUnavailable { engine: Engine::Sockmap, part, hint: hint::hint(part, &error), error }
}

/// Maximum number of tunnels redirected at once: the maps are allocated in one piece.
const MAX_TUNNELS: u32 = 1 << 16;

/// Replaces the text of a kernel error by `detail`, but keeps an error number for later tests.
fn detailed(error: &io::Error, detail: &str) -> io::Error {
    tracing::debug!(%error, detail, "the kernel's verifier");
    error.raw_os_error().map_or_else(|| io::Error::other(detail.to_owned()), io::Error::from_raw_os_error)
}

/// A tunnel with at least one direction in the maps. Dropping it removes it from them.
#[derive(Debug)]
pub(super) struct Pair {
    program: Arc<Program>,
    /// The slot of the client's socket; the origin's socket has the next.
    first: u32,
    cookies: [u64; 2],
    directions: [OffloadedDirection; 2],
    flow: Arc<Flow>,
}

impl Pair {
    /// Puts both sockets of tunnel `id` into the maps. All bytes read from either socket have been
    /// sent to the other.
    ///
    /// # Errors
    /// Neither direction is redirected then: EOPNOTSUPP if a socket has received FIN or a reset,
    /// ENOSPC if every slot is taken, or another error of bpf(2).
    pub(super) fn offload(
        program: &Arc<Program>,
        id: u64,
        sockets: [&TcpStream; 2],
        flow: &Arc<Flow>,
        options: &Options,
    ) -> io::Result<Self> {
        let cookies = [socket_cookie(sockets[0])?, socket_cookie(sockets[1])?];
        let free = || program.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let first = free().ok_or(Errno::NOSPC)?;
        program.owners[first as usize / 2].store(id, Ordering::Relaxed);
        // Returns its slots on every exit path.
        let mut pair =
            Self { program: program.clone(), first, cookies, directions: Default::default(), flow: flow.clone() };
        let Program { redirector, .. } = &**program;
        for direction in Direction::BOTH {
            let ends = pair.ends(direction, sockets);
            let (directions, limit) = (redirector.directions(), options.sockmap_backlog);
            pair.directions[direction.index()] =
                OffloadedDirection::prepare(&ends, directions, limit, &program.budget)?;
        }
        for direction in Direction::BOTH {
            let (slot, place) = (pair.slot(direction), direction.index());
            redirector.add_destination(slot, sockets[place], [cookies[place], cookies[1 - place]])?;
        }
        let mut refused = None;
        for direction in Direction::BOTH {
            let (slot, socket) = (pair.slot(direction), sockets[direction.index()]);
            redirector.directions().enable(slot, true);
            match redirector.add_source(slot, socket) {
                Ok(()) => pair.directions[direction.index()].redirects = true,
                Err(error) => refused = Some(error),
            }
        }
        if let (Some(error), [false, false]) = (refused, [0, 1].map(|way| pair.directions[way].redirects)) {
            return Err(error);
        }
        flow.attach_counter(Arc::new(Counter { directions: redirector.directions().clone(), first }));
        for direction in Direction::BOTH.into_iter().filter(|direction| pair.redirects(*direction)) {
            // Fails only for descriptors other than TCP sockets, which cannot get here.
            let _ = Redirector::kick(sockets[direction.index()]);
        }
        Ok(pair)
    }

    /// Tests if the kernel has this direction; otherwise it was refused, and the pump has it.
    pub(super) const fn redirects(&self, direction: Direction) -> bool {
        self.directions[direction.index()].redirects
    }

    /// Runs one step of a redirected direction.
    pub(super) fn step(&mut self, direction: Direction, sockets: [&TcpStream; 2], state: State<'_>) -> Step {
        let ends = self.ends(direction, sockets);
        self.directions[direction.index()].step(&ends, self.program.redirector.directions(), &self.flow, state)
    }

    /// Tests if all bytes of a direction, redirected or left with the source, are in the
    /// destination's send buffer.
    pub(super) fn is_drained(&self, direction: Direction, sockets: [&TcpStream; 2]) -> bool {
        let ends = self.ends(direction, sockets);
        self.directions[direction.index()].is_drained(&ends, self.program.redirector.directions())
    }

    fn slot(&self, direction: Direction) -> u32 {
        slot_in(self.first, direction)
    }

    fn ends<'a>(&self, direction: Direction, sockets: [&'a TcpStream; 2]) -> Ends<'a> {
        let (source, destination) = (sockets[direction.index()], sockets[direction.opposite().index()]);
        Ends { direction, slot: self.slot(direction), source, destination }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.flow.detach_counter();
        let Program { redirector, free, owners, .. } = &*self.program;
        redirector.remove(Direction::BOTH.map(|direction| self.slot(direction)), self.cookies);
        owners[self.first as usize / 2].store(0, Ordering::Relaxed);
        free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.first);
    }
}

/// The slot of a direction in the pair starting at `first`: the slot of its source.
const fn slot_in(first: u32, direction: Direction) -> u32 {
    match direction {
        Direction::ToOrigin => first,
        Direction::ToClient => first + 1,
    }
}

/// State of a direction's source, and a buffer, lent by the worker.
#[derive(Debug)]
pub(super) struct State<'a> {
    /// The peer has sent FIN or a reset.
    pub(super) read_closed: bool,
    /// The connection broke.
    pub(super) broken: bool,
    pub(super) scratch: &'a mut [u8],
    pub(super) now: std::time::Instant,
}

/// Bytes redirected by the program for one tunnel.
#[derive(Debug)]
struct Counter {
    directions: Arc<Directions>,
    first: u32,
}

impl ByteCounter for Counter {
    fn moved(&self, direction: Direction) -> u64 {
        self.directions.counts(slot_in(self.first, direction)).redirected
    }
}
