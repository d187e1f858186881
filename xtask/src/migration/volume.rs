//! Generates a volume with realistic contents, reproducible by its seed.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::iter::Sum;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use crate::failure::{Context, Failure, Result};
use crate::interrupt;

/// Minimum size in bytes, with room for every kind of file.
const MIN_BYTES: u64 = 1 << 20;
/// Divisor of a volume's bytes for small files.
const SMALL_PART: u64 = 8;
/// Divisor of a volume's bytes for the hole.
const HOLE_PART: u64 = 16;
const SMALL_SIZE: u64 = 32 << 10;
const LARGE_SIZE: u64 = 64 << 20;
const DIRECTORIES: u64 = 64;
const BLOCK: usize = 64 << 10;

/// Names that have broken copying scripts.
const ODD_NAMES: &[&[u8]] = &[
    b"with spaces  in it",
    "ünïcödé-名前".as_bytes(),
    b"line\nbreak",
    b"latin1-\xfc-is-not-utf8",
    b"-leading-dash",
    b"quo'te\"s-$HOME-`id`",
    b"#hash *star* [set]",
];
const MODES: &[u32] = &[0o644, 0o600, 0o640, 0o755, 0o444, 0o664];

/// Contents of a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Contents {
    /// Names of regular files, every hard link counted.
    pub files: u64,
    /// Apparent bytes, every inode counted once.
    pub bytes: u64,
}

impl Sum for Contents {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self { files: sum.files + one.files, bytes: sum.bytes + one.bytes })
    }
}

/// Fills the new folder `root` with exactly `bytes` apparent bytes.
///
/// # Errors
/// `bytes` is too small for every kind of file, or writing fails.
pub(super) fn generate(root: &Path, bytes: u64, seed: u64) -> Result<Contents> {
    if bytes < MIN_BYTES {
        return Err(Failure::new(format!("a volume of {bytes} bytes is too small: use at least {MIN_BYTES}")));
    }
    fs::create_dir_all(root).context(root.display())?;
    let mut writer = Writer { root, random: Random::new(seed), contents: Contents::default() };
    let mut left = bytes;
    left -= writer.sparse_file(bytes / HOLE_PART)?;
    left -= writer.small_files(bytes / SMALL_PART)?;
    writer.large_files(left, bytes)?;
    writer.links()?;
    writer.date_directories(root)?;
    Ok(writer.contents)
}

struct Writer<'a> {
    root: &'a Path,
    random: Random,
    contents: Contents,
}

impl Writer<'_> {
    fn small_files(&mut self, budget: u64) -> Result<u64> {
        let count = (budget / SMALL_SIZE).clamp(100, 4_000);
        let mut left = budget;
        for number in 0..count {
            let directory = PathBuf::from(format!("tree/{:02}/{:02}", number % DIRECTORIES / 8, number % 8));
            let odd = ODD_NAMES.get(usize::try_from(number).unwrap_or(usize::MAX));
            let name =
                odd.map_or_else(|| format!("file-{number:05}").into(), |name| OsStr::from_bytes(name).to_owned());
            let size = if number == 0 { 0 } else { self.random.below(2 * budget / count).min(left) };
            self.file(&directory.join(name), size)?;
            left -= size;
        }
        Ok(budget - left)
    }

    fn large_files(&mut self, budget: u64, volume: u64) -> Result<()> {
        let size = LARGE_SIZE.min(volume / 4);
        let mut left = budget;
        for number in 0.. {
            if left == 0 {
                break;
            }
            let this = left.min(size);
            self.file(Path::new(&format!("images/disk-{number}.raw")), this)?;
            left -= this;
        }
        Ok(())
    }

    /// Writes a block of data, a hole, and a block of data.
    fn sparse_file(&mut self, size: u64) -> Result<u64> {
        let path = self.root.join("images/sparse.raw");
        let mut file = create(&path)?;
        let mut block = [0; 4096];
        self.random.fill(&mut block);
        let wrote = file.write_all(&block).and_then(|()| file.seek(SeekFrom::Start(size - block.len() as u64)));
        wrote.and_then(|_| file.write_all(&block)).context(path.display())?;
        self.finish(&file, &path, size)?;
        Ok(size)
    }

    fn file(&mut self, name: &Path, size: u64) -> Result<()> {
        interrupt::check()?;
        let path = self.root.join(name);
        let mut file = create(&path)?;
        let mut block = vec![0; BLOCK.min(usize::try_from(size).unwrap_or(BLOCK))];
        let mut left = size;
        while left > 0 {
            self.random.fill(&mut block);
            let part = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.write_all(&block[..part]).context(path.display())?;
            left -= part as u64;
        }
        self.finish(&file, &path, size)
    }

    /// Sets mode and time, last because writing changes them.
    fn finish(&mut self, file: &File, path: &Path, size: u64) -> Result<()> {
        let mode = MODES[usize::try_from(self.random.below(MODES.len() as u64)).unwrap_or(0)];
        file.set_permissions(Permissions::from_mode(mode)).context(path.display())?;
        file.set_modified(UNIX_EPOCH + self.random.age()).context(path.display())?;
        self.contents.files += 1;
        self.contents.bytes += size;
        Ok(())
    }

    fn links(&mut self) -> Result<()> {
        let root = self.root;
        let make = || -> io::Result<()> {
            let links = root.join("links");
            fs::create_dir(&links)?;
            // Not an absolute target: an rsyncd without chroot strips its leading slash
            // (rsyncd.conf(5), "use chroot"), independent of the transport.
            let symlinks =
                [("relative", "../images/disk-0.raw"), ("dangling", "no/such/target"), ("folder", "../tree")];
            for (name, target) in symlinks {
                symlink(target, links.join(name))?;
                date_symlink(&links.join(name))?;
            }
            fs::hard_link(root.join("images/disk-0.raw"), links.join("hard-1"))?;
            fs::hard_link(root.join("images/disk-0.raw"), links.join("hard-2"))?;
            fs::hard_link(root.join("tree/00/07/file-00007"), root.join("tree/00/00/hard-small"))?;
            fs::create_dir(root.join("empty"))?;
            fs::set_permissions(root.join("empty"), Permissions::from_mode(0o555))?;
            fs::set_permissions(&links, Permissions::from_mode(0o2750))
        };
        make().context(format!("links in {}", root.display()))?;
        self.contents.files += 3;
        Ok(())
    }

    /// Sets the times of folders, last because every new name changes the time of its folder.
    fn date_directories(&mut self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).context(folder.display())? {
            let entry = entry.context(folder.display())?;
            if entry.file_type().context(folder.display())?.is_dir() {
                self.date_directories(&entry.path())?;
            }
        }
        let age = UNIX_EPOCH + self.random.age();
        File::open(folder).and_then(|folder| folder.set_modified(age)).context(folder.display())
    }
}

/// Sets the time of a symlink. rsync skips a time equal to the second, so a link created in this
/// very second would get a slightly later time.
fn date_symlink(path: &Path) -> io::Result<()> {
    let time = Timespec { tv_sec: 1_234_567_890, tv_nsec: 123_456_789 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn create(path: &Path) -> Result<File> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).context(parent.display())?;
    File::create(path).context(path.display())
}

/// Marsaglia's xorshift64 (J. Stat. Softw. 8(14), 2003): fast, and without repeated blocks for
/// rsync.
struct Random(u64);

impl Random {
    /// Spreads neighbouring seeds, and avoids zero, the fixed point of xorshift.
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// Random time between 2001 and 2024, with nanoseconds.
    fn age(&mut self) -> Duration {
        Duration::new(1_000_000_000 + self.below(700_000_000), u32::try_from(self.below(1_000_000_000)).unwrap_or(0))
    }

    fn fill(&mut self, block: &mut [u8]) {
        let mut words = block.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_ne_bytes());
        }
        let rest = words.into_remainder();
        let last = self.next().to_ne_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::verify::compare;
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, other] = ["one", "two", "other"].map(|name| dir.path().join(name));
        let contents = generate(&one, 3 << 20, 7).unwrap();
        assert_eq!(contents.bytes, 3 << 20);
        assert_eq!(generate(&two, 3 << 20, 7).unwrap(), contents);
        generate(&other, 3 << 20, 8).unwrap();
        let read = |root: &Path| fs::read(root.join("images/disk-0.raw")).unwrap();
        assert!(read(&one) == read(&two) && read(&one) != read(&other));
        let verified = compare(&one, &one).unwrap();
        assert_eq!((verified.files, verified.bytes), (contents.files, contents.bytes));
    }

    #[test]
    fn too_small_a_volume_is_refused_with_the_smallest_size() {
        let dir = tempfile::tempdir().unwrap();
        let error = generate(dir.path(), 1000, 1).unwrap_err().to_string();
        assert!(error.contains("at least 1048576"), "{error}");
    }
}
