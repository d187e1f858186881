//! Name servers and names configured on this host: `/etc/resolv.conf` and `/etc/hosts`.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::warn;

use crate::file::{self, ReadError};
use crate::fingerprint::FileFingerprint;
use crate::target::normal_name;

/// Number of name servers used, as in glibc (`MAXNS`, resolv.h).
const MAX_SERVERS: usize = 3;

/// Default time before the next name server is queried, without `options timeout:` (`RES_TIMEOUT`,
/// resolv.h).
const SERVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time that `options timeout:` can give a name server (`RES_MAXRETRANS`, resolv.h).
const MAX_SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// Largest file to read, in bytes: some lists of hosts are long.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// The used part of `/etc/resolv.conf`. The search list and `ndots` are not used: a name is
/// absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvConf {
    pub(super) servers: Vec<IpAddr>,
    pub(super) timeout: Duration,
    /// Servers are asked in turn instead of in their order.
    pub(super) rotate: bool,
    pub(super) edns0: bool,
    /// Queries go over TCP alone.
    pub(super) use_vc: bool,
}

/// The content of both files at one time.
#[derive(Debug)]
pub(super) struct HostFiles {
    pub(super) resolv: ResolvConf,
    hosts: HashMap<String, Vec<IpAddr>>,
}

impl HostFiles {
    /// Returns the addresses of a name in normal form if `/etc/hosts` lists it, or if it is
    /// `localhost` or below it (RFC 6761, 6.3).
    pub(super) fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let is_localhost = || name == "localhost" || name.ends_with(".localhost");
        let loopback = || vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        self.hosts.get(name).cloned().or_else(|| is_localhost().then(loopback))
    }
}

/// Both files, re-read when they change.
#[derive(Debug)]
pub(super) struct Files {
    paths: [PathBuf; 2],
    content: Mutex<Arc<HostFiles>>,
    /// Fingerprints of the files at the last read.
    stamps: Mutex<[Option<FileFingerprint>; 2]>,
}

impl Files {
    /// Reads the files of this host.
    pub(super) fn of_host() -> Self {
        Self::at(["/etc/resolv.conf".into(), "/etc/hosts".into()])
    }

    pub(super) fn at(paths: [PathBuf; 2]) -> Self {
        let content = HostFiles { resolv: resolv_conf(""), hosts: HashMap::new() };
        let files = Self { paths, content: Mutex::new(Arc::new(content)), stamps: Mutex::default() };
        files.reread(true);
        files
    }

    /// Reads the files again if one of them has changed or if `asked` is set. Blocks on the file
    /// system. Keeps the old content of an unreadable file.
    pub(super) fn reread(&self, asked: bool) {
        let mut stamps = self.stamps.lock().unwrap_or_else(PoisonError::into_inner);
        let [resolv_path, hosts_path] = &self.paths;
        let now = [FileFingerprint::of(resolv_path), FileFingerprint::of(hosts_path)];
        if now == *stamps && !asked {
            return;
        }
        *stamps = now;
        let before = self.content();
        let resolv = read(resolv_path).map_or_else(|| before.resolv.clone(), |text| resolv_conf(&text));
        let hosts = read(hosts_path).map_or_else(|| before.hosts.clone(), |text| hosts(&text));
        *self.lock() = Arc::new(HostFiles { resolv, hosts });
    }

    /// Content of the files at the last read.
    pub(super) fn content(&self) -> Arc<HostFiles> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Arc<HostFiles>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the text of a file; `None`, with a warning, if it cannot be read. A missing file is an
/// empty one, as for glibc.
fn read(path: &Path) -> Option<String> {
    match file::read(path, MAX_FILE_BYTES) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Some(String::new()),
        Err(error) => {
            warn!(file = %path.display(), %error, "cannot read the file; names are resolved with its last content, if any");
            None
        }
    }
}

/// Parses resolv.conf(5). Without a name server it uses the one on this host.
fn resolv_conf(text: &str) -> ResolvConf {
    let mut conf =
        ResolvConf { servers: Vec::new(), timeout: SERVER_TIMEOUT, rotate: false, edns0: false, use_vc: false };
    for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
                conf.servers.extend(address);
                conf.servers.truncate(MAX_SERVERS);
            }
            Some("options") => {
                for option in words {
                    match option.split_once(':') {
                        Some(("timeout", seconds)) => {
                            if let Ok(seconds @ 1..) = seconds.parse() {
                                conf.timeout = Duration::from_secs(seconds).min(MAX_SERVER_TIMEOUT);
                            }
                        }
                        _ => match option {
                            "rotate" => conf.rotate = true,
                            "edns0" => conf.edns0 = true,
                            "use-vc" => conf.use_vc = true,
                            _ => {}
                        },
                    }
                }
            }
            _ => {}
        }
    }
    if conf.servers.is_empty() {
        conf.servers.push(Ipv4Addr::LOCALHOST.into());
    }
    conf
}

/// Parses hosts(5): the addresses of each name, in the order of the lines.
fn hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split_once('#').map_or(line, |(line, _)| line);
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words.filter_map(|name| normal_name(name).ok()) {
            let addresses = hosts.entry(name).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn resolv_conf_is_read_as_by_glibc_but_for_the_search_list() {
        let conf = resolv_conf(
            "# a comment\n;another\nsearch secret.corp\noptions ndots:5 timeout:1 attempts:7 rotate edns0\n\
             nameserver 192.0.2.1\nnameserver nonsense\nnameserver fd00::1\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
        );
        assert_eq!(conf.servers, ["192.0.2.1", "fd00::1", "192.0.2.3"].map(address));
        assert_eq!(conf.timeout, Duration::from_secs(1));
        assert!(conf.rotate && conf.edns0 && !conf.use_vc);
        let empty = resolv_conf("");
        assert_eq!(empty.servers, [address("127.0.0.1")]);
        assert_eq!(empty.timeout, Duration::from_secs(5));
        assert_eq!(resolv_conf("options timeout:0 timeout:x").timeout, SERVER_TIMEOUT);
        assert_eq!(resolv_conf("options timeout:9999").timeout, MAX_SERVER_TIMEOUT);
    }

    #[test]
    fn hosts_lists_names_in_the_form_of_targets() {
        let text =
            "127.0.0.1 localhost\n192.0.2.7\tDB.Example. db # the database\nfd00::7 db\nnonsense x\n192.0.2.7 db\n";
        let files = HostFiles { resolv: resolv_conf(""), hosts: hosts(text) };
        assert_eq!(files.addresses("db.example"), Some(vec![address("192.0.2.7")]));
        assert_eq!(files.addresses("db"), Some(["192.0.2.7", "fd00::7"].map(address).to_vec()));
        assert_eq!(files.addresses("localhost"), Some(vec![address("127.0.0.1")]));
        assert_eq!(files.addresses("a.localhost"), Some(["::1", "127.0.0.1"].map(address).to_vec()));
        assert_eq!(files.addresses("x"), None);
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["resolv.conf", "hosts"].map(|name| directory.path().join(name));
        let files = Files::at(paths.clone());
        assert_eq!(files.content().resolv.servers, [address("127.0.0.1")]);
        std::fs::write(&paths[0], "nameserver 192.0.2.9\n").unwrap();
        std::fs::write(&paths[1], "192.0.2.8 db\n").unwrap();
        files.reread(false);
        assert_eq!(files.content().resolv.servers, [address("192.0.2.9")]);
        assert_eq!(files.content().addresses("db"), Some(vec![address("192.0.2.8")]));
        // A path that is not a file keeps the old content; a missing file is an empty one.
        std::fs::remove_file(&paths[0]).unwrap();
        std::fs::create_dir(&paths[0]).unwrap();
        std::fs::remove_file(&paths[1]).unwrap();
        files.reread(false);
        assert_eq!(files.content().resolv.servers, [address("192.0.2.9")]);
        assert_eq!(files.content().addresses("db"), None);
    }
}
