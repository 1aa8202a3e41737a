//! Parts of volumes that programs write to: `subPath` of an `emptyDir`, given to one container of several.
//!
//! Called when a container of an engine is started. Whoever writes to the volume may put a link in the place of the part while another
//! container starts, and the engine would follow it with all its rights. So the part is opened once, link by link refused, and bound to a
//! place of the agent's own, which the engine is given: what happens to the name in the volume later changes nothing, as under a
//! kubelet. What must never happen: a place outside the volume that a container sees by it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::files::{make_shared, share};
use super::volumes::is_mounted;
use crate::directory::{AttemptDirectory, make_private};
use crate::pod::{Engine, VolumeWork, Work};

/// Where the parts of one container are, by the place of the mount in its list.
pub(super) type Parts = BTreeMap<usize, PathBuf>;

/// Binds every part that a container wants of a volume that programs write to. `Err`: the kubelet's words. Blocks for a moment.
pub(super) fn bind(
    directory: &AttemptDirectory,
    work: &Work,
    index: usize,
    known: &BTreeMap<String, String>,
) -> Result<Parts, String> {
    let mut parts = Parts::new();
    if work.engine == Engine::Wasm {
        // Its files are opened below the directories that it is given, by a runtime that follows no link out of them.
        return Ok(parts);
    }
    let container = &work.containers[index];
    for (number, mounted) in container.mounts.iter().enumerate() {
        let shared = matches!(work.volumes.get(&mounted.volume), Some(VolumeWork::EmptyDir { .. }));
        let part = mounted.part(known)?;
        if !shared || part.is_empty() {
            continue;
        }
        let bound = || {
            let base = directory.volume(&mounted.volume);
            make_shared(&base, work)?;
            let opened = open(&base, Path::new(&part), work.shared.fs_group)?;
            let place = directory.part(&container.name, number);
            bind_to(&opened, &place)?;
            Ok::<_, io::Error>(place)
        };
        let place = bound().map_err(|e| {
            let name = &container.name;
            format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{name}\": {e}",
                mounted.volume
            )
        })?;
        parts.insert(number, place);
    }
    Ok(parts)
}

/// Opens a part of `base`, and makes the directories of it that are missing, for everybody and for a group.
fn open(base: &Path, part: &Path, group: Option<i64>) -> io::Result<OwnedFd> {
    let mut at = openat(
        CWD,
        base,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for component in part.components() {
        let Component::Normal(name) = component else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it leads out of the volume",
            ));
        };
        let name = Path::new(name);
        at = match below(at.as_fd(), name, OFlags::PATH) {
            Err(Errno::NOENT) => {
                match mkdirat(&at, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                let made = below(at.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
                let made = File::from(made);
                share(&made, group)?;
                made.into()
            }
            Err(Errno::LOOP | Errno::XDEV) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} is a link, or leads out of the volume", part.display()),
                ));
            }
            opened => opened?,
        };
    }
    let kind = FileType::from_raw_mode(fstat(&at)?.st_mode);
    if !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} is neither a directory nor a file", part.display()),
        ));
    }
    Ok(at)
}

fn below(at: impl AsFd, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(
        at,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
    .and_then(no_link)
}

/// With `O_PATH` and `O_NOFOLLOW` a link is opened as itself.
fn no_link(opened: OwnedFd) -> Result<OwnedFd, Errno> {
    if FileType::from_raw_mode(fstat(&opened)?.st_mode) == FileType::Symlink {
        return Err(Errno::LOOP);
    }
    Ok(opened)
}

/// Binds what is open to a place of the agent's own. What was there for the run before goes.
fn bind_to(opened: &OwnedFd, place: &Path) -> io::Result<()> {
    let parent = place.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_private(parent)?;
    while is_mounted(place)? {
        umount2(place, MntFlags::MNT_DETACH)?;
    }
    let directory = FileType::from_raw_mode(fstat(opened)?.st_mode) == FileType::Directory;
    match fs::symlink_metadata(place) {
        Ok(metadata) if metadata.is_dir() && !directory => fs::remove_dir(place)?,
        Ok(metadata) if !metadata.is_dir() && directory => fs::remove_file(place)?,
        _ => {}
    }
    if directory {
        make_private(place)?;
    } else {
        File::options().write(true).create(true).truncate(false).open(place)?;
    }
    let source = format!("/proc/self/fd/{}", opened.as_raw_fd());
    mount(
        Some(source.as_str()),
        place,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|errno| io::Error::other(format!("the vehicle cannot bind it: {errno}")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use rstest::rstest;

    use super::super::volumes::mounts_below;
    use super::*;

    fn inode(opened: &OwnedFd) -> u64 {
        fstat(opened).unwrap().st_ino
    }

    #[test]
    fn missing_directories_of_a_part_are_made_for_everybody() {
        let temp = tempfile::tempdir().unwrap();
        let opened = open(temp.path(), Path::new("a/b"), None).unwrap();
        let made = fs::metadata(temp.path().join("a/b")).unwrap();
        assert_eq!((made.ino(), made.mode() & 0o7777), (inode(&opened), 0o777));
        // And the next one finds them.
        let again = open(temp.path(), Path::new("a/b"), None).unwrap();
        assert_eq!(inode(&again), inode(&opened));
        fs::write(temp.path().join("a/file"), "").unwrap();
        open(temp.path(), Path::new("a/file"), None).unwrap();
        assert!(open(temp.path(), Path::new("a/file/x"), None).is_err());
    }

    #[rstest]
    #[case::at_the_end("a", "/etc", "a")]
    #[case::in_the_middle("a", "/", "a/etc")]
    #[case::up("a", "..", "a/x")]
    #[case::to_itself("a", ".", "a/x")]
    #[case::to_nothing("a", "none", "a")]
    #[case::to_nothing_below("a", "none", "a/x")]
    fn link_in_the_way_is_refused(#[case] name: &str, #[case] to: &str, #[case] part: &str) {
        let temp = tempfile::tempdir().unwrap();
        let volume = temp.path().join("volume");
        fs::create_dir(&volume).unwrap();
        symlink(to, volume.join(name)).unwrap();
        let error = open(&volume, Path::new(part), None).unwrap_err().to_string();
        assert!(error.contains("is a link"), "{error}");
        let there: Vec<_> = fs::read_dir(temp.path()).unwrap().collect();
        assert_eq!(there.len(), 1, "nothing was made beside the volume");
    }

    #[test]
    fn part_that_leads_out_or_is_no_file_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir(temp.path().join("volume")).unwrap();
        let volume = temp.path().join("volume");
        for part in ["../x", "/etc"] {
            open(&volume, Path::new(part), None).unwrap_err();
        }
        let _listener = std::os::unix::net::UnixListener::bind(volume.join("socket")).unwrap();
        let error = open(&volume, Path::new("socket"), None).unwrap_err().to_string();
        assert!(error.contains("neither"), "{error}");
    }

    #[test]
    fn part_stays_what_it_was_when_it_was_bound_whatever_becomes_of_its_name() {
        if !nix::unistd::geteuid().is_root() {
            // Without the right to mount there is no engine for containers either.
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (volume, place) = (temp.path().join("volume"), temp.path().join("parts/0"));
        fs::create_dir(&volume).unwrap();
        let opened = open(&volume, Path::new("a"), None).unwrap();
        bind_to(&opened, &place).unwrap();
        fs::write(volume.join("a/mine"), "1").unwrap();
        fs::rename(volume.join("a"), volume.join("b")).unwrap();
        symlink("/etc", volume.join("a")).unwrap();
        assert_eq!(fs::read_to_string(place.join("mine")).unwrap(), "1");
        assert!(!place.join("passwd").exists());
        // The next run binds anew, also a file.
        fs::write(volume.join("file"), "2").unwrap();
        bind_to(&open(&volume, Path::new("file"), None).unwrap(), &place).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "2");
        assert_eq!(mounts_below(temp.path()).unwrap(), [place]);
        super::super::volumes::forget(temp.path()).unwrap();
        assert!(mounts_below(temp.path()).unwrap().is_empty());
    }
}
