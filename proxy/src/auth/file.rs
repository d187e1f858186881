//! The users file on disk: when it changed, and its bytes within a limit.

use std::path::{Path, PathBuf};

use super::users::{self, Lines, UsersError};
use crate::file::{self, MAX_USERS_BYTES};
use crate::fingerprint::FileFingerprint;

/// A path, and the fingerprint of its file at the last read.
pub(super) struct UsersFile {
    path: PathBuf,
    /// As it was read.
    seen: Option<FileFingerprint>,
    /// At the last look.
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
        let mut lines = users::parse_lines(&self.path, &bytes);
        if lines.good.is_empty() && !lines.names_users {
            let empty = || self.error("contains no user", "add the output of `sluicegate hash-password NAME`");
            return Err(if lines.bad.is_empty() { empty() } else { lines.bad.swap_remove(0) });
        }
        Ok(lines)
    }

    fn error(&self, cause: impl Into<String>, remedy: &'static str) -> UsersError {
        UsersError::new(self.path.display().to_string(), cause, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const LINE: &str = "alice:$2y$04$s3nEBtS7Qzw9ctn.NRIzs.IQt8.B7mCW1RaVx4LMDuSuTuhtnSTGa\n";

    /// As two looks see it.
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
