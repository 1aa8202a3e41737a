//! Bounds on what an attempt writes, looked at while it runs: a program that fills the car's disk is ended.
//!
//! Coarse on purpose: a directory is measured once a second. What counts in the end, the size of the output, is measured again when
//! the program has ended.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kerbside_core::names::reason;

use super::files::output_directory;
use crate::directory::AttemptDirectory;
use crate::images::size_of;
use crate::pod::{VolumeWork, Work};

/// Between two looks.
pub(super) const PERIOD: Duration = Duration::from_secs(1);

/// One bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bound {
    paths: Vec<PathBuf>,
    /// Containers whose layers count too.
    layers: Vec<usize>,
    limit: u64,
    reason: &'static str,
    what: String,
}

/// A bound that is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// Every bound of an attempt. All its files together may have `disk` bytes, the car's ephemeral storage.
pub(super) fn bounds(directory: &AttemptDirectory, work: &Work, disk: u64) -> io::Result<Vec<Bound>> {
    let mut bounds = vec![Bound {
        paths: vec![directory.root().to_owned()],
        layers: (0..work.containers.len()).collect(),
        limit: disk,
        reason: "Evicted",
        what: "the attempt".to_owned(),
    }];
    if let Some(output) = &work.output {
        bounds.push(Bound {
            paths: vec![output_directory(directory, work)?],
            layers: Vec::new(),
            limit: output.max_bytes,
            reason: reason::OUTPUT_TOO_LARGE,
            what: format!("the output in {}", output.path),
        });
    }
    for (name, volume) in &work.volumes {
        if let VolumeWork::EmptyDir {
            size_limit: Some(limit),
            // One in memory is bounded by the kernel.
            memory: false,
        } = volume
        {
            bounds.push(Bound {
                paths: vec![directory.volume(name)],
                layers: Vec::new(),
                limit: *limit,
                reason: "Evicted",
                what: format!("the emptyDir volume {name}"),
            });
        }
    }
    for (index, container) in work.containers.iter().enumerate() {
        if let Some(limit) = container.storage_limit {
            bounds.push(Bound {
                paths: vec![directory.rootfs(&container.name), directory.logs(&container.name)],
                layers: vec![index],
                limit,
                reason: "Evicted",
                what: format!("ephemeral-storage of container {}", container.name),
            });
        }
    }
    Ok(bounds)
}

/// The first bound that is broken. `layers` has where each container's own files are, if not in the attempt's directory. A directory that
/// is not there, or changes while it is measured, is measured the next time.
pub(super) fn check(bounds: &[Bound], layers: &[Option<PathBuf>]) -> Option<Broken> {
    bounds.iter().find_map(|bound| {
        let layers = bound.layers.iter().filter_map(|index| layers.get(*index)?.as_ref());
        let mut used = 0_u64;
        for path in bound.paths.iter().chain(layers) {
            match size_of(path) {
                Ok(size) => used = used.saturating_add(size),
                // Not there yet, or not any more.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // Directories in directories until no path leads there: what cannot be measured is not bounded.
                Err(error) => {
                    return Some(Broken {
                        reason: bound.reason,
                        message: format!("{} cannot be measured: {error}", bound.what),
                    });
                }
            }
        }
        (used > bound.limit).then(|| Broken {
            reason: bound.reason,
            message: format!("{} has {used} bytes; its limit is {}", bound.what, bound.limit),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::directory::Directory;
    use crate::pod::tests::{pod_json, run_of};
    use kerbside_core::quantity::Resources;

    #[test]
    fn each_bound_breaks_by_itself() {
        let uid: kerbside_core::ids::PodUid = "u-1".parse().unwrap();
        let mut pod = pod_json();
        pod["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"] = json!("10");
        let work = Work::read(uid.clone(), &run_of(&pod), &Resources::default()).unwrap();
        for (reason, file, size) in [
            (reason::OUTPUT_TOO_LARGE, "output/x", 1001),
            ("Evicted", "volumes/scratch/deep/x", (1 << 20) + 1),
            ("Evicted", "containers/classify/x", 11),
            ("Evicted", "logs/classify/0.log", 11),
            ("Evicted", "containers/other/x", (2 << 20) + 1),
        ] {
            let temp = tempfile::tempdir().unwrap();
            let directory = Directory::open(temp.path()).unwrap().attempt(&uid);
            let bounds = bounds(&directory, &work, 2 << 20).unwrap();
            assert_eq!(check(&bounds, &[]), None);
            let path = directory.root().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, vec![0; size - 1]).unwrap();
            assert_eq!(check(&bounds, &[]), None, "{file}");
            std::fs::write(&path, vec![0; size]).unwrap();
            let broken = check(&bounds, &[]).unwrap();
            assert_eq!(broken.reason, reason);
            assert!(broken.message.contains(&size.to_string()), "{}", broken.message);
        }
    }

    #[test]
    fn what_a_container_writes_to_its_images_files_counts_as_its_own() {
        let uid: kerbside_core::ids::PodUid = "u-1".parse().unwrap();
        let mut pod = pod_json();
        pod["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"] = json!("10");
        let work = Work::read(uid.clone(), &run_of(&pod), &Resources::default()).unwrap();
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(&temp.path().join("car")).unwrap().attempt(&uid);
        let bounds = bounds(&directory, &work, 2 << 20).unwrap();
        let layer = temp.path().join("layer");
        std::fs::create_dir(&layer).unwrap();
        std::fs::write(layer.join("x"), "12345678901").unwrap();
        assert_eq!(check(&bounds, &[None]), None);
        let broken = check(&bounds, &[Some(layer)]).unwrap();
        assert!(
            broken.message.contains("ephemeral-storage of container classify"),
            "{}",
            broken.message
        );
    }
}
