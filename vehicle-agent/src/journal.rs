//! What ran in this car and how it ended, on disk, so that an agent that was killed at any instant knows it when it starts again.
//!
//! One thread owns the file; the actors of attempts ask it to write and wait until the bytes are durable. What must never happen: an
//! attempt that starts before the journal holds it, or an end that was told and is not held.

pub(crate) mod medium;
mod store;
#[cfg(test)]
pub(crate) mod testing;

use std::io;
use std::path::{Path, PathBuf};

use data_encoding::BASE64;
use kerbside_core::attempt::Record;
use kerbside_core::ids::PodUid;
use kerbside_core::receipt::Tally;
use kerbside_link::proto::Run;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};

use self::medium::{Disk, Medium};
use self::store::{Entry, Store};

/// As many writes may wait as attempts are likely to change at one moment; the writers wait beyond that.
const QUEUE: usize = 64;

/// The journal failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be opened.
    #[error("failed to open journal {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be written, and holds what it held.
    #[error("failed to write journal")]
    Write(#[source] io::Error),
    /// It cannot be written, and a part of the write may be there, or all of it.
    #[error("failed to write journal, and to cut off what was written")]
    Torn(#[source] io::Error),
    /// Its thread is gone.
    #[error("failed to reach journal")]
    Gone,
}

/// What the journal knows of one attempt.
#[derive(Debug)]
pub struct Recovered {
    /// The attempt.
    pub uid: PodUid,
    /// What was asked.
    pub run: Run,
    /// How far it had come.
    pub record: Record,
    /// What it had used.
    pub tally: Tally,
}

type Write = (Vec<Entry>, oneshot::Sender<Result<(), JournalError>>);

/// The way to the journal.
#[derive(Debug, Clone)]
pub struct Journal {
    writes: mpsc::Sender<Write>,
}

impl Journal {
    /// Opens the journal in `directory`, and says what it knows. An attempt of which only the beginning is there has not
    /// started anything: the cluster sends it again.
    pub fn open(directory: &Path) -> Result<(Self, Vec<Recovered>), JournalError> {
        let path = directory.join("attempts");
        let error = |source| JournalError::Open {
            path: path.clone(),
            source,
        };
        Self::on(Disk::open(&path).map_err(error)?).map_err(error)
    }

    pub(crate) fn on<M: Medium>(medium: M) -> io::Result<(Self, Vec<Recovered>)> {
        let (mut store, torn) = Store::open(medium)?;
        if torn > 0 {
            tracing::warn!(bytes = torn, "cut off a torn write at the end of the journal");
        }
        let mut recovered = Vec::new();
        let mut useless = Vec::new();
        for (uid, known) in store.known() {
            let run = BASE64
                .decode(known.run.as_bytes())
                .ok()
                .and_then(|bytes| Run::decode(bytes.as_slice()).ok());
            match (run, known.record.clone()) {
                (Some(run), Some(record)) => recovered.push(Recovered {
                    uid: uid.clone(),
                    run,
                    record,
                    tally: known.tally.clone(),
                }),
                _ => useless.push(Entry::Forget { uid: uid.clone() }),
            }
        }
        if !useless.is_empty()
            && let Err(error) = store.write(useless)
        {
            // They only take room, and the agent has work to tell of.
            tracing::warn!(%error, "attempts that never began stay in the journal");
        }
        let (writes, mut queue) = mpsc::channel::<Write>(QUEUE);
        std::thread::Builder::new()
            .name("journal".to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                while let Some((entries, done)) = queue.blocking_recv() {
                    let written = store.write(entries).map_err(|error| {
                        if store.is_torn() {
                            JournalError::Torn(error)
                        } else {
                            JournalError::Write(error)
                        }
                    });
                    // Whoever does not wait for the answer does not need it.
                    let _ = done.send(written);
                }
            })?;
        Ok((Self { writes }, recovered))
    }

    async fn write(&self, entries: Vec<Entry>) -> Result<(), JournalError> {
        let (done, written) = oneshot::channel();
        self.writes
            .send((entries, done))
            .await
            .map_err(|_| JournalError::Gone)?;
        written.await.map_err(|_| JournalError::Gone)?
    }

    /// Holds what was asked, how far it has come and what it has used.
    pub async fn begin(&self, uid: &PodUid, run: &Run, record: Record, tally: Tally) -> Result<(), JournalError> {
        let run = BASE64.encode(&run.encode_to_vec());
        self.write(vec![
            Entry::Begin { uid: uid.clone(), run },
            Entry::State {
                uid: uid.clone(),
                record,
                tally,
            },
        ])
        .await
    }

    /// Holds how far an attempt has come, and what it has used.
    pub async fn state(&self, uid: &PodUid, record: Record, tally: Tally) -> Result<(), JournalError> {
        self.write(vec![Entry::State {
            uid: uid.clone(),
            record,
            tally,
        }])
        .await
    }

    /// Drops an attempt.
    pub async fn forget(&self, uid: &PodUid) -> Result<(), JournalError> {
        self.write(vec![Entry::Forget { uid: uid.clone() }]).await
    }
}

#[cfg(test)]
mod tests {
    use super::store::tests::{Memory, record, uid};
    use super::*;

    fn run(n: usize) -> Run {
        Run {
            uid: uid(n).to_string(),
            pod_json: b"{}".to_vec().into(),
            class: "inference".to_owned(),
            ..Run::default()
        }
    }

    #[tokio::test]
    async fn journal_opened_again_knows_what_was_written() {
        let temp = tempfile::tempdir().unwrap();
        let (journal, recovered) = Journal::open(temp.path()).unwrap();
        assert!(recovered.is_empty());
        let tally = Tally {
            cpu_ms: 9,
            ..Tally::default()
        };
        journal
            .begin(&uid(1), &run(1), record(1), Tally::default())
            .await
            .unwrap();
        journal
            .begin(&uid(2), &run(2), record(1), Tally::default())
            .await
            .unwrap();
        journal.state(&uid(1), record(7), tally.clone()).await.unwrap();
        journal.forget(&uid(2)).await.unwrap();
        drop(journal);

        let (_journal, recovered) = Journal::open(temp.path()).unwrap();
        assert_eq!(recovered.len(), 1);
        assert_eq!((recovered[0].uid.clone(), recovered[0].record.revision), (uid(1), 7));
        assert_eq!((&recovered[0].run, &recovered[0].tally), (&run(1), &tally));
    }

    #[tokio::test]
    async fn write_that_fails_is_told_to_the_writer() {
        let memory = Memory::default();
        let (journal, _) = Journal::on(memory.clone()).unwrap();
        memory.break_after(Some(3));
        assert!(matches!(
            journal.begin(&uid(1), &run(1), record(1), Tally::default()).await,
            Err(JournalError::Torn(_))
        ));
        memory.break_after(None);
        journal
            .begin(&uid(1), &run(1), record(1), Tally::default())
            .await
            .unwrap();
    }

    #[test]
    fn attempt_of_which_only_the_beginning_is_there_is_dropped() {
        let memory = Memory::default();
        let (mut store, _) = Store::open(memory.clone()).unwrap();
        store
            .write(vec![Entry::Begin {
                uid: uid(1),
                run: BASE64.encode(&run(1).encode_to_vec()),
            }])
            .unwrap();
        drop(store);
        let (_journal, recovered) = Journal::on(memory.clone()).unwrap();
        assert!(recovered.is_empty());
        assert!(Store::open(memory).unwrap().0.known().is_empty());
    }
}
