//! Which disks hold what the containers of a car write: their rate is bounded there, and only there.
//!
//! Asked by [`super::Cri`] when its engine is ready. A file system without a disk of its own (in memory, over a network, spread over several
//! disks) has no rate that a control group could bound.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor, stat};

/// Where the kernel tells of its disks.
const KERNEL: &str = "/sys/dev/block";

/// The disks below these places, as control groups name them, such as `254:0`; and the places that have none.
pub(super) fn disks_of<'a>(places: impl Iterator<Item = &'a Path>) -> (BTreeSet<String>, Vec<PathBuf>) {
    let (mut disks, mut without) = (BTreeSet::new(), Vec::new());
    for place in places {
        let device = stat(place).ok().map(|found| (major(found.st_dev), minor(found.st_dev)));
        match device.and_then(|(major, minor)| whole(Path::new(KERNEL), &format!("{major}:{minor}"))) {
            Some(disk) => {
                disks.insert(disk);
            }
            None => without.push(place.to_owned()),
        }
    }
    (disks, without)
}

/// The disk that a device is, or is a part of: a rate is one of a whole disk.
fn whole(kernel: &Path, device: &str) -> Option<String> {
    let place = fs::canonicalize(kernel.join(device)).ok()?;
    if !place.join("partition").exists() {
        return Some(device.to_owned());
    }
    let disk = fs::read_to_string(place.parent()?.join("dev")).ok()?;
    Some(disk.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn part_of_a_disk_has_the_rate_of_the_disk() {
        let temp = tempfile::tempdir().unwrap();
        let (kernel, disk) = (temp.path().join("dev"), temp.path().join("devices/vda"));
        fs::create_dir_all(disk.join("vda1")).unwrap();
        fs::create_dir(&kernel).unwrap();
        fs::write(disk.join("dev"), "254:0\n").unwrap();
        fs::write(disk.join("vda1/partition"), "1\n").unwrap();
        fs::write(disk.join("vda1/dev"), "254:1\n").unwrap();
        symlink(&disk, kernel.join("254:0")).unwrap();
        symlink(disk.join("vda1"), kernel.join("254:1")).unwrap();
        assert_eq!(whole(&kernel, "254:0").as_deref(), Some("254:0"));
        assert_eq!(whole(&kernel, "254:1").as_deref(), Some("254:0"));
        // Of a file system in memory.
        assert_eq!(whole(&kernel, "0:27"), None);
    }

    #[test]
    fn place_without_a_disk_is_named() {
        let (_, without) = disks_of([Path::new("/proc"), Path::new("/no/such/place")].into_iter());
        assert_eq!(without, [Path::new("/proc"), Path::new("/no/such/place")]);
    }
}
