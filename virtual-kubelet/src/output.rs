//! What attempts send: output files and logs on their way from a car into the store.
//!
//! Called by the link service. A file is spooled on disk, so that an upload goes on where it stopped; it is put into the store, named by its
//! content, only when its size and hash are right. The manifest is written last and says that everything is there. A car reaches
//! the files of its own attempts only, and only while the cluster still wants them.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::SeekFrom;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kerbside_core::ids::{PodUid, VehicleId};
use kerbside_core::names::store::{attempt_file, attempt_manifest};
use kerbside_k8s::store::{Store, StoreError};
use kerbside_link::fault::Fault;
use kerbside_link::proto::{OutputFile, OutputReceipt};
use kerbside_link::server::OutputStream;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::pod_facts::vehicle_of;
use crate::run::max_output;

/// The longest log of one container that is kept.
const LONGEST_LOG: u64 = 64 << 20;
/// More files than any job should have; the manifest is read whole.
const MOST_FILES: usize = 10_000;

/// Takes in what attempts send.
pub(crate) struct Output {
    store: Store,
    pods: PodsOf,
    directory: PathBuf,
    /// Files that are being written: one writer each.
    open: Mutex<HashSet<(PodUid, String)>>,
}

/// Where attempts are looked up.
pub(crate) type PodsOf = Box<dyn Fn(&PodUid) -> Option<Arc<Pod>> + Send + Sync>;

/// Says that a file is not being written any more.
struct Writing<'a> {
    output: &'a Output,
    key: (PodUid, String),
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.output
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.key);
    }
}

/// An attempt whose files are taken.
struct Attempt {
    namespace: String,
    max_bytes: u64,
    /// Its end is in the API.
    ended: bool,
}

fn spool(error: &std::io::Error) -> Fault {
    tracing::warn!(%error, "the spool directory cannot be used");
    Fault::unavailable("the adapter cannot keep the file at the moment; try again")
}

fn store_fault(error: &StoreError) -> Fault {
    tracing::warn!(%error, "the store cannot be used");
    Fault::unavailable("the store is not reachable; try again")
}

impl Output {
    /// Keeps what is on its way under `directory`, which must exist.
    pub(crate) fn new(store: Store, pods: PodsOf, directory: PathBuf) -> Self {
        Self {
            store,
            pods,
            directory,
            open: Mutex::default(),
        }
    }

    fn attempt(&self, vehicle: &VehicleId, uid: &PodUid) -> Result<Attempt, Fault> {
        let gone = || Fault::not_found("the cluster does not know this attempt any more");
        let pod = (self.pods)(uid).ok_or_else(gone)?;
        if vehicle_of(&pod).as_ref() != Some(vehicle) {
            return Err(Fault::denied("this attempt belongs to another vehicle"));
        }
        let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
        Ok(Attempt {
            namespace: pod.metadata.namespace.clone().ok_or_else(gone)?,
            max_bytes: max_output(&pod),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
        })
    }

    /// The attempt and its file, if both may be written.
    fn wanted(&self, vehicle: &VehicleId, uid: &PodUid, file: &OutputFile) -> Result<Attempt, Fault> {
        let attempt = self.attempt(vehicle, uid)?;
        if attempt.ended {
            return Err(Fault::not_found(
                "the attempt has ended for the cluster; its output is not wanted any more",
            ));
        }
        check_hash(&file.sha256)?;
        if file.size > attempt.max_bytes.max(LONGEST_LOG) {
            return Err(Fault::too_large(format!(
                "the file has {} bytes; at most {} are taken",
                file.size, attempt.max_bytes
            )));
        }
        Ok(attempt)
    }

    /// One directory per attempt, one file per content.
    fn path(&self, uid: &PodUid, file: &OutputFile) -> PathBuf {
        self.directory.join(uid.as_str()).join(&file.sha256)
    }

    async fn stored(&self, attempt: &Attempt, uid: &PodUid, file: &OutputFile) -> Result<bool, Fault> {
        let path = attempt_file(&attempt.namespace, uid.as_str(), &file.sha256);
        Ok(self.store.size(&path).await.map_err(|e| store_fault(&e))? == Some(file.size))
    }

    async fn spooled(&self, uid: &PodUid, file: &OutputFile) -> Result<u64, Fault> {
        match tokio::fs::metadata(self.path(uid, file)).await {
            // A full spool file that is not in the store was not put: the last byte is asked for again, and puts it.
            Ok(m) => Ok(m.len().min(file.size.saturating_sub(1))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(spool(&e)),
        }
    }

    /// How many bytes of the file are here.
    pub(crate) async fn offset(&self, vehicle: &VehicleId, uid: &PodUid, file: &OutputFile) -> Result<u64, Fault> {
        let attempt = self.wanted(vehicle, uid, file)?;
        if file.size > 0 && self.stored(&attempt, uid, file).await? {
            return Ok(file.size);
        }
        self.spooled(uid, file).await
    }

    /// Takes bytes of the file from `offset`.
    pub(crate) async fn put(
        &self,
        vehicle: &VehicleId,
        uid: &PodUid,
        file: &OutputFile,
        offset: u64,
        mut data: OutputStream,
    ) -> Result<OutputReceipt, Fault> {
        let attempt = self.wanted(vehicle, uid, file)?;
        let _writing = self.write_alone(uid, file)?;
        if self.stored(&attempt, uid, file).await? {
            return Ok(OutputReceipt {
                offset: file.size,
                complete: true,
            });
        }
        let here = self.spooled(uid, file).await?;
        if offset != here {
            return Err(Fault::conflict(format!(
                "the upload goes on at {here}, not at {offset}"
            )));
        }
        let mut spooled = self.open(uid, file, offset).await?;
        let mut at = offset;
        let mut broken = None;
        while let Some(chunk) = data.next().await {
            let chunk = match chunk {
                Ok(chunk) => chunk,
                Err(fault) => {
                    broken = Some(fault);
                    break;
                }
            };
            at += chunk.len() as u64;
            if at > file.size {
                self.drop_spooled(uid, file).await;
                return Err(Fault::invalid("more bytes came than the file has; start again"));
            }
            spooled.write_all(&chunk).await.map_err(|e| spool(&e))?;
        }
        spooled.flush().await.map_err(|e| spool(&e))?;
        if at < file.size {
            return broken.map_or(
                Ok(OutputReceipt {
                    offset: at,
                    complete: false,
                }),
                Err,
            );
        }
        self.complete(&attempt, uid, file, spooled).await
    }

    /// A file of no bytes has nothing to upload: its offset is its size from the beginning.
    async fn put_empty(&self, attempt: &Attempt, uid: &PodUid, file: &OutputFile) -> Result<bool, Fault> {
        let empty = file.size == 0 && file.sha256 == data_encoding::HEXLOWER.encode(&Sha256::digest(b""));
        if empty {
            let path = attempt_file(&attempt.namespace, uid.as_str(), &file.sha256);
            self.store.put(&path, Bytes::new()).await.map_err(|e| store_fault(&e))?;
        }
        Ok(empty)
    }

    fn write_alone(&self, uid: &PodUid, file: &OutputFile) -> Result<Writing<'_>, Fault> {
        let key = (uid.clone(), file.sha256.clone());
        if !self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone())
        {
            return Err(Fault::conflict("this file is being uploaded already"));
        }
        Ok(Writing { output: self, key })
    }

    async fn open(&self, uid: &PodUid, file: &OutputFile, offset: u64) -> Result<File, Fault> {
        let path = self.path(uid, file);
        if let Some(directory) = path.parent() {
            tokio::fs::create_dir_all(directory).await.map_err(|e| spool(&e))?;
        }
        let mut options = OpenOptions::new();
        let opened = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .await;
        let mut spooled = opened.map_err(|e| spool(&e))?;
        spooled.set_len(offset).await.map_err(|e| spool(&e))?;
        spooled.seek(SeekFrom::Start(offset)).await.map_err(|e| spool(&e))?;
        Ok(spooled)
    }

    async fn complete(
        &self,
        attempt: &Attempt,
        uid: &PodUid,
        file: &OutputFile,
        mut spooled: File,
    ) -> Result<OutputReceipt, Fault> {
        spooled.rewind().await.map_err(|e| spool(&e))?;
        if hash(&mut spooled).await.map_err(|e| spool(&e))? != file.sha256 {
            self.drop_spooled(uid, file).await;
            return Err(Fault::invalid(format!(
                "'{}' does not have the hash that was told; start again",
                file.path
            )));
        }
        spooled.rewind().await.map_err(|e| spool(&e))?;
        let path = attempt_file(&attempt.namespace, uid.as_str(), &file.sha256);
        self.store
            .put_stream(&path, spooled)
            .await
            .map_err(|e| store_fault(&e))?;
        self.drop_spooled(uid, file).await;
        Ok(OutputReceipt {
            offset: file.size,
            complete: true,
        })
    }

    async fn drop_spooled(&self, uid: &PodUid, file: &OutputFile) {
        let path = self.path(uid, file);
        // What cannot be removed is overwritten by the next upload.
        let _ = tokio::fs::remove_file(&path).await;
        if let Some(directory) = path.parent() {
            let _ = tokio::fs::remove_dir(directory).await;
        }
    }

    /// Everything has arrived: writes the manifest.
    pub(crate) async fn seal(
        &self,
        vehicle: &VehicleId,
        uid: &PodUid,
        files: &[OutputFile],
        logs: &[OutputFile],
    ) -> Result<(), Fault> {
        let attempt = self.attempt(vehicle, uid)?;
        let manifest = attempt_manifest(&attempt.namespace, uid.as_str());
        if attempt.ended {
            // The answer to the first time may have been lost.
            let there = self.store.size(&manifest).await.map_err(|e| store_fault(&e))?.is_some();
            let late = || Fault::not_found("the attempt has ended for the cluster; its output is not wanted any more");
            return there.then_some(()).ok_or_else(late);
        }
        if files.len() + logs.len() > MOST_FILES {
            return Err(Fault::too_large(format!("at most {MOST_FILES} files are taken")));
        }
        let total: u64 = files.iter().map(|f| f.size).fold(0, u64::saturating_add);
        if total > attempt.max_bytes {
            let message = format!("the output has {total} bytes; the job allows {}", attempt.max_bytes);
            return Err(Fault::too_large(message));
        }
        let mut paths = HashSet::new();
        for file in files {
            check_path(&file.path)?;
            if !paths.insert(&file.path) {
                return Err(Fault::invalid(format!("'{}' is there twice", file.path)));
            }
        }
        for file in files.iter().chain(logs) {
            check_hash(&file.sha256)?;
            if !self.stored(&attempt, uid, file).await? && !self.put_empty(&attempt, uid, file).await? {
                return Err(Fault::conflict(format!(
                    "'{}' has not arrived; upload it first",
                    file.path
                )));
            }
        }
        let list = |files: &[OutputFile]| -> Vec<Value> {
            files
                .iter()
                .map(|f| json!({ "path": f.path, "size": f.size, "sha256": f.sha256 }))
                .collect()
        };
        let text = json!({ "uid": uid, "files": list(files), "logs": list(logs) }).to_string();
        self.store
            .put(&manifest, Bytes::from(text))
            .await
            .map_err(|e| store_fault(&e))
    }
}

async fn hash(file: &mut File) -> std::io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = file.read(&mut buffer).await?;
        if n == 0 {
            return Ok(data_encoding::HEXLOWER.encode(&hasher.finalize()));
        }
        hasher.update(buffer.get(..n).unwrap_or_default());
    }
}

/// The hash becomes part of a path.
fn check_hash(text: &str) -> Result<(), Fault> {
    let good = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if good {
        Ok(())
    } else {
        Err(Fault::invalid("a SHA-256 is 64 lower-case hexadecimal digits"))
    }
}

/// Whoever collects results writes to these paths: nothing may lead out of the directory.
fn check_path(path: &str) -> Result<(), Fault> {
    let part = |p: &str| !p.is_empty() && p != "." && p != ".." && !p.contains(['\\', '\0']);
    if path.len() <= 1024 && path.split('/').all(part) {
        return Ok(());
    }
    let shown: String = path.chars().take(80).collect();
    Err(Fault::invalid(format!(
        "'{shown}' is not a relative path of plain parts"
    )))
}
