//! Users on the command line and in a users file, and the errors in both.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::secret::Secret;

use super::hash::Hash;

/// The longest name, in bytes; htpasswd's limit as well.
const MAX_NAME: usize = 255;
/// The longest password, in bytes: as long as `crypt(3)` takes (`CRYPT_MAX_PASSPHRASE_SIZE` of
/// libxcrypt), for the work of SHA-crypt grows with the length.
pub(super) const MAX_PASSWORD: usize = 512;

/// An invalid user: place, reason and remedy. Never holds a password or a hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersError {
    place: String,
    cause: String,
    remedy: String,
}

impl UsersError {
    pub(crate) fn new(place: impl Into<String>, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place: place.into(), cause: cause.into(), remedy: remedy.into() }
    }

    /// Returns the reason, and the user if known.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// Returns the remedy.
    #[must_use]
    pub fn remedy(&self) -> &str {
        &self.remedy
    }

    /// Returns the place: an option, a file or `FILE:LINE`.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// At a line, counted from 1, of a file.
    pub(super) fn at(path: &Path, line: usize, cause: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(format!("{}:{line}", path.display()), cause, remedy)
    }
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.cause, self.remedy)
    }
}

impl std::error::Error for UsersError {}

/// Reads `NAME:PASSWORD`, as `--user` takes it. The first colon splits. One line end behind the
/// password is dropped: a variable that is filled from a mounted file often has it.
///
/// # Errors
/// When a part is missing, too long or of forbidden characters. The text is not repeated.
pub fn parse_user(text: &str) -> Result<(String, Secret), UsersError> {
    let error = |cause: String, remedy: &str| UsersError::new("--user", cause, remedy);
    let text = without_line_end(text);
    let (name, password) = text.split_once(':').ok_or_else(|| error("no ':' in it".into(), "give NAME:PASSWORD"))?;
    check_name(name).map_err(|cause| error(cause, "give NAME:PASSWORD with another name"))?;
    check_password(password.as_bytes()).map_err(|cause| error(cause, "give NAME:PASSWORD with another password"))?;
    Ok((name.to_owned(), Secret::new(password)))
}

/// The text without one line end behind it.
pub(super) fn without_line_end(text: &str) -> &str {
    text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text))
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
    /// Why other lines do not.
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
        lines.bad.push(UsersError::new(path.display().to_string(), cause, "check the whole file"));
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

/// Why no user can have this name, if so. RFC 7617 (2) forbids colons and control characters.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name is empty".into());
    }
    if name.len() > MAX_NAME {
        return Err(format!("the name is longer than {MAX_NAME} bytes"));
    }
    if name.contains(|c: char| c == ':' || c.is_control()) {
        return Err("the name contains a ':' or a control character".into());
    }
    Ok(())
}

/// Why no user can have this password, if so.
pub(super) fn check_password(password: &[u8]) -> Result<(), String> {
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    if password.len() > MAX_PASSWORD {
        return Err(format!("the password is longer than {MAX_PASSWORD} bytes"));
    }
    if password.iter().any(u8::is_ascii_control) {
        return Err(
            "the password contains a control character, which Basic authentication does not allow (RFC 7617)".into()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop_assert, proptest};

    const HASH: &str = "$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa";

    fn lines(text: impl AsRef<[u8]>) -> Result<Vec<(usize, String)>, String> {
        let lines = parse_lines(Path::new("/etc/users"), text.as_ref());
        match &lines.bad[..] {
            [] => Ok(lines.good.into_iter().map(|line| (line.number, line.name.to_string())).collect()),
            bad => Err(bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    #[test]
    fn user_options() {
        for (text, name, password) in [
            ("alice:pw", "alice", "pw"),
            ("alice:s3cret:with:@/%ü", "alice", "s3cret:with:@/%ü"),
            ("a b:: ", "a b", ": "),
            ("ann:a\n", "ann", "a"),
            ("ann:a\r\n", "ann", "a"),
        ] {
            assert_eq!(parse_user(text), Ok((name.to_owned(), Secret::new(password))), "{text}");
        }
        let long = format!("a:{}", "p".repeat(MAX_PASSWORD + 1));
        for (text, cause) in [
            ("hunter2", "no ':'"),
            ("", "no ':'"),
            (":hunter2", "name is empty"),
            ("alice:", "password is empty"),
            ("a\nb:hunter2", "control character"),
            ("a:hunter2\0", "password contains a control character"),
            ("a:hunter2\n\n", "password contains a control character"),
            ("a:hunter2\r", "password contains a control character"),
            ("a:hunter2\u{7f}", "password contains a control character"),
            ("a:hunter2\tb", "password contains a control character"),
            ("a:\n", "password is empty"),
            (&long, "longer than 512"),
        ] {
            let error = parse_user(text).expect_err(text);
            assert!(error.to_string().contains(cause) && error.to_string().contains("NAME:PASSWORD"), "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
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
}
