//! Lines of a configuration file by the offset in its text, for errors.

use std::path::Path;

use super::error::Location;

/// Lines of a text by the place in it, for errors.
#[derive(Clone, Copy)]
pub(super) struct Lines<'a> {
    pub(super) file: &'a Path,
    pub(super) text: &'a str,
}

impl Lines<'_> {
    /// The line of an offset in bytes.
    pub(super) fn number(self, offset: usize) -> usize {
        1 + self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|byte| **byte == b'\n').count()
    }

    pub(super) fn at(self, offset: usize) -> Location {
        Location { file: self.file.to_owned(), line: Some(self.number(offset)) }
    }
}
