//! What tells one content of a file from another without reading it. Used by who follows files that others write.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// What tells one content of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stamp {
    /// There is none.
    Missing,
    /// One of this identity, time and size.
    File {
        /// Its number.
        inode: u64,
        /// When it was last written.
        modified: (i64, i64),
        /// Bytes.
        size: u64,
    },
}

impl Stamp {
    /// Of the file as it is now.
    pub(crate) fn of(path: &Path) -> Self {
        std::fs::metadata(path).map_or(Self::Missing, |file| Self::File {
            inode: file.ino(),
            modified: (file.mtime(), file.mtime_nsec()),
            size: file.size(),
        })
    }
}
