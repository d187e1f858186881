//! The users file: read within a limit when it has changed, and parsed line by line.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{Place, UsersError};
use super::hash::Hash;
use super::names::check_name;
use crate::file::{self, MAX_USERS_BYTES};
use crate::fingerprint::FileFingerprint;

/// A path, and the fingerprint of its file at the last read.
pub(super) struct UsersFile {
    path: PathBuf,
    /// Fingerprint at the last read.
    seen: Option<FileFingerprint>,
    /// Fingerprint at the last check.
    last: Option<FileFingerprint>,
}

impl UsersFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, seen: None, last: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns true if the file was replaced, removed or restored since the last
    /// [`UsersFile::read`] and is unchanged since the previous check: a file written in place is
    /// cut off in the middle of a line until it is complete.
    pub(super) fn changed(&mut self) -> bool {
        let now = FileFingerprint::of(&self.path);
        std::mem::replace(&mut self.last, now) == now && now != self.seen
    }

    /// Reads the file. The fingerprint is taken before the bytes are read, so that the next
    /// [`UsersFile::changed`] notices a change in between; it is taken also if the read fails, so
    /// that one broken file is reported once.
    ///
    /// # Errors
    /// A file that cannot be read, or without any line about a user: a wrong file, or one being
    /// written. A file with only invalid lines about users is accepted: a user with a spoilt line
    /// must stay out.
    pub(super) fn read(&mut self) -> Result<Lines, UsersError> {
        self.seen = FileFingerprint::of(&self.path);
        self.last = self.seen;
        let bytes = file::read(&self.path, MAX_USERS_BYTES).map_err(|error| {
            let remedy = "check the path and permissions of --users-file";
            self.error(error.to_string(), error.remedy().unwrap_or(remedy))
        })?;
        let mut lines = parse_lines(&self.path, &bytes);
        if lines.good.is_empty() && !lines.names_users {
            let empty = || self.error("contains no user", "add the output of `sluicegate hash-password NAME`");
            return Err(if lines.bad.is_empty() { empty() } else { lines.bad.swap_remove(0) });
        }
        Ok(lines)
    }

    fn error(&self, cause: impl Into<String>, remedy: &'static str) -> UsersError {
        UsersError::new(Place::File(self.path.clone(), None), cause, remedy)
    }
}

/// A user of the file.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: usize,
    pub(super) name: Arc<str>,
    pub(super) hash: Hash,
}

/// Bad lines of a file named in a message; the others are counted.
const MAX_NAMED: usize = 50;

/// Content of a users file.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Valid lines.
    pub(super) good: Vec<Line>,
    /// Errors of the other lines.
    pub(super) bad: Vec<UsersError>,
    /// An invalid line names a user.
    pub(super) names_users: bool,
}

/// Parses the output of htpasswd: `NAME:HASH` in each line; blank lines and lines beginning with
/// `#` are skipped; a byte order mark, carriage returns and blanks at the end of a line are
/// dropped.
///
/// An invalid line admits no user. Neither do two lines with one name, valid or not: the later may
/// have been meant to replace the earlier.
pub(super) fn parse_lines(path: &Path, bytes: &[u8]) -> Lines {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut lines = Lines::default();
    let mut first: HashMap<Arc<str>, usize> = HashMap::new();
    let mut twice: HashSet<Arc<str>> = HashSet::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii_end();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let name = name_of(line);
        match parse_line(path, number, line) {
            Ok(line) => lines.good.push(line),
            Err(error) => {
                lines.names_users |= name.is_some();
                lines.bad.push(error);
            }
        }
        let Some(name) = name else { continue };
        if let Some(earlier) = first.get(&name) {
            let cause = format!("'{name}' is in line {earlier} as well; both lines are ignored");
            lines.bad.push(UsersError::at(path, number, cause, "remove one of the two"));
            lines.names_users = true;
            twice.insert(name);
        } else {
            first.insert(name, number);
        }
    }
    lines.good.retain(|line| !twice.contains(&line.name));
    if let Some(more) = lines.bad.len().checked_sub(MAX_NAMED).filter(|more| *more > 0) {
        lines.bad.truncate(MAX_NAMED);
        let cause = format!("{more} more errors of this kind");
        lines.bad.push(UsersError::new(Place::File(path.to_owned(), None), cause, "check the whole file"));
    }
    lines
}

/// Returns the user of a line, even of an invalid one.
fn name_of(line: &[u8]) -> Option<Arc<str>> {
    let end = line.iter().position(|byte| *byte == b':')?;
    let name = str::from_utf8(&line[..end]).ok()?;
    check_name(name).is_ok().then(|| name.into())
}

fn parse_line(path: &Path, number: usize, line: &[u8]) -> Result<Line, UsersError> {
    let error = |cause: String, remedy: &str| UsersError::at(path, number, cause, remedy);
    let line = str::from_utf8(line).map_err(|_| error("the line is not UTF-8".into(), "save the file as UTF-8"))?;
    let (name, hash) = line.split_once(':').ok_or_else(|| error("no ':' in it".into(), "a line is NAME:HASH"))?;
    check_name(name).map_err(|cause| error(cause, "a line is NAME:HASH"))?;
    let hash = Hash::parse(hash).map_err(|unusable| error(format!("'{name}': {}", unusable.cause), unusable.remedy))?;
    Ok(Line { number, name: name.into(), hash })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use proptest::prelude::{any, prop_assert, proptest};

    use super::*;

    const HASH: &str = "$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";

    fn lines(text: impl AsRef<[u8]>) -> Result<Vec<(usize, String)>, String> {
        let lines = parse_lines(Path::new("/etc/users"), text.as_ref());
        match &lines.bad[..] {
            [] => Ok(lines.good.into_iter().map(|line| (line.number, line.name.to_string())).collect()),
            bad => Err(bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    #[test]
    fn accepted_files() {
        let named = |name: &str| format!("{name}:{HASH}");
        assert_eq!(lines(""), Ok(vec![]));
        assert_eq!(
            lines(format!("# users\n\n  \n{}\n#\n{}", named("alice"), named("bob"))),
            Ok(vec![(4, "alice".into()), (6, "bob".into())])
        );
        assert_eq!(
            lines(format!("\u{feff}{}\r\n{} \t\r\n", named("ü"), named("a b"))),
            Ok(vec![(1, "ü".into()), (2, "a b".into())])
        );
        assert_eq!(lines("\u{feff}# nobody\r\n"), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "(#|a|:|\\$[256]\\$|rounds=|\\PC){0,30}") {
            for file in [&bytes[..], text.as_bytes()] {
                if let Err(error) = lines(file) {
                    prop_assert!(error.starts_with("/etc/users:"), "{}", error);
                }
            }
        }
    }

    #[test]
    fn refused_lines_are_named_and_not_repeated() {
        let named = |name: &str| format!("{name}:{HASH}");
        for (text, place, cause) in [
            ("\nhunter2".to_owned(), ":2: ", "no ':'"),
            (":hunter2".to_owned(), ":1: ", "name is empty"),
            ("bob:hunter2".to_owned(), ":1: ", "'bob': unknown kind of hash"),
            ("bob:$apr1$pdAXX3ov$KRb3PveJ6q/azJzUJ.Qyo/".to_owned(), ":1: ", "'bob': apr1"),
            (format!("{}:more", named("bob")), ":1: ", "followed by other text"),
            (format!("{}\n#\n{}", named("bob"), named("bob")), ":3: ", "'bob' is in line 1 as well; both"),
            (named("a\tb"), ":1: ", "control character"),
            (named(&"n".repeat(256)), ":1: ", "longer than 255"),
        ] {
            let error = lines(&text).expect_err(&text);
            assert!(error.starts_with(&format!("/etc/users{place}")) && error.contains(cause), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("KRb3"), "{error}");
        }
        assert!(lines(b"\nb\xfcb:x").unwrap_err().starts_with("/etc/users:2: the line is not UTF-8; "));
    }

    #[test]
    fn a_bad_line_takes_no_other_user_along() {
        let [good, named] = [":{HASH}", ":no hash"].map(|rest| rest.replace("{HASH}", HASH));
        for (text, counting, bad) in [
            (format!("ann{good}\nbob{named}\neve{good}"), "ann eve", 1),
            (format!("ann{good}\nbob{good}\nann{good}"), "bob", 1),
            // The later line was to take the place of the earlier, or the other way round.
            (format!("ann{good}\nbob{good}\nann{named}"), "bob", 2),
            (format!("ann{named}\nbob{good}\nann{good}"), "bob", 2),
            (format!("ann{good}\nann{good}\nann{good}"), "", 2),
            (format!("ann{good}\nann\n:x\n"), "ann", 2),
        ] {
            let lines = parse_lines(Path::new("/etc/users"), text.as_bytes());
            let names: Vec<_> = lines.good.iter().map(|line| &*line.name).collect();
            assert_eq!((names.join(" ").as_str(), lines.bad.len()), (counting, bad), "{text}: {:?}", lines.bad);
        }
        let many = parse_lines(Path::new("/etc/users"), "x\n".repeat(1_000).as_bytes()).bad;
        assert_eq!(
            (many.len(), many[50].to_string().as_str()),
            (51, "/etc/users: 950 more errors of this kind; check the whole file")
        );
        let latin1 = [b"ann:".as_slice(), HASH.as_bytes(), b"\nann:\xf6"].concat();
        let lines = parse_lines(Path::new("/etc/users"), &latin1);
        assert!(lines.good.is_empty() && lines.names_users, "{lines:?}");
        assert!(!parse_lines(Path::new("/etc/users"), b"hunter2\n\xff:x").names_users);
    }

    const LINE: &str = "alice:$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa\n";

    /// The result of the second of two checks.
    fn settled(file: &mut UsersFile) -> bool {
        let _ = file.changed();
        file.changed()
    }

    #[test]
    fn a_file_counts_when_it_stays_the_same_from_one_look_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, LINE).unwrap();
        let mut file = UsersFile::new(path.clone());
        file.read().unwrap();
        // Written in place, in two parts.
        fs::write(&path, format!("{LINE}bob")).unwrap();
        assert!(!file.changed());
        fs::write(&path, format!("{LINE}{}", LINE.replace("alice", "bob"))).unwrap();
        assert!(!file.changed());
        assert!(file.changed());
        assert_eq!(file.read().unwrap().good.len(), 2);
        assert!(!file.changed());
    }

    #[test]
    fn a_swapped_link_is_a_change() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        // As the kubelet does it: users -> ..data/users, ..data -> a directory of that moment.
        for moment in ["one", "two"] {
            fs::create_dir(at(moment)).unwrap();
            fs::write(at(moment).join("users"), LINE).unwrap();
        }
        symlink("one", at("..data")).unwrap();
        symlink("..data/users", at("users")).unwrap();
        let mut file = UsersFile::new(at("users"));
        assert!(settled(&mut file), "nothing was read yet");
        assert_eq!(file.read().unwrap().good.len(), 1);
        assert!(!file.changed());
        symlink("two", at("..tmp")).unwrap();
        fs::rename(at("..tmp"), at("..data")).unwrap();
        assert!(settled(&mut file));
        file.read().unwrap();
        assert!(!file.changed());
    }

    #[test]
    fn a_vanished_file_is_reported_once_and_its_return_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        fs::write(&path, LINE).unwrap();
        let mut file = UsersFile::new(path.clone());
        file.read().unwrap();
        fs::remove_file(&path).unwrap();
        assert!(settled(&mut file));
        assert!(file.read().unwrap_err().to_string().contains("No such file"));
        assert!(!file.changed());
        fs::write(&path, LINE).unwrap();
        assert!(settled(&mut file));
        assert_eq!(file.read().unwrap().good.len(), 1);
    }

    #[test]
    fn unusable_files_say_why() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let refusal = |path: &Path| UsersFile::new(path.to_owned()).read().unwrap_err().to_string();
        assert!(refusal(dir.path()).contains("not a regular file"));
        fs::write(&path, "# nobody\n\n").unwrap();
        assert!(refusal(&path).contains("contains no user"));
        fs::write(&path, "\x7fELF\n\x01\n").unwrap();
        assert!(refusal(&path).contains(":1: no ':' in it"));
        fs::File::create(&path).unwrap().set_len(MAX_USERS_BYTES + 1).unwrap();
        let error = refusal(&path);
        assert!(error.contains("larger than 16 MiB") && error.starts_with(&path.display().to_string()), "{error}");
    }
}
