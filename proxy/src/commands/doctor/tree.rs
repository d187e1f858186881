//! A host made of files, for tests.

use std::fs;
use std::os::unix::fs::symlink;

use super::host::Host;

/// A folder in place of `/`.
#[derive(Debug)]
pub(super) struct Tree(tempfile::TempDir);

impl Tree {
    /// With these files, by their path below `/`.
    pub(super) fn new(files: &[(&str, &str)]) -> Self {
        let tree = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(path, text)| tree.file(path, text));
        tree
    }

    /// Another file.
    pub(super) fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A symbolic link.
    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    /// The host read from the folder.
    pub(super) fn host(&self) -> Host {
        Host::at(self.0.path())
    }
}
