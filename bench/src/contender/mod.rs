//! Contenders: no proxy, programs started by the bench, and a running proxy. One file for each
//! started program.

mod gateway;
mod haproxy;
mod instance;
mod nginx;
mod program;
mod squid;
mod tinyproxy;
mod tokio_uring;

use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

pub use instance::{Contender, Kind, Programs};

impl Programs {
    /// Starts `kind`: one contender for each engine of the gateway. Reports a missing program and
    /// returns none.
    ///
    /// # Errors
    /// A program cannot be started.
    pub fn start(&self, kind: Kind, origin: SocketAddr) -> io::Result<Vec<Contender>> {
        if kind == Kind::Engines {
            let engine = |engine: &String| Self { engines: vec![engine.clone()], ..self.clone() }.one(kind, origin);
            return self.engines.iter().filter_map(|name| engine(name).transpose()).collect();
        }
        Ok(self.one(kind, origin)?.into_iter().collect())
    }

    /// Starts `kind`, with the first engine.
    fn one(&self, kind: Kind, origin: SocketAddr) -> io::Result<Option<Contender>> {
        let program = match kind {
            Kind::Engines | Kind::TokioUring => Some(self.gateway.clone()),
            Kind::Nginx => installed("nginx", self.nginx.as_deref(), "nginx-light libnginx-mod-stream"),
            Kind::Haproxy => installed("haproxy", self.haproxy.as_deref(), "haproxy"),
            Kind::Squid => installed("squid", None, "squid"),
            Kind::Tinyproxy => installed("tinyproxy", None, "tinyproxy-bin"),
        };
        let Some(program) = program else { return Ok(None) };
        let contender = match kind {
            Kind::Engines => gateway::start(&program, self.engines.first().map_or("", |name| name), origin),
            Kind::Nginx => nginx::start(&program, origin),
            Kind::Haproxy => haproxy::start(&program, origin),
            Kind::Squid => squid::start(&program, origin),
            Kind::Tinyproxy => tinyproxy::start(&program, origin),
            Kind::TokioUring => tokio_uring::start(origin),
        }?;
        Ok(Some(contender.started_by(self.clone(), kind)))
    }
}

impl Contender {
    /// Starts another instance, without earlier tunnels: a used instance holds memory for reuse.
    /// Returns `None` if the bench did not start this one.
    ///
    /// # Errors
    /// The instance cannot be started.
    pub fn fresh(&self) -> io::Result<Option<Self>> {
        let Some((programs, kind)) = self.recipe() else { return Ok(None) };
        programs.one(*kind, self.route.origin)
    }
}

/// Finds `program`: as named, or in the folders of programs and daemons. Reports a missing one.
fn installed(program: &str, named: Option<&Path>, packages: &str) -> Option<PathBuf> {
    let found = named.map(Path::to_owned).or_else(|| find(program));
    if found.is_none() {
        eprintln!("{program} is not installed and left out; 'apt-get install {packages}' brings it");
    }
    found
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let daemons = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let folders = env::split_paths(&path).chain(daemons);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::program::write;
    use super::*;
    use crate::process::{Process, folder, free_port};
    use crate::socket::Proxy;

    /// Tests that `program` accepts a configuration; skipped if the program is not installed.
    fn accepts(program: &str, arguments: &[&str], config: impl Fn(&Path, &Path) -> String) {
        let Some(program) = find(program) else { return };
        let folder = folder().unwrap();
        let text = config(&program, folder.path());
        let config = write(folder.path(), "config", &text).unwrap();
        let output = Command::new(&program).args(arguments).arg(config).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}\n{text}", program.display());
    }

    #[test]
    fn the_programs_accept_their_configurations() {
        let (origin, address) = (free_port().unwrap(), free_port().unwrap());
        accepts("nginx", &["-t", "-c"], |program, folder| nginx::config(program, folder, address, origin).unwrap());
        accepts("haproxy", &["-c", "-f"], |_, _| haproxy::config(address, origin));
        accepts("squid", &["-k", "parse", "-f"], |_, folder| squid::config(folder, address).unwrap());
    }

    #[test]
    fn one_that_dies_is_named_with_the_end_of_its_log() {
        let script = "echo out of cheese >&2; exit 7";
        let mut process = Process::start("mouse", Command::new("sh").args(["-c", script]), None).unwrap();
        assert!(process.ready(|_| None::<()>).is_err());
        let address = free_port().unwrap();
        let mut contender = Contender::started(process, "mouse", String::new(), Proxy::Plain(address), address);
        let error = contender.explain("1 tunnel", &io::ErrorKind::ConnectionRefused.into()).to_string();
        let expected = "mouse ended (exit status: 7) during '1 tunnel'; the end of its log:\nout of cheese";
        assert_eq!(error, expected);
        let error = Contender::direct(address).explain("1 tunnel", &io::Error::other("no byte arrived")).to_string();
        assert_eq!(error, "no proxy, 1 tunnel: no byte arrived");
    }
}
