//! The control socket: a unix socket for the user of the gateway and root.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::geteuid;
use tokio::net::{UnixListener, UnixStream};

use crate::invalid_value::InvalidValue;

/// The socket's mode: its user alone.
const MODE: u32 = 0o600;

/// Mode of a newly made folder of the socket, regardless of the umask. Other users may search the
/// folder, so a gateway running as another user (`--run-as`) reaches its socket; the socket's own
/// mode keeps other users out.
const FOLDER_MODE: u32 = 0o755;

/// Connections waiting for accept. More would not be served sooner.
const BACKLOG: i32 = 128;

/// Longest time for another gateway to bind in the same folder.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// A bound control socket; dropping it removes its file.
#[derive(Debug)]
pub struct ControlSocket {
    // Dropped before the file, because the file is removed only without a listener.
    listener: StdListener,
    file: SocketFile,
}

/// The file of a socket, to be dropped after its listener.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

/// Failure to bind a control socket: the path, the cause and the remedy.
#[derive(Debug)]
pub struct BindError {
    path: PathBuf,
    cause: String,
    remedy: &'static str,
}

impl BindError {
    /// Returns the cause, with option and path, and the remedy.
    #[must_use]
    pub fn invalid(&self) -> InvalidValue {
        InvalidValue::new(self.cause.clone(), self.remedy).of(format_args!("--control {}", self.path.display()))
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.invalid().fmt(f)
    }
}

impl std::error::Error for BindError {}

/// Returns the default path of the control socket: `/run/sluicegate/control.sock` for root, else
/// `sluicegate/control.sock` in `$XDG_RUNTIME_DIR`; `None` if that variable is not set.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    default_path_of(geteuid().is_root(), std::env::var_os("XDG_RUNTIME_DIR").as_deref())
}

fn default_path_of(is_root: bool, runtime_folder: Option<&OsStr>) -> Option<PathBuf> {
    let folder = if is_root { Some(Path::new("/run")) } else { runtime_folder.map(Path::new) };
    // A relative one is to be ignored (XDG Base Directory Specification 0.8).
    folder.filter(|folder| folder.is_absolute()).map(|folder| folder.join("sluicegate").join("control.sock"))
}

/// Tells if the peer is root or the user of this process.
///
/// The kernel records the peer's user at connect (`SO_PEERCRED`, unix(7)).
pub(super) fn may_control(stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_cred() else { return false };
    let permitted = peer.uid() == 0 || peer.uid() == geteuid().as_raw();
    if !permitted {
        tracing::warn!(uid = peer.uid(), pid = peer.pid(), "the control socket refused a user");
    }
    permitted
}

impl ControlSocket {
    /// Binds `path`, replacing a socket without a listener, and makes its folder if necessary.
    ///
    /// # Errors
    /// A socket with a listener, a file other than a socket, and the errors of the system calls.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |(cause, remedy): (String, &'static str)| BindError { path: path.to_owned(), cause, remedy };
        Self::bind_in(folder(path), path).map_err(failed)
    }

    fn bind_in(folder: &Path, path: &Path) -> Result<Self, (String, &'static str)> {
        let of_folder = |error: io::Error| (format!("{}: {error}", folder.display()), remedy(&error));
        // Before a folder is made.
        is_socket(path)?;
        make_folder(folder).map_err(of_folder)?;
        // Reports a live socket even to a user without permission to make a lock here.
        inspect(path)?;
        // Held until the new socket listens: of two gateways replacing the same dead socket, one
        // would remove the other's new socket.
        let _lock = Lock::of(path)?;
        match inspect(path)? {
            Found::Nothing => {}
            Found::Dead => fs::remove_file(path).map_err(|error| (error.to_string(), remedy(&error)))?,
        }
        let listener = bind(path).map_err(|error| {
            let error = io::Error::from(error);
            (error.to_string(), remedy(&error))
        })?;
        Ok(Self { listener, file: SocketFile(path.to_owned()) })
    }

    /// Checks that a socket can be at this path: its length, and that nothing else is there.
    /// A gateway that listens there is no error.
    ///
    /// # Errors
    /// As [`ControlSocket::bind`].
    pub fn check(path: &Path) -> Result<(), BindError> {
        let failed = |(cause, remedy): (String, &'static str)| BindError { path: path.to_owned(), cause, remedy };
        is_socket(path).map(drop).map_err(failed)
    }

    /// Path of the socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.0
    }

    /// Changes the owner of the socket's file, before the gateway changes to that user.
    ///
    /// # Errors
    /// Those of lchown(2).
    pub fn give_to(&self, uid: u32, gid: u32) -> io::Result<()> {
        std::os::unix::fs::lchown(&self.file.0, Some(uid), Some(gid))
    }

    /// Returns the listener and the file; dropping the file removes it.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub(crate) fn into_parts(self) -> io::Result<(UnixListener, SocketFile)> {
        Ok((UnixListener::from_std(self.listener)?, self.file))
    }
}

impl Drop for SocketFile {
    /// Removes the file, unless another gateway has put a live socket in its place.
    fn drop(&mut self) {
        let Ok(_lock) = Lock::of(&self.0) else { return };
        if let Ok(Found::Dead) = inspect(&self.0) {
            // Fails with EPERM after a change of user; the next gateway replaces the file.
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    }
}

/// Makes a folder and its missing parents. The mode of new folders is set explicitly: the umask
/// would keep the user of `--run-as` out.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() || folder.is_dir() {
        return Ok(());
    }
    folder.parent().map_or(Ok(()), make_folder)?;
    match DirBuilder::new().create(folder) {
        // Another gateway was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made.and_then(|()| fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))),
    }
}

/// A file beside the socket, locked against other gateways (flock(2)) until dropped, and then
/// removed.
///
/// Locking the folder itself would not do: any user with read access can lock it.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn of(socket: &Path) -> Result<Self, (String, &'static str)> {
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        let failed = |error: io::Error| {
            let is_there = fs::symlink_metadata(&path).is_ok();
            let cause = if is_there { format!("{}: {error}", path.display()) } else { error.to_string() };
            (cause, remedy(&error))
        };
        loop {
            let file = open_lock(&path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // The file may have been removed by its last holder.
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, file }),
                Ok(()) => {}
                Err(error) if Instant::now() >= deadline => {
                    let cause = format!("{} is locked: {error}", path.display());
                    return Err((cause, "see with `lslocks` which process holds it, or name another path"));
                }
                Err(_) => thread::park_timeout(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed before unlocking: afterwards it could be another gateway's file.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Opens the file of a lock, or makes it. An existing file is opened without O_CREAT, because even
/// root may not use O_CREAT on files of other users in a folder like /tmp (`fs.protected_regular`).
fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(MODE).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => options.create(true).open(path),
        opened => opened,
    }
}

/// The path still names this file.
fn is_at(file: &File, path: &Path) -> bool {
    let same = |found: &fs::Metadata, own: &fs::Metadata| (found.dev(), found.ino()) == (own.dev(), own.ino());
    matches!((&fs::symlink_metadata(path), &file.metadata()), (Ok(found), Ok(own)) if same(found, own))
}

/// State of a path before its replacement.
enum Found {
    Nothing,
    /// A socket without a listener.
    Dead,
}

/// True if a socket is at the path, and false if nothing is.
fn is_socket(path: &Path) -> Result<bool, (String, &'static str)> {
    let failed = |error: io::Error| Err((error.to_string(), remedy(&error)));
    if let Err(error) = SocketAddrUnix::new(path) {
        return failed(error.into());
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => failed(error),
        Ok(found) if found.is_dir() => {
            Err(("the path is a directory".to_owned(), "name a path in it, such as its control.sock"))
        }
        Ok(found) if !found.file_type().is_socket() => {
            Err(("the path is not a socket".to_owned(), "remove it, or name another path"))
        }
        Ok(_) => Ok(true),
    }
}

fn inspect(path: &Path) -> Result<Found, (String, &'static str)> {
    if !is_socket(path)? {
        return Ok(Found::Nothing);
    }
    let live = "another gateway listens there".to_owned();
    let stop_it = "stop it, or give this one a socket of its own: --control PATH, or none";
    match connect(path) {
        // Its backlog is full.
        Ok(()) | Err(Errno::AGAIN) => Err((live, stop_it)),
        Err(Errno::CONNREFUSED | Errno::PROTOTYPE) => Ok(Found::Dead),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        Err(error) => {
            let error = io::Error::from(error);
            Err((error.to_string(), remedy(&error)))
        }
    }
}

fn connect(path: &Path) -> Result<(), Errno> {
    let socket = socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

fn socket() -> Result<rustix::fd::OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

/// Binds and listens.
///
/// The mode is set before bind(2), because the file gets the mode of the socket, less the umask
/// (`net/unix/af_unix.c`, `unix_bind_bsd`). So no other user can connect at any moment, regardless
/// of the umask.
fn bind(path: &Path) -> Result<StdListener, Errno> {
    let socket = socket()?;
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENAMETOOLONG) => "name a shorter path: that of a unix socket has at most 107 bytes",
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "name a path in a folder that this user may write, or `--control none` for no socket"
        }
        Some(libc::ENOTDIR | libc::ENOENT | libc::EEXIST) => "name a path in a folder",
        _ => "name another path, or `--control none` for no socket",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bound: Result<ControlSocket, BindError>) -> String {
        bound.expect_err("it cannot be bound").to_string()
    }

    #[test]
    fn the_path_follows_the_user() {
        let path = |is_root, folder: Option<&str>| default_path_of(is_root, folder.map(OsStr::new));
        let root = PathBuf::from("/run/sluicegate/control.sock");
        assert_eq!(path(true, None), Some(root.clone()));
        assert_eq!(path(true, Some("/run/user/7")), Some(root));
        assert_eq!(path(false, Some("/run/user/7")), Some("/run/user/7/sluicegate/control.sock".into()));
        for unset in [None, Some(""), Some("run/user/7")] {
            assert_eq!(path(false, unset), None, "{unset:?}");
        }
    }

    #[test]
    fn a_socket_is_its_users_alone_and_goes_with_its_gateway() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, MODE);
        assert_eq!(socket.path(), path);
        drop(socket);
        assert!(!path.exists());
    }

    /// `check` and a bind give the same answer.
    #[test]
    fn a_path_that_no_socket_can_be_at_is_refused_before_a_bind() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("file"), "").unwrap();
        let long = at(&"x".repeat(107 - at("").as_os_str().len()));
        assert_eq!(long.as_os_str().len(), 107);
        ControlSocket::check(&long).unwrap();
        for (path, said) in [
            (directory.path().to_owned(), "the path is a directory; name a path in it"),
            (at("file"), "the path is not a socket; remove it"),
            (at("file").join("x"), "name a path in a folder"),
            (at("new").join("x".repeat(107)), "name a shorter path"),
        ] {
            let checked = ControlSocket::check(&path).unwrap_err().to_string();
            assert!(checked.contains(said), "{checked}");
            assert_eq!(message(ControlSocket::bind(&path)), checked);
        }
        assert!(!at("new").exists());
        // A live one is no error before a gateway is to be started.
        let socket = ControlSocket::bind(&at("live")).unwrap();
        ControlSocket::check(socket.path()).unwrap();
    }

    #[test]
    fn a_live_socket_stays_and_a_dead_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let first = ControlSocket::bind(&path).unwrap();
        let live = message(ControlSocket::bind(&path));
        let start = format!("--control {}: another gateway listens there; stop it", path.display());
        assert!(live.starts_with(&start), "{live}");
        // As after kill -9.
        let ControlSocket { listener, file } = first;
        drop(listener);
        assert!(path.exists());
        let second = ControlSocket::bind(&path).unwrap();
        // The first file leaves the second one's socket alone.
        drop(file);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn of_many_that_start_at_once_beside_a_dead_socket_one_has_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        for _ in 0..20 {
            drop(StdListener::bind(&path).unwrap());
            refuses(&path);
            let bound: Vec<_> = thread::scope(|scope| {
                let starts: Vec<_> = (0..4).map(|_| scope.spawn(|| ControlSocket::bind(&path))).collect();
                starts.into_iter().map(|start| start.join().unwrap()).collect()
            });
            let winners: Vec<_> = bound.into_iter().filter_map(Result::ok).collect();
            assert_eq!(winners.len(), 1);
            assert_eq!(connect(&path), Ok(()));
            drop(winners);
            refuses(&path);
            // It may have seemed to be alive still.
            let _ = fs::remove_file(&path);
        }
    }

    /// Waits until a path has no listener: a child started by another test has a copy of every
    /// listener between fork(2) and execve(2).
    fn refuses(path: &Path) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !matches!(connect(path), Err(Errno::CONNREFUSED | Errno::NOENT)) {
            assert!(Instant::now() < deadline, "something listens at {}", path.display());
            thread::yield_now();
        }
    }

    /// Any user with read access to the folder can lock it.
    #[test]
    fn a_lock_on_the_folder_is_no_hindrance_and_none_stays_behind() {
        let directory = tempfile::tempdir().unwrap();
        let folder = File::open(directory.path()).unwrap();
        flock(&folder, FlockOperation::NonBlockingLockExclusive).unwrap();
        let socket = ControlSocket::bind(&directory.path().join("control.sock")).unwrap();
        let files =
            || fs::read_dir(directory.path()).unwrap().map(|file| file.unwrap().file_name()).collect::<Vec<_>>();
        assert_eq!(files(), ["control.sock"]);
        drop(socket);
        assert!(files().is_empty());
    }

    #[test]
    fn a_lock_is_for_this_user_alone_and_one_left_by_a_dead_gateway_is_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let held = Lock::of(&path).unwrap();
        assert_eq!(held.file.metadata().unwrap().permissions().mode() & 0o077, 0);
        let locked = message(ControlSocket::bind(&path));
        assert!(locked.contains("control.sock.lock is locked"), "{locked}");
        drop(held);
        fs::write(directory.path().join("control.sock.lock"), "").unwrap();
        drop(ControlSocket::bind(&path).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_bound_is_explained() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "kept").unwrap();
        assert!(
            message(ControlSocket::bind(&file)).ends_with("the path is not a socket; remove it, or name another path")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path().join("nowhere"), &link).unwrap();
        assert!(message(ControlSocket::bind(&link)).contains("is not a socket"));
        let below = message(ControlSocket::bind(&file.join("control.sock")));
        assert!(below.ends_with("name a path in a folder"), "{below}");
        let long = message(ControlSocket::bind(&directory.path().join("x".repeat(108))));
        assert!(long.contains("at most 107 bytes"), "{long}");
    }
}
