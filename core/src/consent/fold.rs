//! From the bytes of a chain to what is held: whole, signed by this car, in order, and no older than what is known of it; or nothing.
//!
//! What must never happen: a chain that was cut off at any byte, changed, set back, or written by another car, of which anything counts.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::held::{Consents, Ended, Held, Known, Unusable};
use super::notice::Notice;
use super::record::{Entry, EventState, Mark};
use crate::ids::VehicleId;
use crate::receipt::{Chain, Fault, Head, Keys, Placed, RecordRef, walk};

/// A place in the chain, as somebody else remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The number of the entry.
    pub sequence: u64,
    /// The SHA-256 of its payload, in hex.
    pub sha256: String,
}

/// What a chain is held against.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// The car as it is now.
    pub vehicle: &'a VehicleId,
    /// What an owner is told today.
    pub notice: &'a Notice,
    /// How far the chain had come.
    pub mark: Option<&'a Mark>,
    /// The newest entry that the car's receipts name: they are signed too, and lie elsewhere.
    pub named: Option<&'a Place>,
}

/// What there is to say of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How many lines there are.
    pub lines: usize,
    /// Everything that is wrong, a sentence each.
    pub findings: Vec<String>,
    /// The newest entry, if there is one.
    pub head: Option<Head>,
    /// Every entry whose signature is good, in its order, with the SHA-256 of its payload.
    #[serde(skip)]
    pub entries: Vec<(Entry, String)>,
}

/// What the bytes of a chain hold.
pub fn read(chain: &[u8], keys: &impl Keys, around: Around<'_>) -> Consents {
    let walked = walk::<Entry>(chain, keys);
    match sound(&walked, around) {
        Ok(()) => Consents::Known(known(&walked.placed, around)),
        Err(why) => Consents::Unusable(why),
    }
}

/// Everything that is wrong with a chain, and what it says.
pub fn verify(chain: &[u8], keys: &impl Keys, around: Around<'_>) -> Report {
    let walked = walk::<Entry>(chain, keys);
    let faults = walked.findings.iter().filter(|finding| !begins_late(&finding.fault));
    let mut findings: Vec<_> = faults
        .map(|finding| format!("line {}: {}", finding.line, in_words(&finding.fault)))
        .collect();
    // What is said of single lines is said above.
    match sound(&walked, around) {
        Err(Unusable::Broken { .. } | Unusable::CutOff) if !findings.is_empty() => {}
        Err(why) => findings.push(why.to_string()),
        Ok(()) => {}
    }
    Report {
        lines: walked.lines,
        findings,
        head: walked.head,
        entries: walked
            .placed
            .into_iter()
            .map(|placed| (placed.payload, placed.digest))
            .collect(),
    }
}

fn sound(chain: &Chain<Entry>, around: Around<'_>) -> Result<(), Unusable> {
    let found = chain.head.as_ref().map_or(0, |head| head.sequence);
    let mark = around.mark.filter(|mark| mark.vehicle == *around.vehicle);
    let mark = mark.map(|mark| (mark.sequence, mark.sha256.as_str()));
    let named = around.named.map(|place| (place.sequence, place.sha256.as_str()));
    if chain.findings.iter().any(|finding| finding.fault == Fault::CutOff) {
        return Err(Unusable::CutOff);
    }
    if let Some(finding) = chain.findings.iter().find(|finding| !begins_late(&finding.fault)) {
        return Err(Unusable::Broken {
            line: finding.line,
            why: in_words(&finding.fault),
        });
    }
    let of_another = |placed: &&Placed<Entry>| placed.payload.vehicle != *around.vehicle;
    if let Some(placed) = chain.placed.iter().find(of_another) {
        return Err(Unusable::OfAnother(placed.payload.vehicle.clone()));
    }
    for (known, sha256) in mark.into_iter().chain(named) {
        if known > found {
            return Err(Unusable::SetBack { known, found });
        }
        let there = chain.placed.iter().find(|placed| placed.payload.sequence == known);
        // Of what was before the first entry of a chain that begins late nothing is here.
        if there.is_some_and(|placed| placed.digest != sha256) {
            return Err(Unusable::Exchanged(known));
        }
    }
    one_owner(&chain.placed)
}

/// The entries make sense one after another: of one owner, and of records that there are.
fn one_owner(placed: &[Placed<Entry>]) -> Result<(), Unusable> {
    let mut records = BTreeSet::new();
    let owner = placed.first().map(|first| &first.payload.pii_principal_id);
    for Placed { line, payload, .. } in placed {
        let broken = |why: &str| Unusable::Broken {
            line: *line,
            why: why.to_owned(),
        };
        if Some(&payload.pii_principal_id) != owner {
            return Err(broken("it is of another owner"));
        }
        let id = payload.record_id.as_str();
        match (payload.event.event_state, &payload.record) {
            (EventState::Given, Some(_)) => {
                if !records.insert(id) {
                    return Err(broken("its record was given before"));
                }
            }
            (EventState::Given, None) => return Err(broken("it does not say what was agreed to")),
            (EventState::Withdrawn | EventState::Expired, _) if !records.contains(id) => {
                return Err(broken("it ends a record that is not here"));
            }
            (EventState::Withdrawn | EventState::Expired, _) => {}
        }
    }
    Ok(())
}

fn known(placed: &[Placed<Entry>], around: Around<'_>) -> Known {
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for Placed { digest, payload, .. } in placed {
        let at = payload.event.event_time;
        if let (EventState::Given, Some(record)) = (payload.event.event_state, &payload.record) {
            let lasts = payload.event.validity_duration;
            let new = Held {
                record: RecordRef {
                    id: payload.record_id.clone(),
                    sequence: payload.sequence,
                    sha256: digest.clone(),
                },
                given_at: at,
                expires_at: lasts.map(|lasts| at.checked_add(lasts).unwrap_or(Timestamp::MAX)),
                ended: None,
                notice_is_current: record.privacy_notice == around.notice.shown_for(&record.purpose),
            };
            held.insert(record.purpose.clone(), new);
            continue;
        }
        let ended = match payload.event.event_state {
            EventState::Expired => Ended::Expired(at),
            EventState::Given | EventState::Withdrawn => Ended::Withdrawn(at),
        };
        // One that was given anew for the same purpose since then is another record, and goes on.
        let ends = held.values_mut().find(|held| held.record.id == payload.record_id);
        if let Some(ends) = ends {
            ends.ended = Some(ends.ended.unwrap_or(ended));
        }
    }
    // The owner's newest word says what time it is: a clock that was wrong before must not lock the car for years.
    let newest = placed.last().map(|placed| placed.payload.event.event_time);
    let mark = around.mark.filter(|mark| mark.vehicle == *around.vehicle);
    let end = placed.last().map_or(0, |placed| placed.payload.sequence);
    let seen = mark.filter(|mark| mark.sequence == end).map(|mark| mark.seen);
    Known {
        held,
        seen: seen.into_iter().chain(newest).max(),
    }
}

/// A chain that follows one which could not be gone on with begins late, and what was before it does not count.
fn begins_late(fault: &Fault) -> bool {
    matches!(fault, Fault::BeginsLate { .. })
}

/// A fault in the words of this chain: the others are of receipts.
fn in_words(fault: &Fault) -> String {
    match fault {
        Fault::Unreadable { why } => format!("it is no entry: {why}"),
        Fault::BeginsLate { sequence } => format!("the chain begins with entry {sequence}"),
        Fault::Gap { expected, found } => format!("there is a gap: entry {expected} should be here, and it is {found}"),
        Fault::Doubled { sequence } => format!("it is doubled: there is an entry {sequence} before it"),
        Fault::Reordered { sequence } => format!("it is out of order: entry {sequence} stands behind a later one"),
        Fault::Broken => "the chain is broken: it follows another entry than the one before it".to_owned(),
        other => other.to_string(),
    }
}
