//! rsync and its own daemon, by `RSYNC_PROXY`.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use super::user::{NAME, PASSWORD, command, gateway, succeed, went_through};
use crate::support::process::program;
use crate::support::{Noise, Origin};

/// File sizes in a volume: empty, small, just below and above rsync's block size, large.
const SIZES: [usize; 8] = [0, 1, 700, 4_096, 131_071, 131_073, 1 << 20, 24 << 20];

fn path(volume: &Path, number: usize) -> std::path::PathBuf {
    volume.join(format!("directory {}/file {number}", number % 3))
}

fn make(volume: &Path) {
    for (number, size) in SIZES.into_iter().enumerate() {
        let path = path(volume, number);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(&path, Noise::new(number as u64).take(size)).expect("a file");
    }
    std::os::unix::fs::symlink("directory 0/file 0", volume.join("link")).expect("a link");
}

fn compare(volume: &Path) {
    for (number, size) in SIZES.into_iter().enumerate() {
        let arrived = fs::read(path(volume, number)).expect("a file");
        assert!(arrived == Noise::new(number as u64).take(size), "file {number} is another one");
    }
    assert!(fs::symlink_metadata(volume.join("link")).expect("a link").is_symlink());
}

/// Starts rsync's daemon like inetd, with the connection as its standard input.
fn daemon(configuration: &Path, connection: std::net::TcpStream) {
    let copy = OwnedFd::from(connection.try_clone().expect("a descriptor"));
    let mut daemon = Command::new("rsync");
    daemon.arg("--daemon").arg(format!("--config={}", configuration.display()));
    daemon.stdin(Stdio::from(OwnedFd::from(connection))).stdout(Stdio::from(copy));
    daemon.status().expect("rsync starts");
}

#[test]
fn a_volume_there_and_back() {
    let Some(rsync) = program("rsync", "rsync") else { return };
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for name in ["source", "remote", "back"] {
        fs::create_dir(at(name)).unwrap();
    }
    make(&at("source"));
    // A daemon run by root changes to user nobody by default, and only root may set another user.
    let identity = if rustix::process::geteuid().is_root() { "uid = 0\ngid = 0\n" } else { "" };
    let configuration = at("rsyncd.conf");
    let text = format!(
        "use chroot = no\n{identity}log file = {}\n[volume]\npath = {}\nread only = no\n",
        at("log").display(),
        at("remote").display()
    );
    fs::write(&configuration, text).unwrap();
    let origin = Origin::new().serve(move |connection| daemon(&configuration, connection));
    let remote = format!("rsync://{}/volume/", origin.address);
    let local = |name: &str| format!("{}/", at(name).display());
    for (from, to, arrived) in [(local("source"), remote.clone(), "remote"), (remote, local("back"), "back")] {
        let gateway = gateway();
        let mut copy = command(rsync);
        copy.args(["--archive", &from, &to]).env("RSYNC_PROXY", format!("{NAME}:{PASSWORD}@{}", gateway.address));
        succeed(copy, b"");
        compare(&at(arrived));
        went_through(&gateway, origin.address);
    }
}
