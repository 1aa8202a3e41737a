//! Chains that are signed with hashes, for the tests of consents.

use jiff::{SignedDuration, Timestamp};

use super::{BASIS, Entry, Event, EventState, EventType, Mark, Notice, PAYLOAD_TYPE, Record, SCHEMA_VERSION};
use crate::ids::VehicleId;
use crate::receipt::testing::{KEY, sign, vehicle};
use crate::receipt::{Envelope, NOTHING, digest, pae};

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

pub(crate) fn notice() -> Notice {
    Notice::built_in("the fleet of a test")
}

/// A chain that grows.
pub(crate) struct Book {
    pub(crate) lines: Vec<Vec<u8>>,
    pub(crate) vehicle: VehicleId,
    pub(crate) owner: &'static str,
    pub(crate) sequence: u64,
    pub(crate) previous: String,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            lines: Vec::new(),
            vehicle: vehicle(1),
            owner: "owner-1",
            sequence: 0,
            previous: NOTHING.to_owned(),
        }
    }
}

impl Book {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.lines.concat()
    }

    pub(crate) fn mark(&self, seen: &str) -> Mark {
        Mark {
            vehicle: self.vehicle.clone(),
            sequence: self.sequence,
            sha256: self.previous.clone(),
            seen: at(seen),
            counted: None,
        }
    }

    pub(crate) fn give(&mut self, record_id: &str, purpose: &str, when: &str, lasts: Option<SignedDuration>) {
        self.give_under(record_id, &notice(), purpose, when, lasts);
    }

    pub(crate) fn give_under(
        &mut self,
        record_id: &str,
        notice: &Notice,
        purpose: &str,
        when: &str,
        lasts: Option<SignedDuration>,
    ) {
        self.say(record_id, EventState::Given, when, lasts, Some(record(notice, purpose)));
    }

    pub(crate) fn end(&mut self, record_id: &str, state: EventState, when: &str) {
        self.say(record_id, state, when, None, None);
    }

    fn say(
        &mut self,
        record_id: &str,
        event_state: EventState,
        when: &str,
        validity_duration: Option<SignedDuration>,
        record: Option<Record>,
    ) {
        self.sequence += 1;
        let entry = Entry {
            sequence: self.sequence,
            previous: self.previous.clone(),
            vehicle: self.vehicle.clone(),
            pii_principal_id: self.owner.to_owned(),
            record_id: record_id.to_owned(),
            event: Event {
                event_time: at(when),
                event_state,
                event_type: EventType::Explicit,
                entity_id: self.owner.to_owned(),
                validity_duration,
            },
            record,
        };
        let payload = serde_json::to_vec(&entry).unwrap();
        let envelope = Envelope::of(PAYLOAD_TYPE, &payload, KEY, &sign(KEY, &pae(PAYLOAD_TYPE, &payload)));
        self.lines.push(envelope.line().unwrap());
        self.previous = digest(&payload);
    }
}

fn record(notice: &Notice, purpose: &str) -> Record {
    let text = |text: &str| text.to_owned();
    Record {
        schema_version: text(SCHEMA_VERSION),
        privacy_notice: notice.shown_for(purpose),
        purpose: text(purpose),
        purpose_type: text("work for others"),
        lawful_basis: text(BASIS),
        pii_information: vec![text("Vehicle.Speed")],
        pii_controllers: vec![notice.controller.clone()],
        collection_method: text("read in the car"),
        processing_method: text("judged in the car"),
        storage_locations: vec![text("the car")],
        retention_period: notice.retention.clone(),
        processing_locations: vec![text("the car")],
        jurisdiction: notice.jurisdiction.clone(),
        recipient_third_parties: Vec::new(),
        withdrawal_method: text("consent withdraw"),
        privacy_rights: vec![text("access")],
        method: text("typed"),
        policy_sha256: None,
    }
}
