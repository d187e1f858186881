//! Files replaced by unreadable ones: each is named, the old content stays in force, and nothing
//! blocks.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::support::log::Line;
use crate::support::process::replace;
use crate::support::skipped::skipped;
use crate::support::tls::Certificate;
use crate::support::{Gateway, Origin, Setup, admin, client, connect_as, eventually};

/// Replaces a file by something other than a text file.
struct Spoiled(&'static str, fn(&Path), &'static str);

const SPOILED: &[Spoiled] = &[
    Spoiled("FIFO", fifo, "a FIFO, not a regular file; put a regular file there"),
    Spoiled("directory", |path| fs::create_dir(path).unwrap(), "a directory, not"),
    Spoiled("sparse file", sparse, "larger than "),
    Spoiled("device", |path| symlink("/dev/zero", path).unwrap(), "a device, not"),
    Spoiled("nothing", |_| {}, "No such file or directory"),
];

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn sparse(path: &Path) {
    File::create(path).unwrap().set_len(5 << 30).unwrap();
}

fn remove(path: &Path) {
    let _ = fs::remove_file(path).or_else(|_| fs::remove_dir(path));
}

fn user(name: &str) -> String {
    format!("{name}:{}\n", bcrypt::hash("one", 4).expect("a hash"))
}

/// A gateway with every re-read file, and the paths of the files.
fn gateway(certificate: &Certificate) -> (Gateway, [PathBuf; 4]) {
    let at = |name: &str| certificate.0.path().join(name);
    let (config, users) = (at("gateway.toml"), at("users"));
    fs::write(&users, user("alice")).unwrap();
    fs::write(&config, "[users.alice]\nallow = ['127.0.0.0/8:*']\n").unwrap();
    let [config_path, users_path] = [&config, &users].map(|path| path.to_str().unwrap());
    let setup = Setup::new(&["--config", config_path, "--users-file", users_path]);
    (certificate.shown_by(setup).start(), [config, users, certificate.path(), certificate.key()])
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_old_one_stays() {
    let Some(certificate) = Certificate::make() else { return };
    let (mut gateway, files) = gateway(&certificate);
    let origin = Origin::echo();
    let open = connect_as(gateway.address, origin.address, "alice:one");
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        for Spoiled(what, spoil, said) in SPOILED {
            let position = gateway.log.position();
            let name = file.to_str().unwrap();
            remove(file);
            spoil(file);
            // The gateway may look between removal and replacement and find no file.
            let error = |line: &Line| line.text("error").contains(name) && line.text("error").contains(said);
            let named = |line: &Line| line.level() == "ERROR" && error(line);
            gateway.log.line_from(position, &format!("{name} is a {what}"), named);
            assert_eq!(admin::get(gateway.admin, "/healthz").status, 200);
            client::echoes(&open, 1_000);
            client::echoes(&connect_as(gateway.address, origin.address, "alice:one"), 1_000);
            // A repaired file is read again.
            let position = gateway.log.position();
            remove(file);
            replace(file, &text);
            gateway.log.line_from(position, "re-read", |line| line.message().ends_with(" reloaded"));
        }
    }
    // An unchanged file is not reported at every look.
    let errors = gateway.log.count(|line| line.level() == "ERROR");
    assert!(errors <= 3 * files.len() * SPOILED.len(), "{errors} errors");
    client::hang_up(&open);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}

/// A hung file system: no server answers for this mount.
struct Hung {
    over: PathBuf,
    /// Closing it aborts the file system.
    _device: File,
}

impl Hung {
    /// Prints a note and returns `None` if this process may not mount.
    fn mount(over: &Path) -> Option<Self> {
        use std::os::fd::AsRawFd;
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let Ok(device) = device else {
            skipped("/dev/fuse cannot be opened");
            return None;
        };
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        let mounted = rustix::mount::mount("hung", over, "fuse", rustix::mount::MountFlags::empty(), Some(&*data));
        if let Err(error) = mounted {
            skipped(&format!("a file system cannot be mounted: {error}"));
            return None;
        }
        Some(Self { over: over.to_owned(), _device: device })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.over, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_file_system_that_does_not_answer_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let mount = folder.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let users = mount.join("users");
    fs::write(&users, user("alice")).unwrap();
    let mut gateway = Setup::new(&["--users-file", users.to_str().unwrap()]).start();
    let origin = Origin::echo();
    let open = connect_as(gateway.address, origin.address, "alice:one");
    let Some(hung) = Hung::mount(&mount) else { return };
    let line = gateway.log_line("the hung file system", |line| line.level() == "ERROR");
    let said = format!("the file system of {} has not answered for 10 s; check the mount", users.display());
    assert!(line.text("error").contains(&said), "{}", line.raw);
    for signal in [None, Some(Signal::HUP)] {
        signal.into_iter().for_each(|signal| gateway.signal(signal));
        assert_eq!(admin::get(gateway.admin, "/readyz").status, 200);
        client::echoes(&open, 1_000);
        client::echoes(&connect_as(gateway.address, origin.address, "alice:one"), 1_000);
    }
    // The file system is back, with another file.
    let position = gateway.log.position();
    drop(hung);
    replace(&users, &user("bob"));
    gateway.log.line_from(position, "re-read", |line| line.message() == "users reloaded");
    client::echoes(&connect_as(gateway.address, origin.address, "bob:one"), 1_000);
    // The gateway ends on request even while the mount hangs again.
    let position = gateway.log.position();
    let Some(_hung) = Hung::mount(&mount) else { return };
    gateway.log.line_from(position, "hung", |line| line.level() == "ERROR");
    client::hang_up(&open);
    eventually("all are gone", || gateway.tunnels().is_empty());
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));
}
