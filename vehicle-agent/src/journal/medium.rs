//! The file under the journal, as a trait so that tests can tear a write at any byte.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::directory::sync_directory;

/// Something that keeps bytes over a crash.
pub(super) trait Medium: Send + 'static {
    /// Everything that is there.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Adds bytes at the end and makes them durable. After an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts off what is beyond `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Replaces everything: after a crash there is the old or the new.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A file.
pub(super) struct Disk {
    path: PathBuf,
    file: File,
}

impl Disk {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = options().read(true).create(true).truncate(false).open(path)?;
        if let Some(directory) = path.parent() {
            sync_directory(directory)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

impl Medium for Disk {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.rewind()?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.seek(io::SeekFrom::End(0))?;
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_data()
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = options().read(true).create(true).truncate(true).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        self.file = file;
        self.path.parent().map_or(Ok(()), sync_directory)
    }
}
