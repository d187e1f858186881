//! One contender, and the kinds of contenders.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::process::Process;
use crate::socket::{Proxy, Route};

/// A contender, and its process if the bench started it.
#[derive(Debug)]
pub struct Contender {
    /// Name in the table.
    pub name: String,
    /// Version as printed by the program; empty if unknown.
    pub version: String,
    /// Route to the origin.
    pub route: Route,
    process: Option<Process>,
    /// Programs and kind for starting another instance.
    recipe: Option<(Programs, Kind)>,
}

/// A program to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// The gateway, once for each of its engines
    Engines,
    /// nginx, module stream, buffers of 1 MiB
    Nginx,
    /// HAProxy in TCP mode, splicing through pipes of 1 MiB
    Haproxy,
    /// Squid, CONNECT with Basic
    Squid,
    /// tinyproxy, CONNECT with Basic
    Tinyproxy,
    /// A relay on tokio-uring, part of this tool
    TokioUring,
}

/// Paths of the programs to start.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Path of the gateway.
    pub gateway: PathBuf,
    /// Engines of the gateway, each optionally followed by options of `serve`.
    pub engines: Vec<String>,
    /// Path of nginx; the system's by default.
    pub nginx: Option<PathBuf>,
    /// Path of HAProxy; the system's by default.
    pub haproxy: Option<PathBuf>,
}

impl Contender {
    /// Connects straight to the origin.
    #[must_use]
    pub fn direct(origin: SocketAddr) -> Self {
        Self::running("no proxy", None, origin)
    }

    /// Contender behind a running proxy, or without a proxy.
    #[must_use]
    pub fn running(name: &str, proxy: Option<Proxy>, origin: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            version: String::new(),
            route: Route { proxy, origin },
            process: None,
            recipe: None,
        }
    }

    pub(super) fn started(process: Process, name: &str, version: String, proxy: Proxy, origin: SocketAddr) -> Self {
        let route = Route { proxy: Some(proxy), origin };
        Self { name: name.to_owned(), version, route, process: Some(process), recipe: None }
    }

    /// Remembers the programs and the kind by which another instance can be started.
    pub(super) fn started_by(self, programs: Programs, kind: Kind) -> Self {
        Self { recipe: Some((programs, kind)), ..self }
    }

    /// Programs and kind by which it was started.
    pub(super) const fn recipe(&self) -> Option<&(Programs, Kind)> {
        self.recipe.as_ref()
    }

    /// Process id, if the bench started the contender.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Explains an error of a measurement: if the contender has exited, its exit is the cause.
    #[must_use]
    pub fn explain(&mut self, what: &str, error: &io::Error) -> io::Error {
        let dead = self.process.as_mut().and_then(|process| process.ends().map(|status| (process, status)));
        match dead {
            Some((process, status)) => process.failure(&format!("ended ({status}) during '{what}'")),
            None => io::Error::new(error.kind(), format!("{}, {what}: {error}", self.name)),
        }
    }
}
