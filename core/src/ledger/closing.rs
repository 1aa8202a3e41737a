//! What the operator leaves behind when it lets an attempt go, and what it makes of that when the receipt is there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::amount::{Seen, Settled};
use super::{Acceptance, Standing, Terms};
use crate::ids::{JobUid, PodUid, VehicleId};
use crate::receipt::Usage;

/// What the operator knows of an attempt that has ended, before its receipt is there. Its JSON is a file format: fields may be added, never
/// changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Closing {
    /// Whose attempt it was.
    pub job_uid: JobUid,
    /// At which part of that job.
    pub index: u32,
    /// The attempt.
    pub pod_uid: PodUid,
    /// Where it ran.
    pub vehicle: VehicleId,
    /// What became of it.
    pub standing: Standing,
    /// Whose result is that of the index; `None`: nobody's yet.
    pub accepted_uid: Option<PodUid>,
    /// The terms that it may have run on, by pool. A car may sign for any of them: those of other pools than the vehicle's do not belong here
    /// if its pool is known.
    pub terms: BTreeMap<String, Terms>,
    /// For how long the adapter saw it running, in milliseconds. It comes from conditions with whole seconds, so one second is added; 0:
    /// never.
    pub running_ms: u64,
    /// The processor that it could use at most, in thousandths of a core.
    pub milli_cpu: u64,
}

/// Where an acceptance stands in its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// Its number, from 1.
    pub sequence: u64,
    /// The SHA-256 of the payload before it, in hex; [`crate::receipt::NOTHING`] for the first.
    pub previous: &'a str,
}

/// A receipt that is not of the attempt that was closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is of another attempt.
    #[error("failed to settle {closed}: the receipt is of attempt {found}")]
    Attempt {
        /// Which was closed.
        closed: PodUid,
        /// Which the receipt is of.
        found: PodUid,
    },
    /// It is of another vehicle.
    #[error("failed to settle an attempt on {closed}: the receipt is of {found}")]
    Vehicle {
        /// Where the attempt ran.
        closed: VehicleId,
        /// Whose receipt it is.
        found: VehicleId,
    },
}

impl Closing {
    /// What the operator is to sign for a receipt whose payload has this SHA-256. Fails only if the receipt is not of this attempt.
    pub fn accept(&self, usage: &Usage, usage_sha256: &str, place: Place<'_>) -> Result<Acceptance, Mismatch> {
        self.is_of(usage)?;
        let claim = &usage.claim;
        let signed_for = |terms: &&Terms| claim.terms_sha256.as_ref() == Some(&terms.digest());
        let terms = self.terms.values().find(signed_for);
        let seen = Seen {
            running_ms: self.running_ms,
            milli_cpu: self.milli_cpu,
        };
        let settled = Settled::new(claim, terms, self.standing, seen);
        Ok(Acceptance {
            sequence: place.sequence,
            previous: place.previous.to_owned(),
            vehicle: self.vehicle.clone(),
            usage_sequence: usage.sequence,
            usage_sha256: usage_sha256.to_owned(),
            pod_uid: self.pod_uid.clone(),
            job_uid: self.job_uid.clone(),
            index: self.index,
            accepted_uid: self.accepted_uid.clone(),
            standing: self.standing,
            terms: terms.cloned(),
            terms_sha256: claim.terms_sha256.clone(),
            running_ms: self.running_ms,
            milli_cpu: self.milli_cpu,
            cpu_ms: settled.cpu_ms,
            joules: settled.joules,
            amount_micro: settled.amount_micro,
            dispute: settled.dispute,
        })
    }

    fn is_of(&self, usage: &Usage) -> Result<(), Mismatch> {
        if self.pod_uid != usage.claim.pod_uid {
            return Err(Mismatch::Attempt {
                closed: self.pod_uid.clone(),
                found: usage.claim.pod_uid.clone(),
            });
        }
        if self.vehicle != usage.vehicle {
            return Err(Mismatch::Vehicle {
                closed: self.vehicle.clone(),
                found: usage.vehicle.clone(),
            });
        }
        Ok(())
    }
}
