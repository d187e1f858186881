//! Direct Volume Migration on loopback, with the programs of a real one.
//!
//! ```text
//! rsync -> stunnel client -> gateway -> HAProxy (routes by SNI) -> stunnel server -> rsyncd
//!          one per volume                                          one for all
//! ```
//!
//! Order of use: [`Volumes::generate`], [`Route::open`], [`Route::probe`], [`Route::migrate`],
//! [`Volumes::verify`]. Dropping a `Route` ends its processes. Dropping the `Volumes` removes their
//! folder.

mod folder;
mod gateway;
mod parent;
mod peers;
mod process;
mod rsync;
mod verify;
mod volume;

pub use gateway::{Gateway, Metrics, PASSWORD, USER};
pub use parent::Parent;
pub use peers::start_listener;
pub use process::Process;
pub use rsync::Transfer;
pub use verify::Verified;
pub use volume::Contents;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use crate::failure::{Context, Failure, Result};
use folder::Folder;
use peers::Peers;

/// Parameters of a migration.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Number of concurrent volumes, each with an rsync and a stunnel of its own.
    pub volumes: usize,
    /// Apparent bytes of each volume, including the hole of its sparse file.
    pub bytes: u64,
    /// Seed of the contents.
    pub seed: u64,
}

/// Generated source volumes and the empty target volumes.
#[derive(Debug)]
pub struct Volumes {
    dir: Folder,
    contents: Vec<Contents>,
}

impl Volumes {
    /// Creates and fills the source volumes in a new temporary folder.
    ///
    /// # Errors
    /// The disk has no room for two copies, or writing fails.
    pub fn generate(plan: &Plan) -> Result<Self> {
        let dir = Folder::new()?;
        check_room(dir.path(), plan)?;
        let mut contents = Vec::new();
        for number in 0..plan.volumes {
            fs::create_dir_all(dir.path().join(format!("target/vol{number}"))).context("target volume")?;
            let source = dir.path().join(format!("source/vol{number}"));
            contents.push(volume::generate(&source, plan.bytes, plan.seed.wrapping_add(number as u64))?);
        }
        Ok(Self { dir, contents })
    }

    /// Sum over all volumes.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.contents.iter().copied().sum()
    }

    /// Temporary folder: volumes, configuration and logs.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Path of source volume `number`.
    #[must_use]
    pub fn source(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("source/vol{number}"))
    }

    /// Path of target volume `number`.
    #[must_use]
    pub fn target(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("target/vol{number}"))
    }

    /// Number of volumes.
    #[must_use]
    pub fn count(&self) -> usize {
        self.contents.len()
    }

    /// Compares every source with its target: names, types, modes, owners, times, SHA-256 of the
    /// contents, links and holes.
    ///
    /// # Errors
    /// The first difference, with the name of the file.
    pub fn verify(&self) -> Result<Verified> {
        let mut sum = Verified::default();
        for number in 0..self.count() {
            sum += verify::compare(&self.source(number), &self.target(number))?;
        }
        Ok(sum)
    }
}

/// Checks for room for both copies and a tenth more, for the overhead of the file system.
fn check_room(dir: &Path, plan: &Plan) -> Result<()> {
    let fs = rustix::fs::statvfs(dir).context("free space")?;
    let free = fs.f_bavail.saturating_mul(fs.f_frsize);
    let need = plan.bytes.saturating_mul(plan.volumes as u64).saturating_mul(22) / 10;
    if free < need {
        let (need, free) = (need >> 20, free >> 20);
        let dir = dir.display();
        return Err(Failure::new(format!(
            "{dir} has {free} MiB free and the volumes need {need} MiB: use a smaller --size, or set TMPDIR to a larger disk"
        )));
    }
    Ok(())
}

/// Running path from rsync to rsyncd.
#[derive(Debug)]
pub struct Route {
    clients: Vec<(Process, u16)>,
    gateway: Gateway,
    peers: Peers,
    dir: PathBuf,
}

impl Route {
    /// Starts everything but rsync, from the far end to the near one. `gateway` gets the folder for
    /// its log and the port of the router, the target to permit.
    ///
    /// # Errors
    /// A part does not start; the error has the end of its log.
    pub fn open(volumes: &Volumes, gateway: impl FnOnce(&Path, u16) -> Result<Gateway>) -> Result<Self> {
        let dir = volumes.dir().to_owned();
        let peers = Peers::start(&dir, volumes.count())?;
        let gateway = gateway(&dir, peers.router_port())?;
        let clients = (0..volumes.count())
            .map(|number| peers.start_client(number, gateway.listen()))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { clients, gateway, peers, dir })
    }

    /// Gateway in the middle.
    #[must_use]
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Connects to every stunnel client and closes without a byte, like `nc -z` in the rsync
    /// container of a migration, repeated there until stunnel answers.
    ///
    /// # Errors
    /// A stunnel client does not accept.
    pub fn probe(&self) -> Result<()> {
        for (client, port) in &self.clients {
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, *port)).context(format!("probe of {}", client.name()))?);
        }
        Ok(())
    }

    /// Copies all volumes concurrently, calling `tick` about ten times per second.
    ///
    /// # Errors
    /// An rsync fails; the error has the ends of all logs on its path.
    pub fn migrate(&self, tick: &mut dyn FnMut()) -> Result<Transfer> {
        let ports: Vec<u16> = self.clients.iter().map(|(_, port)| *port).collect();
        rsync::run(&self.dir, &ports, tick).map_err(|(number, failure)| {
            let client = &self.clients[number].0;
            [client, self.gateway.process()]
                .into_iter()
                .chain(self.peers.processes())
                .fold(failure, |failure, process| failure.with_log(process.name(), process.log()))
                .with_log("rsyncd's own log", &self.dir.join("rsyncd-transfers.log"))
        })
    }
}
