//! The one directory that an agent owns: where everything in it lies, and how small files in it are replaced.
//!
//! Every other module takes its paths from here. Nothing outside the directory is ever written.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use kerbside_core::ids::PodUid;

/// The agent's directory.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// Where it is, or would be: nothing is made.
    pub fn at(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: fs::canonicalize(root).or_else(|_| std::path::absolute(root))?,
        })
    }

    /// Makes what is missing of it. Only its owner may read it: keys, and other people's data, are in it.
    pub fn open(root: &Path) -> io::Result<Self> {
        let directory = Self::at(root)?;
        for path in [
            directory.root.clone(),
            directory.journal(),
            directory.cache(),
            directory.attempts(),
        ] {
            make_private(&path)?;
        }
        Ok(directory)
    }

    /// One that is there, for who only reads: nothing is made.
    pub fn existing(root: &Path) -> io::Result<Self> {
        Ok(Self {
            root: fs::canonicalize(root)?,
        })
    }

    /// Where it is, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The car's key and certificates.
    pub fn identity(&self) -> PathBuf {
        self.root.join("identity")
    }

    /// The owner's document.
    pub fn owner(&self) -> PathBuf {
        self.root.join("owner.yaml")
    }

    /// What the maker or installer says of the car; optional.
    pub fn car(&self) -> PathBuf {
        self.root.join("car.yaml")
    }

    /// The owner's last command.
    pub fn command(&self) -> PathBuf {
        self.root.join("command.json")
    }

    /// What the owner has consented to, on record.
    pub fn consents(&self) -> PathBuf {
        self.root.join("consents")
    }

    /// That there were records, which were deleted.
    pub fn sealed(&self) -> PathBuf {
        self.consents().join("sealed.jsonl")
    }

    /// How far those records had come: kept apart from them, so that records which were set back are found.
    pub fn consents_mark(&self) -> PathBuf {
        self.receipts().join("consents.json")
    }

    /// What the owner took back while those records could not be gone on with.
    pub fn consents_withdrawn(&self) -> PathBuf {
        self.consents().join("withdrawn.json")
    }

    /// What the fleet or the maker tells an owner before a consent counts; optional.
    pub fn notice(&self) -> PathBuf {
        self.root.join("notice.yaml")
    }

    /// Says that the car is to forget its owner.
    pub fn forgetting(&self) -> PathBuf {
        self.root.join("forget.json")
    }

    /// Which optional signals the car has ever said.
    pub fn said(&self) -> PathBuf {
        self.root.join("said.json")
    }

    /// When the car stood where it stands, for half a year: what it forecasts its stays by.
    pub fn stays(&self) -> PathBuf {
        self.root.join("stays.json")
    }

    /// What work has had today of the owner's energy.
    pub fn energy(&self) -> PathBuf {
        self.root.join("energy.json")
    }

    /// What work has moved this month of the owner's data.
    pub fn data(&self) -> PathBuf {
        self.root.join("data.json")
    }

    /// Where a running agent takes commands.
    pub fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// Held while an agent runs, so that there is never a second.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// What ran and how it ended.
    pub fn journal(&self) -> PathBuf {
        self.root.join("journal")
    }

    /// What attempts used, signed.
    pub fn receipts(&self) -> PathBuf {
        self.root.join("receipts")
    }

    /// Images, and what was made of them. May be deleted while no agent runs.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    fn attempts(&self) -> PathBuf {
        self.root.join("attempts")
    }

    /// Everything that lies in it and goes with the owner, whoever put it there: all but what is named here. `makers`: files of the maker's that may lie
    /// in it, too. Who the car is, and that it is to forget, go last, and by themselves.
    pub fn of_the_owner(&self, makers: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
        let stays = [
            self.car(),
            self.notice(),
            self.consents(),
            self.identity(),
            self.forgetting(),
            // Held by who asks, and empty.
            self.lock(),
            // Of the file system, where all of it is the agent's.
            self.root.join("lost+found"),
        ];
        // Also by their true names: this directory has its own.
        let true_names: Vec<_> = makers.iter().filter_map(|file| fs::canonicalize(file).ok()).collect();
        let is_makers = |path: &PathBuf| makers.iter().chain(&true_names).any(|file| file.starts_with(path));
        let mut goes = entries(&self.root)?;
        goes.retain(|path| !stays.contains(path) && !is_makers(path));
        let mut consents = entries(&self.consents())?;
        consents.retain(|path| *path != self.sealed());
        goes.append(&mut consents);
        Ok(goes)
    }

    /// The files of one attempt.
    pub fn attempt(&self, uid: &PodUid) -> AttemptDirectory {
        AttemptDirectory {
            root: self.attempts().join(uid.as_str()),
        }
    }

    /// The attempts that have files, known to the journal or not.
    pub fn attempts_with_files(&self) -> io::Result<Vec<String>> {
        fs::read_dir(self.attempts())?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Removes the files of an attempt that nobody knows any more.
    pub fn remove_attempt(&self, name: &str) -> io::Result<()> {
        let root = self.attempts().join(name);
        crate::attempts::volumes::forget(&root)?;
        fs::remove_dir_all(root)
    }
}

/// The files of one attempt.
#[derive(Debug, Clone)]
pub struct AttemptDirectory {
    root: PathBuf,
}

impl AttemptDirectory {
    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The scratch root of a container: its `/`.
    pub fn rootfs(&self, container: &str) -> PathBuf {
        self.root.join("containers").join(container)
    }

    /// A volume that lives as long as the attempt.
    pub fn volume(&self, volume: &str) -> PathBuf {
        self.root.join("volumes").join(volume)
    }

    /// A part of a volume that one container sees: of its n-th mount.
    pub fn part(&self, container: &str, n: usize) -> PathBuf {
        self.root.join("parts").join(container).join(n.to_string())
    }

    /// What the attempt produces.
    pub fn output(&self) -> PathBuf {
        self.root.join("output")
    }

    /// The logs of all containers.
    pub fn all_logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The logs of a container, one file per run.
    pub fn logs(&self, container: &str) -> PathBuf {
        self.all_logs().join(container)
    }

    /// The hosts file of the attempt's containers.
    pub fn hosts(&self) -> PathBuf {
        self.root.join("etc-hosts")
    }

    /// The file that a container leaves its termination message in.
    pub fn message(&self, container: &str) -> PathBuf {
        self.root.join("messages").join(container)
    }

    /// The log of one run of a container.
    pub fn log(&self, container: &str, restart: u32) -> PathBuf {
        self.logs(container).join(format!("{restart}.log"))
    }

    /// Files on their way to the cluster.
    pub fn upload(&self) -> PathBuf {
        self.root.join("upload")
    }
}

/// Makes a directory and its parents, readable by its owner only.
pub fn make_private(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Replaces a small file so that after a crash there is the old content or the new, never a part.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_private(directory)?;
    let new = new_of(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_directory(directory)
}

/// Where the new content of a file lies until it is whole.
pub fn new_of(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// What lies in a directory, if there is one.
fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Makes a rename or a new file in a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn directory_that_is_made_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(&temp.path().join("car")).unwrap();
        let mode = fs::metadata(directory.journal()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn file_that_is_replaced_has_the_new_content_and_no_leftover() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("identity/key.pem");
        replace(&path, b"old").unwrap();
        replace(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
