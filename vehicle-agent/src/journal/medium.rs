//! The file under the journal, and under the receipts, as a trait so that tests can tear a write at any byte.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::directory::sync_directory;

/// Something that keeps bytes over a crash.
pub(crate) trait Medium: Send + 'static {
    /// Everything that is there.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Adds bytes at the end and makes them durable. After an error any part of them may be there.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts off what is beyond `length`.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
    /// Replaces everything: after a crash there is the old or the new. After an error the old is there and is written to as before; else
    /// the new is, even if only the next append can make that durable.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A file.
pub(crate) struct Disk {
    path: PathBuf,
    file: File,
    /// Makes a rename durable.
    sync: fn(&Path) -> io::Result<()>,
    /// The file has another in its place since, but after a crash it may be back: nothing that is written is durable before that is settled.
    renamed: bool,
}

impl Disk {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = options().read(true).create(true).truncate(false).open(path)?;
        if let Some(directory) = path.parent() {
            sync_directory(directory)?;
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            sync: sync_directory,
            renamed: false,
        })
    }

    fn settle(&mut self) -> io::Result<()> {
        if self.renamed {
            self.path.parent().map_or(Ok(()), self.sync)?;
            self.renamed = false;
        }
        Ok(())
    }
}

/// Writes the file that is to replace another.
fn write_new(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut file = options().read(true).create(true).truncate(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(file)
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
        self.settle()?;
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
        let written = write_new(&new, bytes).and_then(|file| std::fs::rename(&new, &self.path).map(|()| file));
        match written {
            Ok(file) => {
                self.file = file;
                self.renamed = true;
                // What fails here is tried again before anything is appended.
                let _ = self.settle();
                Ok(())
            }
            Err(error) => {
                // A part of it would take room on a disk that may be full.
                let _ = std::fs::remove_file(&new);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, PathBuf, Disk) {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("attempts");
        let mut disk = Disk::open(&path).unwrap();
        disk.append(b"old").unwrap();
        (temp, path, disk)
    }

    #[test]
    fn replacement_that_cannot_be_written_leaves_the_old_file_in_use_and_nothing_else() {
        let (temp, path, mut disk) = disk();
        let new = temp.path().join("attempts.new");
        // Nobody can write a file where a directory is.
        std::fs::create_dir(&new).unwrap();
        disk.replace(b"new").unwrap_err();
        disk.append(b"er").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"older");
        std::fs::remove_dir(&new).unwrap();
        disk.replace(b"new").unwrap();
        disk.append(b"er").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newer");
        assert_eq!(disk.read().unwrap(), b"newer");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn replacement_that_is_not_durable_yet_is_made_so_before_anything_is_said_to_be() {
        let (_temp, path, mut disk) = disk();
        disk.sync = |_| Err(io::Error::other("no"));
        disk.replace(b"new").unwrap();
        disk.append(b"lost").unwrap_err();
        disk.sync = sync_directory;
        disk.append(b"er").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"newer");
    }
}
