//! Kernel side of the engine `sockmap`: the redirecting program, its maps, and the state of each
//! direction.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, Map, MapData, MapError, RingBuf, SockHash, SockMap};
use aya::programs::{ProgramError, SkSkb};
use aya::{Ebpf, EbpfError, EbpfLoader};
use sluicegate_ebpf::{DESTINATIONS, DIRECTIONS, FIELDS, FULL, OBJECT, OFFSETS, PROGRAM, SLOTS, SOURCES};

mod directions;

pub use directions::{Counts, Directions};

/// The loaded program with its maps. It redirects for as long as this value or its sockets exist.
pub struct Redirector {
    maps: Mutex<Maps>,
    directions: Arc<Directions>,
    over_limit: Mutex<RingBuf<MapData>>,
    /// Owns the program; it stays attached to the map even without this.
    _program: Ebpf,
}

struct Maps {
    slots: HashMap<MapData, u64, [u64; 3]>,
    destinations: SockHash<MapData, u64>,
    sources: SockMap<MapData>,
}

/// Failure to load the program.
#[derive(Debug)]
pub struct LoadError {
    /// The refused component: `map`, `program`, `attach` or `object`.
    pub what: &'static str,
    /// The kernel's error, if it came from the kernel.
    pub error: io::Error,
    /// Last line of the kernel verifier's log, if any.
    pub detail: String,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BPF {}: {}", self.what, self.error)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

impl std::error::Error for LoadError {}

impl Redirector {
    /// Loads the program with maps for `sockets` sockets; `offsets` are the offsets of
    /// [`sluicegate_ebpf::FIELDS`] in the running kernel, in bytes.
    ///
    /// # Errors
    /// The refused component: EPERM without CAP_BPF and CAP_NET_ADMIN; EINVAL without CAP_PERFMON,
    /// under lockdown, or from a kernel without the map type or the program type
    /// (`CONFIG_BPF_STREAM_PARSER`).
    pub fn load(sockets: u32, offsets: [u32; FIELDS.len()]) -> Result<Self, LoadError> {
        // The ELF file is parsed in place and must be aligned; a fresh allocation is.
        let object = OBJECT.to_vec();
        let mut loader = EbpfLoader::new();
        for map in [DIRECTIONS, SLOTS, DESTINATIONS, SOURCES] {
            loader.map_max_entries(map, sockets);
        }
        let offsets = offsets.map(u32::to_ne_bytes).concat();
        loader.override_global(OFFSETS, offsets.as_slice(), true);
        let mut program = loader.load(&object).map_err(LoadError::of_object)?;
        let mut map = |name: &str| program.take_map(name).ok_or_else(|| LoadError::missing(name));
        let (directions, slots) = (map(DIRECTIONS)?, map(SLOTS)?);
        let (destinations, sources, over_limit) = (map(DESTINATIONS)?, map(SOURCES)?, map(FULL)?);
        let Map::Array(directions) = directions else { return Err(LoadError::missing(DIRECTIONS)) };
        let directions = Directions::map(&directions, sockets).map_err(|error| LoadError::new("map", error))?;
        let of_map = LoadError::of_map;
        let maps = Maps {
            slots: slots.try_into().map_err(of_map)?,
            destinations: destinations.try_into().map_err(of_map)?,
            sources: sources.try_into().map_err(of_map)?,
        };
        let over_limit = over_limit.try_into().map_err(of_map)?;
        let found: Result<&mut SkSkb, _> = match program.program_mut(PROGRAM) {
            Some(found) => found.try_into(),
            None => return Err(LoadError::missing(PROGRAM)),
        };
        let redirect = found.map_err(|error| LoadError::of_program("program", error))?;
        redirect.load().map_err(|error| LoadError::of_program("program", error))?;
        // Attached without a link: maps of sockets take links only since Linux 6.10, and a link
        // does not make a segment cheaper.
        let map = maps.sources.fd().try_clone().map_err(|error| LoadError::new("attach", error))?;
        redirect.attach(&map).map_err(|error| LoadError::of_program("attach", error))?;
        Ok(Self {
            maps: Mutex::new(maps),
            directions: Arc::new(directions),
            over_limit: Mutex::new(over_limit),
            _program: program,
        })
    }

    /// The state of every direction.
    #[must_use]
    pub const fn directions(&self) -> &Arc<Directions> {
        &self.directions
    }

    /// Adds a socket as a target of redirection, and assigns the slot to the direction reading from
    /// it. The cookies are its own (`SO_COOKIE`, socket(7)) and its destination's.
    ///
    /// # Errors
    /// The error of bpf(2): EOPNOTSUPP if the connection is not established, or its FIN has already
    /// arrived (`net/core/sock_map.c`, `sock_map_sk_state_allowed`).
    pub fn add_destination(&self, slot: u32, socket: &TcpStream, [cookie, other]: [u64; 2]) -> io::Result<()> {
        self.directions.set_owner(slot, cookie);
        let mut maps = self.maps();
        maps.slots.insert(cookie, [cookie, other, slot.into()], 0).map_err(error_of)?;
        maps.destinations.insert(cookie, socket.as_raw_fd(), 0).map_err(error_of)
    }

    /// Replaces the program's entry for the source with this cookie.
    #[cfg(test)]
    pub(crate) fn forge(&self, cookie: u64, entry: [u64; 3]) {
        self.maps().slots.insert(cookie, entry, 0).expect("a map with room");
    }

    /// Makes the program judge the segments received by a socket; the socket must already be a
    /// destination.
    ///
    /// # Errors
    /// As [`Redirector::add_destination`].
    pub fn add_source(&self, slot: u32, socket: &TcpStream) -> io::Result<()> {
        self.maps().sources.set(slot, socket, 0).map_err(error_of)
    }

    /// Runs the program on segments received before. Setting `SO_RCVLOWAT` triggers this
    /// (`net/ipv4/tcp.c`, `tcp_set_rcvlowat`) and reads nothing.
    ///
    /// # Errors
    /// The error of setsockopt(2).
    pub fn kick(socket: &TcpStream) -> io::Result<()> {
        super::socket::set_low_water(socket, 1)
    }

    /// Removes both sockets of a tunnel from all maps. Closed or reset sockets are removed already.
    pub fn remove(&self, slots: [u32; 2], cookies: [u64; 2]) {
        let mut maps = self.maps();
        for slot in slots {
            let _ = maps.sources.clear_index(&slot);
        }
        for cookie in cookies {
            let _ = maps.destinations.remove(&cookie);
            let _ = maps.slots.remove(&cookie);
        }
    }

    /// Number of sockets with a slot.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.maps().slots.keys().count()
    }

    /// Removes every socket from the maps; returns the number of removed entries.
    #[cfg(test)]
    pub(crate) fn clear(&self) -> usize {
        let Maps { destinations, sources, .. } = &mut *self.maps();
        // An array has every index, occupied or not; only removal tells which are occupied.
        let slots: Vec<u32> = sources.indices().filter_map(Result::ok).collect();
        let cleared = slots.iter().filter(|slot| sources.clear_index(slot).is_ok()).count();
        let cookies: Vec<u64> = destinations.keys().filter_map(Result::ok).collect();
        cleared + cookies.iter().filter(|cookie| destinations.remove(cookie).is_ok()).count()
    }

    /// Appends the slots of directions gone over their limit since the last call.
    pub fn take_over_limit(&self, slots: &mut Vec<u32>) {
        let mut over_limit = self.over_limit.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(item) = over_limit.next() {
            slots.extend(<[u8; 4]>::try_from(&*item).map(u32::from_ne_bytes));
        }
    }

    /// Descriptor readable when [`Redirector::take_over_limit`] has slots to return.
    ///
    /// # Errors
    /// The error of dup(2).
    pub fn over_limit_events(&self) -> io::Result<std::os::fd::OwnedFd> {
        let over_limit = self.over_limit.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the ring buffer owns the descriptor and lives while `over_limit` is locked, until
        // the copy is made.
        unsafe { BorrowedFd::borrow_raw(over_limit.as_raw_fd()) }.try_clone_to_owned()
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Redirector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redirector").finish_non_exhaustive()
    }
}

impl LoadError {
    fn new(what: &'static str, error: io::Error) -> Self {
        Self { what, error, detail: String::new() }
    }

    fn missing(name: &str) -> Self {
        Self::new("object", io::Error::other(format!("it has no {name}")))
    }

    fn of_object(error: EbpfError) -> Self {
        match error {
            EbpfError::MapError(error) => Self::of_map(error),
            EbpfError::ProgramError(error) => Self::of_program("program", error),
            other => Self::new("object", io::Error::other(other)),
        }
    }

    fn of_map(error: MapError) -> Self {
        let detail = match &error {
            MapError::CreateError { name, .. } => name.clone(),
            _ => String::new(),
        };
        Self { what: "map", error: error_of(error), detail }
    }

    fn of_program(what: &'static str, error: ProgramError) -> Self {
        match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                // The last line names the point where the verifier stopped.
                let log = verifier_log.to_string();
                let last = log.lines().rev().find(|line| !line.is_empty() && !line.starts_with("processed"));
                Self { what, error: io_error, detail: last.unwrap_or_default().to_owned() }
            }
            ProgramError::SyscallError(error) => Self::new(what, error.io_error),
            ProgramError::MapError(error) => Self { what, ..Self::of_map(error) },
            other => Self::new(what, io::Error::other(other)),
        }
    }
}

/// The kernel's error within aya's.
fn error_of(error: MapError) -> io::Error {
    match error {
        MapError::CreateError { io_error, .. } | MapError::IoError(io_error) => io_error,
        MapError::SyscallError(error) => error.io_error,
        other => io::Error::other(other),
    }
}
