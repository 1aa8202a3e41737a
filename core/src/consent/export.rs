//! Consent records with all that happened to them: the form in which ISO/IEC TS 27560 hands them on.

use serde::Serialize;

use super::record::{Entry, Event, Record};
use crate::ids::VehicleId;

/// One record with its events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Full<'a> {
    /// Which.
    pub record_id: &'a str,
    /// Of which owner: a random number.
    pub pii_principal_id: &'a str,
    /// Of which car.
    pub vehicle: &'a VehicleId,
    /// What it says.
    #[serde(flatten)]
    pub record: &'a Record,
    /// What happened to it, in order.
    pub events: Vec<&'a Event>,
}

/// The records of a chain, in the order in which they were given. What ends a record that is not here is left out.
pub fn records<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Vec<Full<'a>> {
    let mut records: Vec<Full<'a>> = Vec::new();
    for entry in entries {
        if let Some(record) = &entry.record {
            records.push(Full {
                record_id: &entry.record_id,
                pii_principal_id: &entry.pii_principal_id,
                vehicle: &entry.vehicle,
                record,
                events: vec![&entry.event],
            });
        } else if let Some(known) = records.iter_mut().find(|known| known.record_id == entry.record_id) {
            known.events.push(&entry.event);
        }
    }
    records
}
