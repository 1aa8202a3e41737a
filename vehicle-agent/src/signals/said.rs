//! Which of the optional signals this car has ever said, over restarts.
//!
//! Owned by the policy loop, whose thread for the disk writes it. A car that has never said an optional signal does not have it, and that is no objection. What must never
//! happen: a signal whose provider died, perhaps with an objection as its last word, and that after the next boot passes for one that
//! the car never had.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use kerbside_core::clock::Boottime;
use kerbside_core::parked::{Snapshot, Terms};

use crate::directory;

/// The signals, and the file that keeps them.
#[derive(Debug)]
pub struct Said {
    file: PathBuf,
    optional: Vec<String>,
    kept: BTreeSet<String>,
    /// The disk did not take it: when that is tried again.
    again: Option<Boottime>,
}

/// A disk that is full is no emptier a moment later.
const AGAIN: Duration = Duration::from_secs(10);

impl Said {
    /// Reads the file. One that cannot be read leaves open what the car has, so it counts as having everything.
    pub fn read(file: PathBuf, terms: &Terms) -> Self {
        let optional: Vec<String> = terms.optional().collect();
        let read: Result<BTreeSet<String>, String> = match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
            Err(error) => Err(error.to_string()),
        };
        let kept = read.unwrap_or_else(|error| {
            tracing::error!(
                file = %file.display(),
                error,
                "it is not known which optional signals the car has, so none may be silent; without the file they are learnt anew"
            );
            optional.iter().cloned().collect()
        });
        Self {
            file,
            optional,
            kept,
            again: None,
        }
    }

    /// Tells what was said in earlier lives of the agent.
    pub fn recall(&self, snapshot: &mut Snapshot) {
        self.kept.iter().for_each(|path| snapshot.remember(path));
    }

    /// Whether there is something to keep, and it is worth a try.
    pub fn is_news(&self, snapshot: &Snapshot, now: Boottime) -> bool {
        self.again.is_none_or(|again| now >= again) && self.first_said(snapshot).next().is_some()
    }

    /// What was said for the first time.
    fn first_said(&self, snapshot: &Snapshot) -> impl Iterator<Item = &String> {
        let optional = self.optional.iter();
        optional.filter(|path| snapshot.said(path) && !self.kept.contains(*path))
    }

    /// Keeps what was said for the first time. What the disk does not take is tried again. Blocks.
    pub fn keep(&mut self, snapshot: &Snapshot, now: Boottime) {
        if !self.is_news(snapshot, now) {
            return;
        }
        let new: Vec<String> = self.first_said(snapshot).cloned().collect();
        tracing::info!(
            signals = new.join(" "),
            "the car has optional signals, and is judged by them from now on"
        );
        let mut kept = self.kept.clone();
        kept.extend(new);
        let written = serde_json::to_vec(&kept)
            .map_err(io::Error::from)
            .and_then(|bytes| directory::replace(&self.file, &bytes));
        match written {
            Ok(()) => (self.kept, self.again) = (kept, None),
            Err(error) => {
                tracing::error!(%error, "after a restart it would not be known that the car has these signals");
                self.again = Some(now + AGAIN);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use kerbside_core::parked::Value;
    use kerbside_core::parked::signals::path;

    use super::*;

    #[test]
    fn optional_signal_that_was_said_is_remembered_over_a_restart_and_no_other() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("said.json");
        let mut said = Said::read(file.clone(), &Terms::default());
        let mut snapshot = Snapshot::default();
        said.keep(&snapshot, Boottime::default());
        assert!(!file.exists(), "nothing is written for a car without");
        for path in [path::SPEED, path::HOOD_OPEN, path::MEMORY_SHORT] {
            snapshot.set(path, Value::Bool(true), Boottime::default());
        }
        said.keep(&snapshot, Boottime::default());
        let mut again = Snapshot::default();
        Said::read(file, &Terms::default()).recall(&mut again);
        let known = [path::HOOD_OPEN, path::SPEED, path::MEMORY_SHORT].map(|path| again.said(path));
        assert_eq!(known, [true, false, false]);
        assert_eq!(again.iter().count(), 0, "what it said is not known");
    }

    #[test]
    fn disk_that_does_not_take_it_is_tried_again_a_while_later() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("car");
        // Where a directory should be is a file.
        std::fs::write(&folder, "").unwrap();
        let file = folder.join("said.json");
        let mut said = Said::read(temp.path().join("none.json"), &Terms::default());
        said.file.clone_from(&file);
        let mut snapshot = Snapshot::default();
        snapshot.set(path::HOOD_OPEN, Value::Bool(true), Boottime::default());
        said.keep(&snapshot, Boottime::default());
        std::fs::remove_file(&folder).unwrap();
        said.keep(&snapshot, Boottime(Duration::from_secs(9)));
        assert!(!file.exists());
        said.keep(&snapshot, Boottime(Duration::from_secs(10)));
        assert!(file.exists());
    }

    #[test]
    fn file_that_cannot_be_read_makes_every_optional_signal_needed() {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("said.json");
        std::fs::write(&file, "[").unwrap();
        let mut snapshot = Snapshot::default();
        Said::read(file, &Terms::default()).recall(&mut snapshot);
        assert!(Terms::default().optional().all(|path| snapshot.said(&path)));
    }
}
