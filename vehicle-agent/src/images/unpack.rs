//! Layers become files: the only place where an archive from outside meets the car's file system.
//!
//! What must never happen: a file outside the target directory, a device, a path through a symbolic link, or more bytes or files than
//! the bounds. A symbolic link may exist, for programs see it through a sandbox of their own, but nothing is ever written through one.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;

use super::manifest::Packing;

/// How much an artefact may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// An archive that is not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It breaks off, or the disk does not take it.
    #[error("failed to unpack layer")]
    Io(#[from] io::Error),
    /// It holds something that could do harm.
    #[error("layer has an entry '{path}' {what}")]
    Entry {
        /// The entry.
        path: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It is too large.
    #[error("layers hold more than {0}")]
    TooLarge(String),
}

/// Unpacks layers on top of each other into an empty directory.
pub(super) fn unpack(layers: &[(PathBuf, Packing)], target: &Path, bounds: Bounds) -> Result<(), UnpackError> {
    let mut left = bounds;
    for (path, packing) in layers {
        let file = io::BufReader::new(File::open(path)?);
        match packing {
            Packing::Tar => layer(file, target, &mut left, bounds)?,
            Packing::TarGzip => layer(GzDecoder::new(file), target, &mut left, bounds)?,
        }
    }
    Ok(())
}

fn layer(reader: impl Read, target: &Path, left: &mut Bounds, bounds: Bounds) -> Result<(), UnpackError> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let bad = |what| UnpackError::Entry {
            path: path.display().to_string(),
            what,
        };
        let Some(relative) = normal(&path) else {
            return Err(bad("that leaves its directory"));
        };
        if relative.as_os_str().is_empty() {
            continue;
        }
        left.files = left
            .files
            .checked_sub(1)
            .ok_or_else(|| UnpackError::TooLarge(format!("{} files", bounds.files)))?;
        let place = target.join(&relative);
        if through_link(target, &relative)? {
            return Err(bad("that goes through a symbolic link"));
        }
        let name = relative.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            whiteout(&place, hidden)?;
            continue;
        }
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                if !place.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
                    remove(&place)?;
                    fs::create_dir_all(&place)?;
                }
            }
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                make_way(&place)?;
                let mut file = OpenOptions::new().write(true).create_new(true).open(&place)?;
                let written = io::copy(&mut (&mut entry).take(left.bytes + 1), &mut file)?;
                left.bytes = left
                    .bytes
                    .checked_sub(written)
                    .ok_or_else(|| UnpackError::TooLarge(format!("{} bytes", bounds.bytes)))?;
            }
            tar::EntryType::Symlink => {
                let link = entry.link_name()?.ok_or_else(|| bad("without a target"))?;
                let parent = relative.parent().unwrap_or_else(|| Path::new(""));
                if link.is_absolute() || normal(&parent.join(&link)).is_none() {
                    return Err(bad("that links out of its directory"));
                }
                make_way(&place)?;
                std::os::unix::fs::symlink(&link, &place)?;
            }
            tar::EntryType::Link => {
                let link = entry.link_name()?.ok_or_else(|| bad("without a target"))?;
                let Some(linked) = normal(&link) else {
                    return Err(bad("that links out of its directory"));
                };
                if through_link(target, &linked)? || !target.join(&linked).symlink_metadata()?.is_file() {
                    return Err(bad("that links to something that is not a file"));
                }
                make_way(&place)?;
                fs::hard_link(target.join(&linked), &place)?;
            }
            tar::EntryType::XGlobalHeader => {}
            _ => return Err(bad("that is neither file, directory nor link")),
        }
    }
    Ok(())
}

/// A path without root and `..`. `a/../b` is `b`; `..` at the start is nothing.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => out.push(part),
            // Archives write `./a` and, some, `/a`.
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// Whether a directory on the way to the entry is a symbolic link.
fn through_link(target: &Path, relative: &Path) -> io::Result<bool> {
    let mut place = target.to_owned();
    for part in relative.parent().into_iter().flat_map(Path::components) {
        place.push(part);
        match place.symlink_metadata() {
            Ok(metadata) if metadata.is_symlink() => return Ok(true),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(false)
}

/// Makes the parent and removes what an upper layer replaces.
fn make_way(place: &Path) -> io::Result<()> {
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    remove(place)
}

fn remove(place: &Path) -> io::Result<()> {
    match place.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(place),
        Ok(_) => fs::remove_file(place),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// An upper layer hides a file of a lower one, or everything in its directory.
fn whiteout(place: &Path, hidden: &[u8]) -> io::Result<()> {
    let Some(parent) = place.parent() else { return Ok(()) };
    if hidden == b".wh..opq" {
        match fs::read_dir(parent) {
            Ok(entries) => entries.into_iter().try_for_each(|entry| remove(&entry?.path())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    } else if hidden.is_empty() || hidden == b"." || hidden == b".." {
        Ok(())
    } else {
        remove(&parent.join(OsStr::from_bytes(hidden)))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use rstest::rstest;

    use super::*;

    const WIDE: Bounds = Bounds {
        bytes: 1 << 20,
        files: 100,
    };

    struct Layer(tar::Builder<Vec<u8>>);

    impl Layer {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        /// An entry with its path as it stands, which the tar crate would refuse to write.
        fn entry(mut self, kind: tar::EntryType, path: &str, link: &str, content: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            let old = header.as_old_mut();
            old.name[..path.len()].copy_from_slice(path.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            self.0.append(&header, content).unwrap();
            self
        }

        fn file(self, path: &str, content: &str) -> Self {
            self.entry(tar::EntryType::Regular, path, "", content.as_bytes())
        }

        fn link(self, path: &str, to: &str) -> Self {
            self.entry(tar::EntryType::Symlink, path, to, b"")
        }

        fn write(self, directory: &Path, name: &str) -> (PathBuf, Packing) {
            let path = directory.join(name);
            fs::write(&path, self.0.into_inner().unwrap()).unwrap();
            (path, Packing::Tar)
        }
    }

    fn unpacked(layers: Vec<Layer>, bounds: Bounds) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("target")).unwrap();
        let layers: Vec<_> = layers
            .into_iter()
            .enumerate()
            .map(|(n, layer)| layer.write(temp.path(), &n.to_string()))
            .collect();
        let result = unpack(&layers, &temp.path().join("target"), bounds);
        (temp, result)
    }

    #[test]
    fn layers_are_laid_on_top_of_each_other() {
        let lower = Layer::new()
            .file("./a/one", "1")
            .file("a/two", "2")
            .file("b/three", "3")
            .link("a/link", "../b");
        let upper = Layer::new()
            .file("a/one", "new")
            .file("a/.wh.two", "")
            .file("b/.wh..wh..opq", "")
            .file("b/four", "4");
        let (temp, result) = unpacked(vec![lower, upper], WIDE);
        result.unwrap();
        let target = temp.path().join("target");
        assert_eq!(fs::read_to_string(target.join("a/one")).unwrap(), "new");
        assert!(!target.join("a/two").exists() && !target.join("b/three").exists());
        assert_eq!(fs::read_to_string(target.join("a/link/four")).unwrap(), "4");
    }

    #[test]
    fn gzip_layer_is_unpacked_and_a_broken_one_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let (tar, _) = Layer::new().file("x", "content").write(temp.path(), "x.tar");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&fs::read(tar).unwrap()).unwrap();
        let bytes = gzip.finish().unwrap();
        let path = temp.path().join("x.tgz");
        fs::write(&path, &bytes).unwrap();
        let target = temp.path().join("target");
        fs::create_dir(&target).unwrap();
        unpack(&[(path.clone(), Packing::TarGzip)], &target, WIDE).unwrap();
        assert_eq!(fs::read_to_string(target.join("x")).unwrap(), "content");
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        fs::remove_dir_all(&target).unwrap();
        fs::create_dir(&target).unwrap();
        assert!(unpack(&[(path, Packing::TarGzip)], &target, WIDE).is_err());
    }

    #[rstest]
    #[case::parent(Layer::new().file("../evil", "x"), "leaves its directory")]
    #[case::deep_parent(Layer::new().file("a/../../evil", "x"), "leaves its directory")]
    #[case::absolute_link(Layer::new().link("a", "/etc"), "links out")]
    #[case::parent_link(Layer::new().link("a/b", "../../etc"), "links out")]
    #[case::through_link(Layer::new().link("a", "b").file("a/evil", "x"), "through a symbolic link")]
    #[case::hard_link_out(Layer::new().entry(tar::EntryType::Link, "a", "../evil", b""), "links out")]
    #[case::hard_link_to_link(Layer::new().link("l", "x").entry(tar::EntryType::Link, "a", "l", b""), "not a file")]
    #[case::device(Layer::new().entry(tar::EntryType::Char, "null", "", b""), "neither file")]
    #[case::fifo(Layer::new().entry(tar::EntryType::Fifo, "pipe", "", b""), "neither file")]
    fn entry_that_could_do_harm_is_refused(#[case] layer: Layer, #[case] says: &str) {
        let (temp, result) = unpacked(vec![layer], WIDE);
        let message = result.unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
        assert!(!temp.path().join("evil").exists());
    }

    #[test]
    fn absolute_path_lands_inside() {
        let (temp, result) = unpacked(vec![Layer::new().file("/etc/x", "1")], WIDE);
        result.unwrap();
        assert!(temp.path().join("target/etc/x").exists());
    }

    #[test]
    fn layer_beyond_its_bounds_is_refused() {
        let (_temp, result) = unpacked(vec![Layer::new().file("x", "12345")], Bounds { bytes: 4, files: 9 });
        assert!(result.unwrap_err().to_string().contains("4 bytes"));
        let two = Layer::new().file("x", "").file("y", "");
        let (_temp, result) = unpacked(vec![two], Bounds { bytes: 4, files: 1 });
        assert!(result.unwrap_err().to_string().contains("1 files"));
        let (_temp, result) = unpacked(vec![Layer::new().file("x", "1234")], Bounds { bytes: 4, files: 1 });
        result.unwrap();
    }

    #[test]
    fn link_that_replaces_a_directory_takes_nothing_outside_with_it() {
        let lower = Layer::new().file("a/x", "1").link("b", "a");
        let upper = Layer::new()
            .entry(tar::EntryType::Directory, "b", "", b"")
            .file("b/y", "2");
        let (temp, result) = unpacked(vec![lower, upper], WIDE);
        result.unwrap();
        assert!(temp.path().join("target/a/x").exists() && !temp.path().join("target/a/y").exists());
    }
}
