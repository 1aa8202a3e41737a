//! Where the directories of a container are, in the car and for its program.
//!
//! Called when a container is started, and when its output and termination message are read. What must never happen: a path that
//! leaves the attempt's own directories because a program, or an artefact, put a symbolic link in the way.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use super::parts::Parts;
use super::volumes;
use crate::directory::{AttemptDirectory, make_private};
use crate::images::Files;
use crate::pod::{ContainerWork, Engine, Mount, Output, VolumeWork, Work};
use crate::runtime::SpecDirectory;

/// A termination message is no longer, as in the kubelet.
const MESSAGE_MAX: u64 = 4096;

/// Makes the directories of a container for one run. `images` has the files of image volumes, by volume; `parts` the places of what was
/// bound.
pub(super) fn lay_out(
    directory: &AttemptDirectory,
    work: &Work,
    index: usize,
    images: &[(String, Files)],
    parts: &Parts,
    known: &BTreeMap<String, String>,
) -> io::Result<Vec<SpecDirectory>> {
    let container = &work.containers[index];
    let root = match work.engine {
        Engine::Wasm => Some(scratch_root(directory, container)?),
        // Its files are the image's.
        Engine::Container => None,
    };
    let place = |path: &str| root.as_ref().map_or(Ok(()), |root| make_private(&inside(root, path)));
    let mut directories: Vec<_> = root
        .iter()
        .map(|root| SpecDirectory {
            host: root.clone(),
            guest: "/".to_owned(),
            read_only: false,
        })
        .collect();
    for (number, mount) in container.mounts.iter().enumerate() {
        let (host, read_only) = match parts.get(&number) {
            Some(place) => (place.clone(), mount.read_only),
            None => volume(directory, work, mount, images, known)?,
        };
        place(&mount.path)?;
        directories.push(SpecDirectory {
            host,
            guest: mount.path.clone(),
            read_only,
        });
    }
    if let Some(output) = work.output.as_ref().filter(|_| index == work.first_container()) {
        if output_mount(container, output).is_none() {
            make_shared(&directory.output(), work)?;
            place(&output.path)?;
            let host = directory.output();
            directories.push(SpecDirectory {
                host,
                guest: output.path.clone(),
                read_only: false,
            });
        } else {
            // In a volume that other programs see, and may have put a link into, nothing is made while they run.
            if work.engine == Engine::Wasm {
                make_private(&output_directory(directory, work)?)?;
            }
        }
    }
    // An outer place first: what is mounted later would hide what is within it.
    directories.sort_by_key(|directory| directory.guest.trim_end_matches('/').matches('/').count());
    message(directory, work, container, &mut directories)?;
    Ok(directories)
}

/// A WebAssembly program's `/`. Each run starts from an empty one, as a container's does.
fn scratch_root(directory: &AttemptDirectory, container: &ContainerWork) -> io::Result<PathBuf> {
    let root = directory.rootfs(&container.name);
    match fs::remove_dir_all(&root) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    make_private(&root.join("tmp"))?;
    Ok(root)
}

/// A directory that a program writes to, whoever it is: as the kubelet makes an `emptyDir`.
pub(super) fn make_shared(path: &Path, work: &Work) -> io::Result<()> {
    if work.engine == Engine::Wasm {
        return make_private(path);
    }
    if path.is_dir() {
        return Ok(());
    }
    make_private(path)?;
    share(&File::open(path)?, work.shared.fs_group)
}

/// Lets everybody write to a directory that is open; what is made in it is its group's, if it has one.
pub(super) fn share(directory: &File, group: Option<i64>) -> io::Result<()> {
    let mode = if let Some(group) = group {
        fchown(directory, None, u32::try_from(group).ok())?;
        0o2777
    } else {
        0o777
    };
    directory.set_permissions(Permissions::from_mode(mode))
}

/// The file for the termination message: in what the program sees anyway, or a file of its own.
fn message(
    directory: &AttemptDirectory,
    work: &Work,
    container: &ContainerWork,
    directories: &mut Vec<SpecDirectory>,
) -> io::Result<()> {
    if work.engine == Engine::Container {
        // Always a file of its own, which no program can put anything else in the place of: the agent reads it with all its rights.
        let host = directory.message(&container.name);
        make_private(host.parent().ok_or(io::ErrorKind::InvalidInput)?)?;
        // Empty for each run.
        File::create(&host)?;
        fs::set_permissions(&host, Permissions::from_mode(0o666))?;
        directories.push(SpecDirectory {
            host,
            guest: container.message_path.clone(),
            read_only: false,
        });
        return Ok(());
    }
    let within = host_of(directories, &container.message_path);
    if let Some((base, rest)) = within.filter(|(directory, _)| !directory.read_only) {
        let path = make_inside(&base.host, Path::new(&rest).parent().unwrap_or_else(|| Path::new("")))?;
        let name = Path::new(&rest).file_name().ok_or(io::ErrorKind::InvalidInput)?;
        if path.join(name).symlink_metadata().is_err() {
            File::create_new(path.join(name))?;
        }
    }
    Ok(())
}

/// The directory of the car behind a mount, and whether it is read-only.
fn volume(
    directory: &AttemptDirectory,
    work: &Work,
    mount: &Mount,
    images: &[(String, Files)],
    known: &BTreeMap<String, String>,
) -> io::Result<(PathBuf, bool)> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("volume {} is not ready", mount.volume));
    let part = mount
        .part(known)
        .map_err(|m| io::Error::new(io::ErrorKind::InvalidInput, m))?;
    let sub_path = Path::new(&part);
    match work.volumes.get(&mount.volume).ok_or_else(missing)? {
        VolumeWork::Image { .. } => {
            let (_, files) = images
                .iter()
                .find(|(name, _)| *name == mount.volume)
                .ok_or_else(missing)?;
            Ok((existing_inside(&files.path, sub_path)?, true))
        }
        VolumeWork::Files(_) => {
            let base = directory.volume(&mount.volume);
            if part.is_empty() {
                return Ok((base, true));
            }
            // A part of a volume stays as it is now, as under a kubelet. There is no link in what the agent wrote.
            let now = base.join(fs::read_link(base.join(volumes::DATA))?);
            let path = now.join(sub_path);
            fs::symlink_metadata(&path)?;
            Ok((path, true))
        }
        VolumeWork::EmptyDir { .. } => {
            let base = directory.volume(&mount.volume);
            make_shared(&base, work)?;
            Ok((make_inside(&base, sub_path)?, mount.read_only))
        }
    }
}

/// The mount that the output path lies in, and the path within it.
fn output_mount<'a>(container: &'a ContainerWork, output: &'a Output) -> Option<(&'a Mount, &'a str)> {
    let mounts = container.mounts.iter();
    mounts
        .filter_map(|mount| Some((mount, below(&mount.path, &output.path)?)))
        .max_by_key(|(mount, _)| mount.path.len())
}

/// Where the attempt's output is in the car. The error says what a person can change.
pub(super) fn output_directory(directory: &AttemptDirectory, work: &Work) -> io::Result<PathBuf> {
    let Some(output) = &work.output else {
        return Ok(directory.output());
    };
    let Some((mount, rest)) = output_mount(&work.containers[work.first_container()], output) else {
        return Ok(directory.output());
    };
    // Its expression was expanded when the container was started; the files are looked for where they would be without variables.
    let part = mount.part(&BTreeMap::new()).unwrap_or_default();
    match work.volumes.get(&mount.volume) {
        Some(VolumeWork::EmptyDir { .. }) if !mount.read_only => {
            let sub_path = Path::new(&part).join(rest);
            make_shared(&directory.volume(&mount.volume), work)?;
            make_inside(&directory.volume(&mount.volume), &sub_path)
        }
        _ => {
            let message = format!(
                "the output path {} lies in the read-only volume {}",
                output.path, mount.volume
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, message))
        }
    }
}

/// What the program left as its termination message.
pub(super) fn termination_message(directories: &[SpecDirectory], path: &str) -> Option<String> {
    let (base, rest) = host_of(directories, path)?;
    let file = Path::new(&rest);
    let path = match file.file_name() {
        Some(name) => existing_inside(&base.host, file.parent()?).ok()?.join(name),
        // A file of its own.
        None => base.host.clone(),
    };
    if !path.symlink_metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MESSAGE_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
}

/// The directory that a program's path lies in, and the rest of the path.
fn host_of<'a>(directories: &'a [SpecDirectory], path: &str) -> Option<(&'a SpecDirectory, String)> {
    let within = directories
        .iter()
        .filter_map(|directory| Some((directory, below(&directory.guest, path)?)));
    within
        .max_by_key(|(directory, _)| directory.guest.len())
        .map(|(directory, rest)| (directory, rest.to_owned()))
}

/// The rest of `path` below `directory`; both absolute.
fn below<'a>(directory: &str, path: &'a str) -> Option<&'a str> {
    let rest = path.strip_prefix(directory.trim_end_matches('/'))?;
    if rest.is_empty() {
        Some("")
    } else {
        rest.strip_prefix('/')
    }
}

fn inside(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// A directory below `base` that is there and reached without a symbolic link.
fn existing_inside(base: &Path, rest: &Path) -> io::Result<PathBuf> {
    let mut path = base.to_owned();
    for part in rest.components() {
        path.push(part);
        if !path.symlink_metadata()?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{} is not a directory", rest.display()),
            ));
        }
    }
    Ok(path)
}

/// The same, made where it is missing.
fn make_inside(base: &Path, rest: &Path) -> io::Result<PathBuf> {
    let mut path = base.to_owned();
    for part in rest.components() {
        path.push(part);
        match path.symlink_metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir(&path)?,
            Err(e) => return Err(e),
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::NotADirectory,
                    format!("{} is not a directory", rest.display()),
                ));
            }
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;
    use crate::directory::Directory;
    use crate::pod::tests::{pod_json, run_of};
    use kerbside_core::quantity::Resources;

    struct Fixture {
        _temp: tempfile::TempDir,
        directory: AttemptDirectory,
        work: Work,
        images: Vec<(String, Files)>,
    }

    fn fixture(change: impl FnOnce(&mut serde_json::Value)) -> Fixture {
        let temp = tempfile::tempdir().unwrap();
        let mut pod = pod_json();
        change(&mut pod);
        let uid: kerbside_core::ids::PodUid = "u-1".parse().unwrap();
        let work = Work::read(uid.clone(), &run_of(&pod), &Resources::default()).unwrap();
        let model = temp.path().join("model");
        fs::create_dir_all(model.join("v1")).unwrap();
        symlink("/etc", model.join("link")).unwrap();
        let directory = Directory::open(&temp.path().join("car")).unwrap().attempt(&uid);
        Fixture {
            _temp: temp,
            directory,
            work,
            images: vec![("model".to_owned(), Files { path: model })],
        }
    }

    impl Fixture {
        fn lay_out(&self) -> io::Result<Vec<SpecDirectory>> {
            lay_out(
                &self.directory,
                &self.work,
                0,
                &self.images,
                &Parts::new(),
                &BTreeMap::new(),
            )
        }
    }

    #[test]
    fn container_gets_root_volumes_and_output() {
        let fixture = fixture(|_| {});
        let directories = fixture.lay_out().unwrap();
        let seen: Vec<_> = directories.iter().map(|d| (d.guest.as_str(), d.read_only)).collect();
        assert_eq!(
            seen,
            [
                ("/", false),
                ("/model", true),
                ("/scratch", false),
                ("/kerbside/out", false)
            ]
        );
        assert!(directories[0].host.join("tmp").is_dir() && directories[0].host.join("model").is_dir());
        assert_eq!(directories[3].host, fixture.directory.output());
        assert_eq!(
            output_directory(&fixture.directory, &fixture.work).unwrap(),
            fixture.directory.output()
        );
    }

    #[test]
    fn second_run_starts_from_an_empty_root_and_keeps_volumes() {
        let fixture = fixture(|_| {});
        let directories = fixture.lay_out().unwrap();
        fs::write(directories[0].host.join("left"), "x").unwrap();
        fs::write(directories[2].host.join("kept"), "x").unwrap();
        fixture.lay_out().unwrap();
        assert!(!directories[0].host.join("left").exists() && directories[2].host.join("kept").exists());
    }

    #[test]
    fn output_below_a_volume_is_collected_from_the_volume() {
        let fixture = fixture(|pod| pod["spec"]["containers"][0]["volumeMounts"][1]["mountPath"] = json!("/kerbside"));
        assert_eq!(fixture.lay_out().unwrap().len(), 3);
        let output = output_directory(&fixture.directory, &fixture.work).unwrap();
        assert_eq!(output, fixture.directory.volume("scratch").join("out"));
        assert!(output.is_dir());
    }

    #[test]
    fn output_in_a_read_only_volume_says_so() {
        let fixture = fixture(|pod| pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] = json!("/kerbside"));
        let message = fixture.lay_out().unwrap_err().to_string();
        assert!(message.contains("read-only volume model"), "{message}");
    }

    #[test]
    fn sub_path_through_a_link_is_refused() {
        let with = |sub_path: &str| {
            let fixture = fixture(|pod| pod["spec"]["containers"][0]["volumeMounts"][0]["subPath"] = json!(sub_path));
            fixture.lay_out().map(|directories| directories[1].host.clone())
        };
        assert!(with("v1").unwrap().ends_with("model/v1"));
        assert!(with("link/ssl").is_err());
        assert!(with("none").is_err());
    }

    #[test]
    fn termination_message_is_read_from_where_the_program_wrote_it() {
        let fixture = fixture(|_| {});
        let directories = fixture.lay_out().unwrap();
        let path = &fixture.work.containers[0].message_path;
        assert_eq!(termination_message(&directories, path), None);
        let file = directories[0].host.join("dev/termination-log");
        fs::write(&file, vec![b'x'; 5000]).unwrap();
        assert_eq!(termination_message(&directories, path).unwrap().len(), 4096);
        fs::remove_file(&file).unwrap();
        symlink("/etc/hostname", &file).unwrap();
        assert_eq!(termination_message(&directories, path), None, "a link is not followed");
        assert_eq!(termination_message(&directories, "/scratch/none"), None);
    }

    #[test]
    fn path_belongs_to_the_longest_directory() {
        let directory = |guest: &str| SpecDirectory {
            host: PathBuf::new(),
            guest: guest.to_owned(),
            read_only: false,
        };
        let directories = [directory("/"), directory("/a"), directory("/a/b")];
        let of = |path| {
            host_of(&directories, path)
                .map(|(d, rest)| (d.guest.as_str(), rest))
                .unwrap()
        };
        assert_eq!(of("/a/b/c"), ("/a/b", "c".to_owned()));
        assert_eq!(of("/a/bc"), ("/a", "bc".to_owned()));
        assert_eq!(of("/x/y"), ("/", "x/y".to_owned()));
    }

    #[test]
    fn container_has_its_message_in_a_file_of_its_own_wherever_it_is() {
        let fixture = fixture(|pod| {
            pod["spec"]["runtimeClassName"] = json!("kerbside-container");
            pod["spec"]["containers"][0]["terminationMessagePath"] = json!("/scratch/message");
        });
        let directories = fixture.lay_out().unwrap();
        assert!(
            directories.iter().all(|directory| directory.guest != "/"),
            "its files are its image's"
        );
        let own = directories.last().unwrap();
        assert_eq!(own.guest, "/scratch/message");
        assert!(own.host.is_file() && !own.host.starts_with(fixture.directory.volume("scratch")));
        fs::write(&own.host, "bye").unwrap();
        assert_eq!(
            termination_message(&directories, "/scratch/message").as_deref(),
            Some("bye")
        );
        fixture.lay_out().unwrap();
        assert_eq!(
            termination_message(&directories, "/scratch/message"),
            None,
            "empty for each run"
        );
    }
}
