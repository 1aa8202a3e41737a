//! What an attempt has used so far: kept in the car's journal beside the attempt's record, until a receipt is made of it.
//!
//! Its shape is a part of the journal's format: fields may be added, never changed. What must never happen: it says more than
//! was seen. After a loss of power it says what was known at the last write, and not what may have been since.

use serde::{Deserialize, Serialize};

use super::{Claim, Consent, Ending, Energy, digest};
use crate::attempt::{AGENT_RESTARTED, ContainerRecord, Exit, Outcome, Record};
use crate::ids::PodUid;

/// No more digests are in a receipt: whoever makes a Pod of a thousand images must not make a receipt that nobody takes.
const MOST_IMAGES: usize = 32;
/// The exit of a program that never ran.
const START_ERROR: &str = "StartError";

/// What an attempt has used so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Tally {
    /// On whose authority it was admitted.
    pub consent: Option<Consent>,
    /// When its first program began; `None`: none has.
    pub started_at_ms: Option<i64>,
    /// When something of it was last known to be alive.
    pub alive_at_ms: Option<i64>,
    /// Milliseconds of processor time.
    pub cpu_ms: u64,
    /// Milliseconds for which programs of it stood still with the car.
    pub frozen_ms: u64,
    /// Bytes of output that are stored.
    pub output_bytes: u64,
    /// What it has had of the car's energy; `None`: nothing measures it.
    pub energy: Option<Energy>,
}

impl Tally {
    /// Takes in how an attempt stands now.
    pub fn see(&mut self, record: &Record, now_ms: i64) {
        for container in &record.containers {
            self.see_container(container, now_ms);
        }
    }

    fn see_container(&mut self, container: &ContainerRecord, now_ms: i64) {
        if let Some(since_ms) = container.running_since_ms {
            self.ran(since_ms, Some(now_ms));
        }
        for exit in container.last.iter().chain(&container.exit) {
            self.see_exit(exit);
        }
    }

    fn see_exit(&mut self, exit: &Exit) {
        match exit.reason.as_str() {
            START_ERROR => {}
            // It ended with the agent before; when that was nobody knows, only that it is over now.
            AGENT_RESTARTED => self.ran(exit.started_ms, None),
            _ => self.ran(exit.started_ms, Some(exit.finished_ms)),
        }
    }

    /// A program ran from then on, and was alive at that time.
    pub fn ran(&mut self, started_ms: i64, alive_ms: Option<i64>) {
        self.started_at_ms = Some(self.started_at_ms.map_or(started_ms, |known| known.min(started_ms)));
        self.alive_at_ms = self.alive_at_ms.max(alive_ms);
    }

    /// What the car says of the attempt that ended so. `None`: it never had a process, and there is nothing to say. `terms` are those of
    /// its `Run`, empty for none.
    pub fn claim(
        &self,
        pod_uid: PodUid,
        class: &str,
        terms: &str,
        record: &Record,
        outcome: &Outcome,
    ) -> Option<Claim> {
        let started_at_ms = self.started_at_ms?;
        // Where an image came from may be a private address; what it is, is its digest.
        let digests = record.containers.iter().filter_map(|container| {
            let (_, digest) = container.image_id.rsplit_once('@')?;
            Some(digest.to_owned())
        });
        let mut images: Vec<_> = digests.collect();
        images.sort();
        images.dedup();
        images.truncate(MOST_IMAGES);
        Some(Claim {
            pod_uid,
            images,
            class: class.to_owned(),
            terms_sha256: (!terms.is_empty()).then(|| digest(terms.as_bytes())),
            consent: self.consent.clone(),
            started_at_ms,
            ended_at_ms: self.alive_at_ms.map_or(started_at_ms, |alive| alive.max(started_at_ms)),
            cpu_ms: self.cpu_ms,
            frozen_ms: Some(self.frozen_ms),
            output_bytes: self.output_bytes,
            energy: self.energy.clone(),
            outcome: Ending::from(outcome),
        })
    }
}
