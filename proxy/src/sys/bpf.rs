//! The kernel's side of the engine `sockmap`: the program that redirects, its maps, and the state of each direction.

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

/// The loaded program with its maps. What it does goes on for as long as it exists, or its sockets do.
pub struct Redirector {
    maps: Mutex<Maps>,
    directions: Arc<Directions>,
    full: Mutex<RingBuf<MapData>>,
    /// Holds the program; it stays attached to the map without.
    _program: Ebpf,
}

struct Maps {
    slots: HashMap<MapData, u64, [u64; 3]>,
    destinations: SockHash<MapData, u64>,
    sources: SockMap<MapData>,
}

/// Why the program could not be loaded.
#[derive(Debug)]
pub struct LoadError {
    /// What was refused: `map`, `program`, `attach` or `object`.
    pub what: &'static str,
    /// The kernel's error, if it was the kernel's.
    pub error: io::Error,
    /// The end of what the kernel's verifier said, if anything.
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
    /// Loads the program with maps for so many sockets; `offsets` are the places of
    /// [`sluicegate_ebpf::FIELDS`] within the running kernel, in bytes.
    ///
    /// # Errors
    /// What was refused: EPERM without CAP_BPF and CAP_NET_ADMIN; EINVAL without CAP_PERFMON, under lockdown, or from a
    /// kernel without the map type or the program type (`CONFIG_BPF_STREAM_PARSER`).
    pub fn load(sockets: u32, offsets: [u32; FIELDS.len()]) -> Result<Self, LoadError> {
        // An ELF file is read in place, which wants it aligned; so does a fresh allocation.
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
        let (destinations, sources, full) = (map(DESTINATIONS)?, map(SOURCES)?, map(FULL)?);
        let Map::Array(directions) = directions else { return Err(LoadError::missing(DIRECTIONS)) };
        let directions = Directions::map(&directions, sockets).map_err(|error| LoadError::new("map", error))?;
        let of_map = LoadError::of_map;
        let maps = Maps {
            slots: slots.try_into().map_err(of_map)?,
            destinations: destinations.try_into().map_err(of_map)?,
            sources: sources.try_into().map_err(of_map)?,
        };
        let full = full.try_into().map_err(of_map)?;
        let found: Result<&mut SkSkb, _> = match program.program_mut(PROGRAM) {
            Some(found) => found.try_into(),
            None => return Err(LoadError::missing(PROGRAM)),
        };
        let redirect = found.map_err(|error| LoadError::of_program("program", error))?;
        redirect.load().map_err(|error| LoadError::of_program("program", error))?;
        // Not by a link, which maps of sockets take since Linux 6.10 only, and which a segment costs the same.
        let map = maps.sources.fd().try_clone().map_err(|error| LoadError::new("attach", error))?;
        redirect.attach(&map).map_err(|error| LoadError::of_program("attach", error))?;
        Ok(Self { maps: Mutex::new(maps), directions: Arc::new(directions), full: Mutex::new(full), _program: program })
    }

    /// The state of every direction.
    #[must_use]
    pub const fn directions(&self) -> &Arc<Directions> {
        &self.directions
    }

    /// Makes a socket one that can be redirected to, and its slot that of the direction from it. The cookies are its own
    /// (`SO_COOKIE`, socket(7)) and that of the socket which it is redirected to.
    ///
    /// # Errors
    /// That of bpf(2): EOPNOTSUPP where its connection is not established, or its end was received already
    /// (`net/core/sock_map.c`, `sock_map_sk_state_allowed`).
    pub fn add_destination(&self, slot: u32, socket: &TcpStream, [cookie, other]: [u64; 2]) -> io::Result<()> {
        self.directions.set_owner(slot, cookie);
        let mut maps = self.maps();
        maps.slots.insert(cookie, [cookie, other, slot.into()], 0).map_err(error_of)?;
        maps.destinations.insert(cookie, socket.as_raw_fd(), 0).map_err(error_of)
    }

    /// Has the program find this in the place of what it needs of the source with this cookie.
    #[cfg(test)]
    pub(crate) fn forge(&self, cookie: u64, entry: [u64; 3]) {
        self.maps().slots.insert(cookie, entry, 0).expect("a map with room");
    }

    /// Has the program judge what a socket receives; it has to be among the destinations already.
    ///
    /// # Errors
    /// As of [`Redirector::add_destination`].
    pub fn add_source(&self, slot: u32, socket: &TcpStream) -> io::Result<()> {
        self.maps().sources.set(slot, socket, 0).map_err(error_of)
    }

    /// Has the program look at what a source had received before. Setting `SO_RCVLOWAT` does that
    /// (`net/ipv4/tcp.c`, `tcp_set_rcvlowat`) and reads nothing.
    ///
    /// # Errors
    /// That of setsockopt(2).
    pub fn kick(socket: &TcpStream) -> io::Result<()> {
        super::socket::set_low_water(socket, 1)
    }

    /// Takes both sockets of a tunnel out of everything. Those that were closed or reset are out already.
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

    /// Sockets that have a slot.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.maps().slots.keys().count()
    }

    /// Takes out every socket that is in a map, and says how often that was.
    #[cfg(test)]
    pub(crate) fn clear(&self) -> usize {
        let Maps { destinations, sources, .. } = &mut *self.maps();
        // An array has every index, whether something is there or not; only taking it out tells.
        let slots: Vec<u32> = sources.indices().filter_map(Result::ok).collect();
        let cleared = slots.iter().filter(|slot| sources.clear_index(slot).is_ok()).count();
        let cookies: Vec<u64> = destinations.keys().filter_map(Result::ok).collect();
        cleared + cookies.iter().filter(|cookie| destinations.remove(cookie).is_ok()).count()
    }

    /// Appends the slots of those directions that became full since the last call.
    pub fn take_full(&self, slots: &mut Vec<u32>) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(item) = full.next() {
            slots.extend(<[u8; 4]>::try_from(&*item).map(u32::from_ne_bytes));
        }
    }

    /// What becomes readable when there is something for [`Redirector::take_full`].
    ///
    /// # Errors
    /// That of dup(2).
    pub fn full(&self) -> io::Result<std::os::fd::OwnedFd> {
        let full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the ring buffer owns the descriptor and lives while `full` is locked, which is until the copy is made.
        unsafe { BorrowedFd::borrow_raw(full.as_raw_fd()) }.try_clone_to_owned()
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
                // What it says last is what it stopped at.
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
