//! Comparison of copy and original: reads both trees in full and compares them name by name.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::Read;
use std::ops::AddAssign;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use rustix::fs::{SeekFrom, seek};
use sha2::{Digest, Sha256};

use crate::failure::{Context, Failure, Result};
use crate::interrupt;

const BLOCK: usize = 1 << 20;

/// Numbers of equal items.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Verified {
    /// Names of regular files.
    pub files: u64,
    /// Apparent bytes with equal SHA-256, every inode counted once.
    pub bytes: u64,
    /// Directories.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Additional names of an inode.
    pub hard_links: u64,
    /// Sparse files whose copies have a hole too.
    pub sparse: u64,
}

impl AddAssign for Verified {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.directories += other.directories;
        self.symlinks += other.symlinks;
        self.hard_links += other.hard_links;
        self.sparse += other.sparse;
    }
}

/// Attributes of one name.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    modified: (i64, i64),
    /// First name of the inode in sort order, for any other name.
    link_to: Option<PathBuf>,
    has_hole: bool,
    allocated: u64,
}

#[derive(Debug, PartialEq)]
enum Kind {
    File { length: u64, sha256: [u8; 32] },
    Directory,
    Symlink(PathBuf),
    Special,
}

/// Compares two trees.
///
/// # Errors
/// The first difference, with the file and both sides; or a file cannot be read.
pub(super) fn compare(source: &Path, target: &Path) -> Result<Verified> {
    let (originals, copies) = both(|| read_tree(source), || read_tree(target))?;
    let (originals, copies) = (originals?, copies?);
    // Names first: a file more or less in a folder changes the time of the folder too.
    if let Some(missing) = originals.keys().find(|name| !copies.contains_key(*name)) {
        return Err(differs(source, missing, "is missing in the copy"));
    }
    if let Some(extra) = copies.keys().find(|name| !originals.contains_key(*name)) {
        return Err(differs(source, extra, "is in the copy alone"));
    }
    let mut verified = Verified::default();
    for ((name, original), copy) in originals.iter().zip(copies.values()) {
        if let Some(difference) = original.difference(copy) {
            return Err(differs(source, name, &difference));
        }
        original.count(&mut verified);
    }
    Ok(verified)
}

fn differs(root: &Path, name: &Path, what: &str) -> Failure {
    Failure::new(format!("{:?} {what}", root.join(name)))
}

impl Entry {
    fn difference(&self, copy: &Self) -> Option<String> {
        fn unequal<T: PartialEq + fmt::Debug>(what: &str, original: &T, copy: &T) -> Option<String> {
            (original != copy).then(|| format!("differs in its {what}: {original:?}, in the copy {copy:?}"))
        }
        let octal = |mode: u32| format!("{mode:o}");
        unequal("type or contents", &self.kind, &copy.kind)
            .or_else(|| unequal("mode", &octal(self.mode), &octal(copy.mode)))
            .or_else(|| unequal("owner", &self.owner, &copy.owner))
            .or_else(|| unequal("time", &self.modified, &copy.modified))
            .or_else(|| unequal("hard link", &self.link_to, &copy.link_to))
            .or_else(|| self.hole_lost(copy))
    }

    fn hole_lost(&self, copy: &Self) -> Option<String> {
        let Kind::File { length, .. } = self.kind else { return None };
        let lost = self.has_hole && copy.allocated >= length;
        lost.then(|| format!("has a hole that was filled in the copy ({} bytes allocated)", copy.allocated))
    }

    fn count(&self, sum: &mut Verified) {
        match self.kind {
            Kind::File { length, .. } => {
                sum.files += 1;
                sum.sparse += u64::from(self.has_hole);
                match self.link_to {
                    Some(_) => sum.hard_links += 1,
                    None => sum.bytes += length,
                }
            }
            Kind::Directory => sum.directories += 1,
            Kind::Symlink(_) => sum.symlinks += 1,
            Kind::Special => {}
        }
    }
}

fn read_tree(root: &Path) -> Result<BTreeMap<PathBuf, Entry>> {
    let mut names = Vec::new();
    list(root, Path::new(""), &mut names)?;
    names.sort();
    let mut reader = Reader { seen: HashMap::new(), buffer: vec![0; BLOCK] };
    names.into_iter().map(|name| Ok((name.clone(), reader.entry(root, &name)?))).collect()
}

/// Lists every name below `root`, and an empty one for the root itself.
fn list(root: &Path, name: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    names.push(name.to_owned());
    let path = root.join(name);
    if !fs::symlink_metadata(&path).context(path.display())?.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(&path).context(path.display())? {
        let entry = entry.context(path.display())?;
        list(root, &name.join(entry.file_name()), names)?;
    }
    Ok(())
}

struct Reader {
    /// First name and contents of each inode, so that a hard link is read once.
    seen: HashMap<u64, (PathBuf, [u8; 32])>,
    buffer: Vec<u8>,
}

impl Reader {
    fn entry(&mut self, root: &Path, name: &Path) -> Result<Entry> {
        interrupt::check()?;
        let path = root.join(name);
        let meta = fs::symlink_metadata(&path).context(path.display())?;
        let (mut link_to, mut has_hole) = (None, false);
        let kind = if meta.is_file() {
            let (first, sha256, hole) = self.file(&path, name, &meta)?;
            (link_to, has_hole) = (first, hole);
            Kind::File { length: meta.len(), sha256 }
        } else if meta.is_dir() {
            Kind::Directory
        } else if meta.is_symlink() {
            Kind::Symlink(fs::read_link(&path).context(path.display())?)
        } else {
            Kind::Special
        };
        Ok(Entry {
            kind,
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            link_to,
            has_hole,
            // In units of 512 bytes on Linux, independent of the block size (inode(7)).
            allocated: meta.blocks() * 512,
        })
    }

    fn file(&mut self, path: &Path, name: &Path, meta: &Metadata) -> Result<(Option<PathBuf>, [u8; 32], bool)> {
        if let Some((first, sha256)) = self.seen.get(&meta.ino()) {
            return Ok((Some(first.clone()), *sha256, false));
        }
        let mut file = File::open(path).context(path.display())?;
        let mut hash = Sha256::new();
        loop {
            let read = file.read(&mut self.buffer).context(path.display())?;
            if read == 0 {
                break;
            }
            hash.update(&self.buffer[..read]);
        }
        let sha256 = hash.finalize().into();
        self.seen.insert(meta.ino(), (name.to_owned(), sha256));
        // The end of a file counts as a hole (lseek(2)); a file system without holes reports only
        // the end.
        let hole = seek(&file, SeekFrom::Hole(0)).is_ok_and(|offset| offset < meta.len());
        Ok((None, sha256, hole))
    }
}

/// Runs `left` and `right` concurrently.
fn both<T: Send>(left: impl FnOnce() -> T + Send, right: impl FnOnce() -> T) -> Result<(T, T)> {
    thread::scope(|scope| {
        let left = scope.spawn(left);
        let right = right();
        left.join().map(|left| (left, right)).map_err(|_| Failure::new("a worker thread panicked"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    /// Error of comparing two equal trees after `spoil` changes the second.
    fn after(spoil: impl FnOnce(&Path)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for root in [&one, &two] {
            fs::create_dir(root).unwrap();
            fs::write(root.join("a"), "contents").unwrap();
            fs::hard_link(root.join("a"), root.join("b")).unwrap();
            symlink("a", root.join("c")).unwrap();
            let sparse = File::create(root.join("d")).unwrap();
            sparse.set_len(1 << 20).unwrap();
            date(root);
        }
        assert_eq!(compare(&one, &two).unwrap().files, 3);
        spoil(&two);
        date(&two);
        compare(&one, &two).map_or_else(|failure| failure.to_string(), |_| String::new())
    }

    /// Sets one time everywhere, including links.
    fn date(root: &Path) {
        let at = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 5 };
        let times = rustix::fs::Timestamps { last_access: at, last_modification: at };
        for name in ["a", "b", "c", "d", "e", "."] {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let _ = rustix::fs::utimensat(rustix::fs::CWD, root.join(name), &times, flags);
        }
    }

    #[test]
    fn each_difference_is_named() {
        let write =
            |name: &'static str, text: &'static str| move |root: &Path| fs::write(root.join(name), text).unwrap();
        assert!(after(write("a", "CONTENTS")).contains("/a\" differs in its type or contents"));
        assert!(after(write("e", "")).contains("/e\" is in the copy alone"));
        assert!(after(|root| fs::remove_file(root.join("c")).unwrap()).contains("/c\" is missing in the copy"));
        let mode = |root: &Path| fs::set_permissions(root.join("a"), Permissions::from_mode(0o600)).unwrap();
        assert!(after(mode).contains("differs in its mode: \"100644\", in the copy \"100600\""));
        let unlink = |root: &Path| {
            fs::remove_file(root.join("b")).unwrap();
            fs::write(root.join("b"), "contents").unwrap();
        };
        assert!(after(unlink).contains("/b\" differs in its hard link: Some(\"a\"), in the copy None"));
        let fill = |root: &Path| fs::write(root.join("d"), vec![0; 1 << 20]).unwrap();
        assert!(after(fill).contains("/d\" has a hole that was filled in the copy"));
        assert_eq!(after(|_| ()), "");
    }

    #[test]
    fn a_wrong_time_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| dir.path().join(name));
        for (root, second) in [(&one, 1), (&two, 2)] {
            fs::create_dir(root).unwrap();
            File::open(root).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(second)).unwrap();
        }
        let error = compare(&one, &two).unwrap_err().to_string();
        assert!(error.ends_with("differs in its time: (1, 0), in the copy (2, 0)"), "{error}");
    }
}
