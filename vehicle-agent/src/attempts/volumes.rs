//! The volumes that the agent fills and keeps up to date, and those that are in memory only.
//!
//! Written before a container starts and whenever what the Pod refers to changes, by one task at a time. As the kubelet, a volume changes
//! from one moment to the next: its files are links to `..data`, which is a link to the directory with the newest files. What must never
//! happen: a program that sees half of a change, or a Secret on a disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tokio::sync::watch::Receiver;

use crate::directory::{AttemptDirectory, make_private};
use crate::pod::{Around, File, Given, VolumeWork, Work};

/// The newest files.
pub(super) const DATA: &str = "..data";

/// The volumes of one attempt. Clones are of the same.
#[derive(Debug, Clone)]
pub(super) struct Volumes {
    directory: AttemptDirectory,
    /// Bytes of a volume in memory that does not say it.
    memory: u64,
    /// Held while files are written. True: the attempt is forgotten, and nothing is written any more.
    closed: Arc<Mutex<bool>>,
}

/// A volume that is not there.
#[derive(Debug, thiserror::Error)]
pub(super) enum VolumeError {
    /// Something that it is made of.
    #[error("volume {volume}: {missing}")]
    Missing {
        /// Which.
        volume: String,
        /// What, in the kubelet's words.
        missing: String,
    },
    /// The car does not take it.
    #[error("volume {volume}: {source}")]
    Write {
        /// Which.
        volume: String,
        /// Why.
        source: io::Error,
    },
}

impl Volumes {
    pub(super) fn new(directory: AttemptDirectory, memory: u64) -> Self {
        Self {
            directory,
            memory,
            closed: Arc::default(),
        }
    }

    /// Makes the volumes of a container ready, with what is given at this moment. Blocks.
    pub(super) fn write(
        &self,
        work: &Work,
        index: usize,
        given: &Receiver<Arc<Given>>,
        address: Option<IpAddr>,
    ) -> Result<(), VolumeError> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Ok(());
        }
        // Only now: whoever is next to write finds nothing newer than what is here.
        let given = given.borrow().clone();
        let around = around(work, &given, address);
        let names: BTreeSet<_> = work.containers[index]
            .mounts
            .iter()
            .map(|mount| &mount.volume)
            .collect();
        names
            .into_iter()
            .try_for_each(|name| self.write_one(work, name, around))
    }

    /// Brings those up to date that are there. One that cannot be is left as it is: a program keeps what it had. Blocks.
    pub(super) fn update(&self, work: &Work, given: &Receiver<Arc<Given>>, address: Option<IpAddr>) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let given = given.borrow().clone();
        let around = around(work, &given, address);
        let there = |name: &&String| !*closed && self.directory.volume(name).join(DATA).exists();
        for name in work.volumes.keys().filter(there) {
            if let Err(error) = self.write_one(work, name, around) {
                tracing::warn!(attempt = %work.uid, %error, "a volume is not brought up to date");
            }
        }
    }

    /// Nothing is written any more, and what was kept in memory is taken away. Blocks.
    pub(super) fn close(&self) -> io::Result<()> {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        *closed = true;
        forget(self.directory.root())
    }

    /// Called with the lock held.
    fn write_one(&self, work: &Work, name: &str, around: Around<'_>) -> Result<(), VolumeError> {
        let Some(volume) = work.volumes.get(name) else {
            return Ok(());
        };
        let files = volume.files(around).map_err(|missing| VolumeError::Missing {
            volume: name.to_owned(),
            missing,
        })?;
        let place = self.directory.volume(name);
        let written = || {
            if volume.is_in_memory() {
                let size = match volume {
                    VolumeWork::EmptyDir { size_limit, .. } => size_limit.unwrap_or(self.memory),
                    VolumeWork::Files(_) | VolumeWork::Image { .. } => self.memory,
                };
                let mode = if matches!(volume, VolumeWork::EmptyDir { .. }) {
                    0o777
                } else {
                    0o755
                };
                in_memory(&place, size.min(self.memory), mode)?;
            }
            match &files {
                Some(files) => fill(&place, files, work.shared.fs_group, has_parts(work, name)),
                None => Ok(()),
            }
        };
        written().map_err(|source| VolumeError::Write {
            volume: name.to_owned(),
            source,
        })
    }
}

fn around<'a>(work: &'a Work, given: &'a Given, address: Option<IpAddr>) -> Around<'a> {
    Around {
        pod: &work.pod,
        given,
        address,
    }
}

/// Whether a container has a part of the volume, which stays what it was: it needs the files of then.
fn has_parts(work: &Work, volume: &str) -> bool {
    let mut mounts = work.containers.iter().flat_map(|container| &container.mounts);
    mounts.any(|mount| mount.volume == volume && mount.sub_path.is_some())
}

/// Puts the files in the place of those that are there, in one step.
fn fill(place: &Path, files: &BTreeMap<String, File>, group: Option<i64>, keep: bool) -> io::Result<()> {
    fs::create_dir_all(place)?;
    fs::set_permissions(place, Permissions::from_mode(0o755))?;
    let data = place.join(DATA);
    let old = fs::read_link(&data).ok();
    if old.as_ref().is_some_and(|old| same(&place.join(old), files)) {
        return Ok(());
    }
    let new = format!("..{:016x}", rand::random::<u64>());
    let directory = place.join(&new);
    make_open(&directory)?;
    for (path, file) in files {
        let target = directory.join(path);
        let mut parent = directory.clone();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            make_open(&parent)?;
        }
        fs::write(&target, &file.bytes)?;
        let mut mode = file.mode;
        if let Some(group) = group {
            chown(&target, None, u32::try_from(group).ok())?;
            // As the kubelet: who is in the group may read.
            mode |= 0o440;
        }
        fs::set_permissions(&target, Permissions::from_mode(mode))?;
    }
    let link = place.join("..data_tmp");
    // What a killed agent left.
    let _ = fs::remove_file(&link);
    symlink(&new, &link)?;
    fs::rename(&link, &data)?;
    show(place, files)?;
    match old {
        Some(old) if !keep => fs::remove_dir_all(place.join(old)),
        _ => Ok(()),
    }
}

/// The names under which a program finds them.
fn show(place: &Path, files: &BTreeMap<String, File>) -> io::Result<()> {
    let first = |path: &str| path.split('/').next().unwrap_or_default().to_owned();
    let wanted: BTreeSet<String> = files.keys().map(|path| first(path)).collect();
    let mut there = BTreeSet::new();
    for entry in fs::read_dir(place)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with("..") {
            continue;
        }
        if wanted.contains(&name) {
            there.insert(name);
        } else {
            fs::remove_file(place.join(name))?;
        }
    }
    for name in wanted.difference(&there) {
        symlink(Path::new(DATA).join(name), place.join(name))?;
    }
    Ok(())
}

fn make_open(directory: &Path) -> io::Result<()> {
    match fs::create_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::set_permissions(directory, Permissions::from_mode(0o755))
}

fn same(directory: &Path, files: &BTreeMap<String, File>) -> bool {
    let mut found = 0;
    count(directory, &mut found);
    let equal = |path: &String, file: &File| fs::read(directory.join(path)).is_ok_and(|bytes| bytes == file.bytes);
    found == files.len() && files.iter().all(|(path, file)| equal(path, file))
}

fn count(directory: &Path, found: &mut usize) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            count(&entry.path(), found);
        } else {
            *found += 1;
        }
    }
}

/// A place whose files are never on a disk.
fn in_memory(place: &Path, size: u64, mode: u32) -> io::Result<()> {
    make_private(place)?;
    if is_mounted(place)? {
        return Ok(());
    }
    let options = format!("size={size},mode={mode:o}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), place, Some("tmpfs"), flags, Some(options.as_str()))
        .map_err(|errno| io::Error::other(format!("the vehicle cannot keep it in memory only: {errno}")))
}

/// Takes away what was kept in memory below a directory, which may then be removed.
pub(crate) fn forget(directory: &Path) -> io::Result<()> {
    // The innermost first.
    for place in mounts_below(directory)?.iter().rev() {
        umount2(place, MntFlags::MNT_DETACH)?;
    }
    Ok(())
}

/// Whether something is mounted at a place.
pub(super) fn is_mounted(place: &Path) -> io::Result<bool> {
    Ok(mounts_below(place)?.iter().any(|mounted| mounted == place))
}

pub(super) fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mounts")?;
    let places = text.lines().filter_map(|line| line.split(' ').nth(1));
    // The kernel writes a space, and other such, as its number; names of attempts and volumes have none, and a directory with one is
    // taken as it is written.
    let plain = places.map(|place| PathBuf::from(place.replace("\\040", " ")));
    Ok(plain.filter(|place| place.starts_with(directory)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> BTreeMap<String, File> {
        let file = |text: &str| File {
            bytes: text.as_bytes().to_vec(),
            mode: 0o640,
        };
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), file(text)))
            .collect()
    }

    fn read(place: &Path, path: &str) -> Option<String> {
        fs::read_to_string(place.join(path)).ok()
    }

    #[test]
    fn files_are_found_by_their_names_with_their_modes() {
        let temp = tempfile::tempdir().unwrap();
        fill(temp.path(), &files(&[("a", "1"), ("deep/er/b", "2")]), None, false).unwrap();
        assert_eq!(read(temp.path(), "a").as_deref(), Some("1"));
        assert_eq!(read(temp.path(), "deep/er/b").as_deref(), Some("2"));
        let mode = fs::metadata(temp.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(fs::symlink_metadata(temp.path().join("a")).unwrap().is_symlink());
    }

    #[test]
    fn change_replaces_everything_at_once_and_leaves_nothing_behind() {
        let temp = tempfile::tempdir().unwrap();
        fill(temp.path(), &files(&[("a", "1"), ("b", "2")]), None, false).unwrap();
        let first = fs::read_link(temp.path().join(DATA)).unwrap();
        fill(temp.path(), &files(&[("a", "1"), ("b", "2")]), None, false).unwrap();
        assert_eq!(
            fs::read_link(temp.path().join(DATA)).unwrap(),
            first,
            "nothing has changed"
        );
        fill(temp.path(), &files(&[("a", "3"), ("c", "4")]), None, false).unwrap();
        assert_eq!(read(temp.path(), "a").as_deref(), Some("3"));
        assert_eq!(
            (read(temp.path(), "b"), read(temp.path(), "c").as_deref()),
            (None, Some("4"))
        );
        let names: BTreeSet<_> = fs::read_dir(temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names.len(), 4, "a, c, ..data and what it leads to: {names:?}");
    }

    #[test]
    fn files_that_a_part_was_taken_of_stay() {
        let temp = tempfile::tempdir().unwrap();
        fill(temp.path(), &files(&[("a", "1")]), None, true).unwrap();
        let then = temp.path().join(fs::read_link(temp.path().join(DATA)).unwrap());
        fill(temp.path(), &files(&[("a", "2")]), None, true).unwrap();
        assert_eq!(read(&then, "a").as_deref(), Some("1"));
        assert_eq!(read(temp.path(), "a").as_deref(), Some("2"));
    }

    #[test]
    fn value_that_goes_away_shortens_the_volume() {
        let temp = tempfile::tempdir().unwrap();
        fill(temp.path(), &files(&[("a", "1"), ("b", "2")]), None, false).unwrap();
        fill(temp.path(), &files(&[("a", "1")]), None, false).unwrap();
        assert_eq!(read(temp.path(), "b"), None);
    }

    #[test]
    fn place_in_memory_is_a_mount_of_its_own_and_goes_without_a_trace() {
        let temp = tempfile::tempdir().unwrap();
        let place = temp.path().join("volumes/secret");
        if !nix::unistd::geteuid().is_root() {
            // Who may not mount keeps no Secret.
            let refused = in_memory(&place, 1 << 20, 0o755).unwrap_err();
            assert!(refused.to_string().contains("in memory only"), "{refused}");
            return;
        }
        in_memory(&place, 1 << 20, 0o755).unwrap();
        assert_eq!(mounts_below(temp.path()).unwrap(), std::slice::from_ref(&place));
        assert!(
            fs::write(place.join("large"), vec![0; 2 << 20]).is_err(),
            "it is bounded"
        );
        forget(temp.path()).unwrap();
        assert_eq!(mounts_below(temp.path()).unwrap(), [] as [PathBuf; 0]);
    }
}
