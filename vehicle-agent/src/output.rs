//! What an attempt leaves: its output and its logs, hashed and sent.
//!
//! Called by the actor when every program of the attempt has ended, so nothing changes any more. An attempt is only told as
//! succeeded when this has returned. What must never happen: a file outside the output directory, or bytes that were not hashed.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use kerbside_core::ids::PodUid;
use kerbside_core::names::reason;
use kerbside_link::client::UploadError;
use kerbside_link::proto::OutputFile;
use sha2::{Digest as _, Sha256};

use crate::cluster::Cluster;
use crate::directory::make_private;
use crate::logs::Log;
use crate::logs::reader::{LogReader, Wanted};

/// More files than this are no result but a file system.
const FILES_MAX: usize = 10_000;
/// A path in a manifest is no longer.
const PATH_MAX: usize = 1024;

/// Why an output will never be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// A word in CamelCase.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

impl Refused {
    fn new(reason: &str, message: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn unreadable(error: &io::Error) -> Self {
        Self::new(
            "OutputUnreadable",
            format!("the vehicle cannot read the output: {error}"),
        )
    }
}

/// A file that is ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// What the cluster is told of it.
    pub file: OutputFile,
    /// Where it is in the car.
    pub path: PathBuf,
}

/// Every file in `directory`, hashed. Refused if they are too many or too large.
pub fn collect(directory: &Path, max_bytes: u64) -> Result<Vec<Item>, Refused> {
    let mut found = Vec::new();
    let mut left = max_bytes;
    walk(directory, "", &mut found, &mut left, max_bytes)?;
    found.sort();
    found
        .into_iter()
        .map(|(path, place)| item(path, place).map_err(|e| Refused::unreadable(&e)))
        .collect()
}

fn walk(
    directory: &Path,
    prefix: &str,
    found: &mut Vec<(String, PathBuf)>,
    left: &mut u64,
    max_bytes: u64,
) -> Result<(), Refused> {
    let unreadable = |e: io::Error| Refused::unreadable(&e);
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        // A program that was never started has made no output.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unreadable(e)),
    };
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().into_string().map_err(|name| {
            Refused::new(
                "OutputUnreadable",
                format!("the output has a file whose name is not UTF-8: {}", name.display()),
            )
        })?;
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let metadata = entry.path().symlink_metadata().map_err(unreadable)?;
        if metadata.is_dir() {
            walk(&entry.path(), &path, found, left, max_bytes)?;
            continue;
        }
        if !metadata.is_file() {
            return Err(Refused::new(
                "OutputUnreadable",
                format!("'{path}' in the output is not a file: write a copy instead of a link"),
            ));
        }
        if found.len() >= FILES_MAX || path.len() > PATH_MAX {
            return Err(Refused::new(
                reason::OUTPUT_TOO_LARGE,
                format!("the output has more than {FILES_MAX} files, or a path longer than {PATH_MAX} bytes"),
            ));
        }
        *left = left.checked_sub(metadata.len()).ok_or_else(|| {
            Refused::new(
                reason::OUTPUT_TOO_LARGE,
                format!("the output is larger than the {max_bytes} bytes that the job allows"),
            )
        })?;
        found.push((path, entry.path()));
    }
    Ok(())
}

fn item(path: String, place: PathBuf) -> io::Result<Item> {
    let mut file = File::open(&place)?;
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        size += read as u64;
    }
    Ok(Item {
        file: OutputFile {
            path,
            size,
            sha256: HEXLOWER.encode(&hash.finalize()),
        },
        path: place,
    })
}

/// The text of a container's log, as one file ready to be sent.
pub async fn log_file(container: &str, log: Log, directory: &Path) -> io::Result<Item> {
    make_private(directory)?;
    let place = directory.join(format!("{container}.log"));
    let mut file = File::create(&place)?;
    let mut reader = LogReader::open(log, Wanted::default())?;
    while let Some(chunk) = reader.next().await? {
        file.write_all(&chunk)?;
    }
    drop(file);
    item(container.to_owned(), place)
}

/// Sends files and logs and seals them. Waits for the cluster as long as it takes.
pub async fn send<C: Cluster>(cluster: &C, uid: &PodUid, files: &[Item], logs: &[Item]) -> Result<(), Refused> {
    for item in files.iter().chain(logs) {
        cluster
            .upload(uid, &item.file, &item.path)
            .await
            .map_err(|error| match &error {
                UploadError::Read(source) => Refused::unreadable(source),
                UploadError::Changed => Refused::new("OutputUnreadable", error.to_string()),
                UploadError::Refused(fault) => Refused::new(
                    "OutputRefused",
                    format!("the cluster does not take the output: {fault}"),
                ),
            })?;
    }
    let told = |items: &[Item]| items.iter().map(|item| item.file.clone()).collect();
    cluster.seal(uid, told(files), told(logs)).await.map_err(|fault| {
        Refused::new(
            "OutputRefused",
            format!("the cluster does not take the output: {fault}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, path: &str, content: &str) {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn every_file_is_found_in_order_with_its_hash() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), "b.txt", "b");
        write(temp.path(), "a/deep/x", "");
        let items = collect(temp.path(), 1).unwrap();
        let told: Vec<_> = items
            .iter()
            .map(|item| (item.file.path.as_str(), item.file.size, &item.file.sha256[..8]))
            .collect();
        assert_eq!(told, [("a/deep/x", 0, "e3b0c442"), ("b.txt", 1, "3e23e816")]);
    }

    #[test]
    fn output_of_a_program_that_wrote_nothing_is_empty() {
        let temp = tempfile::tempdir().unwrap();
        assert!(collect(temp.path(), 0).unwrap().is_empty());
        assert!(collect(&temp.path().join("none"), 0).unwrap().is_empty());
    }

    #[test]
    fn output_beyond_its_bytes_is_refused_before_it_is_read() {
        let temp = tempfile::tempdir().unwrap();
        write(temp.path(), "x", "12345");
        // A file that says it is huge and holds nothing.
        File::create(temp.path().join("sparse"))
            .unwrap()
            .set_len(1 << 40)
            .unwrap();
        let refused = collect(temp.path(), 1 << 30).unwrap_err();
        assert_eq!(refused.reason, reason::OUTPUT_TOO_LARGE);
        assert!(refused.message.contains("1073741824"), "{}", refused.message);
    }

    #[test]
    fn link_in_the_output_is_refused_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", temp.path().join("x")).unwrap();
        let refused = collect(temp.path(), 1000).unwrap_err();
        assert!(
            refused.reason == "OutputUnreadable" && refused.message.contains("'x'"),
            "{}",
            refused.message
        );
    }
}
