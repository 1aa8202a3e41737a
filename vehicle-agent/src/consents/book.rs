//! Writes a car's chain of consents: one writer at a time, each entry durable before it is told, and the mark after it.
//!
//! Called by the owner's commands, and by a running agent for what time has done. A chain that cannot be gone on with stays as it is until the
//! owner gives a consent anew; then it is kept aside and a new one begins behind it, with nothing of the old in force. What must never happen: an
//! entry behind a torn write, or two entries with one number.

use jiff::{SignedDuration, Timestamp};
use kerbside_core::consent::{
    BASIS, Consents, Entry, Event, EventState, EventType, Held, Known, Mark, PAYLOAD_TYPE, Record, SCHEMA_VERSION,
    Unusable,
};
use kerbside_core::owner::is_class;
use kerbside_core::parked::Terms;
use kerbside_core::receipt::{Envelope, NOTHING, digest, pae};
use kerbside_link::identity::Signer;
use nix::fcntl::Flock;

use super::gathered::{self, Gathered};
use super::{BROKEN, CHAIN, ConsentError, TRIES, lock, seal, withdrawn};
use crate::config::Car;
use crate::directory::{self, Directory};
use crate::forget;
use crate::identity;
use crate::journal::medium::{Disk, Medium};
use crate::receipts;
use crate::signals::broker::signals_read;

/// What an owner agrees to.
#[derive(Debug, Clone, Copy)]
pub struct Giving<'a> {
    /// Job classes.
    pub purposes: &'a [String],
    /// For how long; `None`: until it is withdrawn.
    pub lasts: Option<SignedDuration>,
    /// How it was said.
    pub method: &'a str,
}

/// The chain, held by its only writer.
pub struct Book {
    directory: Directory,
    signer: Signer,
    controllers: Vec<String>,
    gathered: Gathered,
    consents: Consents,
    entries: Vec<Entry>,
    sequence: u64,
    head: String,
    length: u64,
    /// So late it is at least.
    counted: Option<Timestamp>,
    _lock: Flock<std::fs::File>,
}

impl Book {
    /// Opens what is there. `wait`: for a while, if somebody else writes. Blocks.
    pub fn open(directory: &Directory, wait: bool) -> Result<Self, ConsentError> {
        let identity = identity::read(directory)?;
        let signer = Signer::new(&identity)?;
        let root = directory.consents();
        let error = |source| ConsentError::Open {
            path: root.clone(),
            source,
        };
        directory::make_private(&root).map_err(error)?;
        directory::make_private(&directory.receipts()).map_err(error)?;
        let lock = lock(&root, if wait { TRIES } else { 1 })?;
        let named = gathered::named(directory, signer.vehicle());
        let gathered = Gathered::of(directory, signer.vehicle(), named).map_err(ConsentError::Unusable)?;
        let ca = digest(identity.ca_pem().as_bytes());
        let controllers = vec![
            gathered.notice.controller.clone(),
            format!("whoever holds the link's CA, SHA-256 {ca}"),
        ];
        let consents = gathered.consents();
        let report = gathered.report();
        let (sequence, head) = report
            .head
            .map_or_else(|| (0, NOTHING.to_owned()), |head| (head.sequence, head.digest));
        Ok(Self {
            directory: directory.clone(),
            signer,
            controllers,
            length: gathered.chain.len() as u64,
            consents,
            entries: report.entries.into_iter().map(|(entry, _)| entry).collect(),
            counted: gathered.mark.as_ref().and_then(|mark| mark.counted),
            gathered,
            sequence,
            head,
            _lock: lock,
        })
    }

    /// What is held before anything more is said.
    pub fn consents(&self) -> &Consents {
        &self.consents
    }

    /// What an owner is shown for a purpose.
    pub fn notice_for(&self, purpose: &str) -> String {
        self.gathered.notice.text_for(purpose)
    }

    /// The owner agrees. A chain that allows nothing any more is kept aside, and this is the beginning of a new one.
    pub fn give(&mut self, giving: Giving<'_>, now: Timestamp) -> Result<(), ConsentError> {
        if giving.purposes.is_empty() {
            return Err(ConsentError::NoPurpose);
        }
        if let Some(purpose) = giving.purposes.iter().find(|purpose| !is_class(purpose)) {
            return Err(ConsentError::Purpose(purpose.clone()));
        }
        // Of whoever comes next nothing counts before the one before is forgotten.
        if forget::is_pending(&self.directory) {
            return Err(ConsentError::Forgetting);
        }
        if let Consents::Unusable(why) = &self.consents {
            let why = why.clone();
            self.begin_anew(&why, now)?;
        }
        self.take_in()?;
        // The owner's newest word says what time it is.
        self.counted = None;
        let owner = self.owner();
        let lasting = Event {
            event_time: now,
            event_state: EventState::Given,
            event_type: EventType::Explicit,
            entity_id: owner.clone(),
            validity_duration: giving.lasts,
        };
        for purpose in giving.purposes {
            let record = self.record(purpose, giving.method);
            let id = format!("record-{:032x}", rand::random::<u128>());
            self.add(&owner, &id, lasting.clone(), Some(record))?;
        }
        self.keep_mark(now)
    }

    /// The owner takes back the consents to these purposes, or to all; says to which. Of those that are over nothing is said again, unless one
    /// is named that was never given.
    pub fn withdraw(&mut self, purposes: Option<&[String]>, now: Timestamp) -> Result<Vec<String>, ConsentError> {
        self.take_in()?;
        let Consents::Known(known) = &self.consents else {
            // Nothing is in force, and what would be written would stand behind what cannot be read: it is kept beside that.
            let mut withdrawn = self.gathered.withdrawn.clone().unwrap_or_default();
            // A file that could not be read may have said anything.
            let says_nothing = self.gathered.withdrawn.is_none() && self.directory.consents_withdrawn().exists();
            withdrawn.add(purposes.filter(|_| !says_nothing), now);
            withdrawn.write(&self.directory).map_err(ConsentError::Write)?;
            return Ok(Vec::new());
        };
        if let Some(purpose) = purposes
            .unwrap_or_default()
            .iter()
            .find(|purpose| !known.held.contains_key(*purpose))
        {
            return Err(ConsentError::NotGiven(purpose.clone()));
        }
        let wanted = |purpose: &String| purposes.is_none_or(|purposes| purposes.contains(purpose));
        let open: Vec<_> = known
            .held
            .iter()
            .filter(|(purpose, held)| wanted(purpose) && held.ended.is_none())
            .map(|(purpose, held)| (purpose.clone(), held.clone()))
            .collect();
        self.end(&open, EventState::Withdrawn, now)?;
        Ok(open.into_iter().map(|(purpose, _)| purpose).collect())
    }

    /// Writes down what time has done by now, as a clock shows that can be believed: consents that have expired, and the time itself.
    pub fn see(&mut self, now: Timestamp) -> Result<(), ConsentError> {
        self.see_counted(now, now)
    }

    /// The same, where it is this late at least by what has been counted: a clock that is set back again and again never shows the end of a consent.
    pub fn see_counted(&mut self, now: Timestamp, counted: Timestamp) -> Result<(), ConsentError> {
        self.take_in()?;
        self.counted = self.counted.max(Some(counted));
        let over = self.consents.run_out(counted.max(now));
        if let Consents::Known(known) = &self.consents {
            let open: Vec<_> = known
                .held
                .iter()
                .filter(|(purpose, _)| over.contains(purpose))
                .map(|(purpose, held)| (purpose.clone(), held.clone()))
                .collect();
            self.end(&open, EventState::Expired, now)?;
        }
        let worth = |mark: &&Mark| mark.later(now).is_some() || mark.counts_more(counted);
        let seen = self.gathered.mark.as_ref().filter(worth).map(|mark| mark.seen.max(now));
        let usable = matches!(self.consents, Consents::Known(_));
        if let Some(seen) = seen.filter(|_| usable && over.is_empty()) {
            self.keep_mark(seen)?;
        }
        Ok(())
    }

    /// Writes into a chain that can be gone on with what the owner took back while it could not.
    fn take_in(&mut self) -> Result<(), ConsentError> {
        let Some(withdrawn) = self.gathered.withdrawn.clone() else {
            return Ok(());
        };
        let Consents::Known(written) = self.gathered.written() else {
            return Ok(());
        };
        for (purpose, held) in written.held {
            if let (None, Some(at)) = (held.ended, withdrawn.of(&purpose)) {
                self.end(&[(purpose, held)], EventState::Withdrawn, at)?;
            }
        }
        withdrawn::remove(&self.directory).map_err(ConsentError::Write)?;
        self.gathered.withdrawn = None;
        Ok(())
    }

    fn end(&mut self, open: &[(String, Held)], state: EventState, now: Timestamp) -> Result<(), ConsentError> {
        let owner = self.owner();
        for (_, held) in open {
            let by_the_owner = state == EventState::Withdrawn;
            let event = Event {
                event_time: now,
                event_state: state,
                event_type: if by_the_owner {
                    EventType::Explicit
                } else {
                    EventType::Automatic
                },
                entity_id: if by_the_owner {
                    owner.clone()
                } else {
                    self.signer.vehicle().to_string()
                },
                validity_duration: None,
            };
            self.add(&owner, &held.record.id, event, None)?;
        }
        // Nor does taking something back make the clock younger: what has ended by a later time stays ended.
        let seen = self.gathered.mark.as_ref().map_or(now, |mark| mark.seen.max(now));
        if open.is_empty() { Ok(()) } else { self.keep_mark(seen) }
    }

    /// Who this chain is of: a number, drawn with its first entry.
    fn owner(&self) -> String {
        self.entries.first().map_or_else(
            || format!("owner-{:032x}", rand::random::<u128>()),
            |first| first.pii_principal_id.clone(),
        )
    }

    fn begin_anew(&mut self, why: &Unusable, now: Timestamp) -> Result<(), ConsentError> {
        if let Unusable::OfAnother(_) = why {
            // Of whom the car was before nothing more is kept than that.
            seal::seal(
                &self.directory,
                &self.signer,
                &self.gathered,
                seal::VEHICLE_CHANGED,
                now,
            )?;
        } else if !self.gathered.chain.is_empty() {
            let path = self.directory.consents().join(CHAIN);
            let aside = receipts::put_aside(&path, BROKEN).map_err(ConsentError::Write)?;
            tracing::warn!(file = %aside.display(), %why, "the consents are kept aside, and a new chain begins");
        }
        // The owner's newest word goes before it, and there is nothing left that it could be of.
        withdrawn::remove(&self.directory).map_err(ConsentError::Write)?;
        self.gathered.withdrawn = None;
        let mark = self.gathered.mark.take();
        let mark = mark.filter(|mark| mark.vehicle == *self.signer.vehicle());
        let known = mark.map_or(0, |mark| mark.sequence);
        let named = self.gathered.named.as_ref().map_or(0, |place| place.sequence);
        let before = match why {
            Unusable::OfAnother(_) => 0,
            _ => self.sequence,
        };
        self.sequence = before.max(known).max(named);
        NOTHING.clone_into(&mut self.head);
        self.length = 0;
        self.entries.clear();
        self.gathered.chain.clear();
        self.consents = Consents::Known(Known::default());
        Ok(())
    }

    fn record(&self, purpose: &str, method: &str) -> Record {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let terms = Car::read(&self.directory.car()).map_or_else(|_| Terms::default(), |car| car.terms());
        let notice = &self.gathered.notice;
        Record {
            schema_version: SCHEMA_VERSION.to_owned(),
            privacy_notice: notice.shown_for(purpose),
            purpose: purpose.to_owned(),
            purpose_type: "programs of this job class, run for others in the parked car".to_owned(),
            lawful_basis: BASIS.to_owned(),
            pii_information: signals_read(&terms),
            pii_controllers: self.controllers.clone(),
            collection_method: "read from the car's own bus by the agent in the car".to_owned(),
            processing_method:
                "judged in the car; what leaves it is whether the car is free, what it offers, and receipts of what ran"
                    .to_owned(),
            storage_locations: texts(&["the car", "the fleet's cluster: receipts, results"]),
            retention_period: notice.retention.clone(),
            processing_locations: texts(&["the car"]),
            jurisdiction: notice.jurisdiction.clone(),
            recipient_third_parties: Vec::new(),
            withdrawal_method: "kerbside-agent consent withdraw, in the car, without a network".to_owned(),
            privacy_rights: texts(&[
                "withdraw: kerbside-agent consent withdraw",
                "access and portability: kerbside-agent export",
                "erasure: kerbside-agent forget",
            ]),
            method: method.to_owned(),
            policy_sha256: std::fs::read(self.directory.owner()).ok().map(|text| digest(&text)),
        }
    }

    fn add(&mut self, owner: &str, id: &str, event: Event, record: Option<Record>) -> Result<(), ConsentError> {
        let sequence = self.sequence.saturating_add(1);
        let entry = Entry {
            sequence,
            previous: self.head.clone(),
            vehicle: self.signer.vehicle().clone(),
            pii_principal_id: owner.to_owned(),
            record_id: id.to_owned(),
            event,
            record,
        };
        let unwritten = |error: serde_json::Error| ConsentError::Write(error.into());
        let payload = serde_json::to_vec(&entry).map_err(unwritten)?;
        let signature = self.signer.sign(&pae(PAYLOAD_TYPE, &payload))?;
        let envelope = Envelope::of(PAYLOAD_TYPE, &payload, self.signer.key_id(), &signature);
        let line = envelope.line().map_err(unwritten)?;
        // The key first: an entry that nobody can check is none.
        receipts::keep_key(&self.directory.receipts(), &self.signer).map_err(ConsentError::Write)?;
        let path = self.directory.consents().join(CHAIN);
        let mut disk = Disk::open(&path).map_err(ConsentError::Write)?;
        if let Err(error) = disk.append(&line) {
            // Where that fails, too, the chain is cut off within a line, and allows nothing.
            let _ = disk.truncate(self.length);
            return Err(ConsentError::Write(error));
        }
        self.length += line.len() as u64;
        self.sequence = sequence;
        self.head = digest(&payload);
        self.entries.push(entry);
        Ok(())
    }

    fn keep_mark(&mut self, now: Timestamp) -> Result<(), ConsentError> {
        let mark = Mark {
            vehicle: self.signer.vehicle().clone(),
            sequence: self.sequence,
            sha256: self.head.clone(),
            seen: now,
            counted: self.counted,
        };
        let text = serde_json::to_vec(&mark).map_err(|error| ConsentError::Write(error.into()))?;
        directory::replace(&self.directory.consents_mark(), &text).map_err(ConsentError::Write)?;
        self.gathered.mark = Some(mark);
        Ok(())
    }
}
