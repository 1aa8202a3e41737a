//! What a consent record says, and the entries of which the chain is made.
//!
//! The names of the fields are those of ISO/IEC TS 27560 as the guide of the W3C's Data Privacy Vocabulary writes them, with `_`, so that
//! who knows that standard finds them. Nobody is named: the owner is a random number, the car is its VehicleId.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ids::{PodUid, VehicleId};
use crate::receipt::Link;

/// What the payload of an entry is.
pub const PAYLOAD_TYPE: &str = "application/vnd.kerbside.consent.v1alpha1+json";
/// After which standard records are made.
pub const SCHEMA_VERSION: &str = "ISO/IEC TS 27560:2023";
/// On what the processing rests.
pub const BASIS: &str = "consent (GDPR Art. 6(1)(a); ePrivacy Art. 5(3))";
/// In which language the notice that ships with the agent is.
pub const LANGUAGE: &str = "en";

/// One entry of the chain: one thing that happened to one record. Its JSON is a file format: fields may be added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// From 1, without a gap.
    pub sequence: u64,
    /// The SHA-256 of the payload before this one, in hex; [`crate::receipt::NOTHING`] for the first.
    pub previous: String,
    /// The car that the consent is bound to.
    pub vehicle: VehicleId,
    /// The owner that it is bound to: a random number, drawn with the owner's first word.
    pub pii_principal_id: String,
    /// Which record.
    pub record_id: String,
    /// What happened.
    pub event: Event,
    /// What the record says; with the event by which it is given, and never later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Record>,
}

/// Something that happened to a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, by the car's clock.
    pub event_time: Timestamp,
    /// What.
    pub event_state: EventState,
    /// How it was said.
    pub event_type: EventType,
    /// Who said so: the owner's number, or the car's VehicleId for what only time has done.
    pub entity_id: String,
    /// With a consent that is given: for how long; without it, until it is withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validity_duration: Option<SignedDuration>,
}

/// What can happen to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventState {
    /// The owner agreed.
    Given,
    /// The owner took it back.
    Withdrawn,
    /// Its time was over.
    Expired,
}

/// How something was said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventType {
    /// By an act that means nothing else.
    Explicit,
    /// By nobody: the clock did it.
    Automatic,
}

/// What the owner agreed to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA_VERSION`].
    pub schema_version: String,
    /// What the owner was told.
    pub privacy_notice: NoticeShown,
    /// What it is for: a job class.
    pub purpose: String,
    /// In words, what such a purpose is.
    pub purpose_type: String,
    /// [`BASIS`].
    pub lawful_basis: String,
    /// What of the owner or the car is read for it.
    pub pii_information: Vec<String>,
    /// Who decides on it.
    pub pii_controllers: Vec<String>,
    /// How it is read.
    pub collection_method: String,
    /// What is done with it.
    pub processing_method: String,
    /// Where it is kept.
    pub storage_locations: Vec<String>,
    /// For how long.
    pub retention_period: String,
    /// Where it is worked with.
    pub processing_locations: Vec<String>,
    /// Under which law.
    pub jurisdiction: String,
    /// Who else is told.
    pub recipient_third_parties: Vec<String>,
    /// How it is taken back; without any network.
    pub withdrawal_method: String,
    /// What the owner may ask for.
    pub privacy_rights: Vec<String>,
    /// How the owner said it.
    pub method: String,
    /// The SHA-256 of the owner's document at that time, in hex: the limits that were set beside the consent. `None`: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy_sha256: Option<String>,
}

/// Which notice the owner was shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeShown {
    /// Its version, as it calls itself.
    pub version: String,
    /// The SHA-256 of the text that was shown, in hex.
    pub sha256: String,
    /// Its language.
    pub language: String,
}

impl Link for Entry {
    const TYPE: &'static str = PAYLOAD_TYPE;
    const SIGNED_BY_CAR: bool = true;

    fn sequence(&self) -> u64 {
        self.sequence
    }

    fn previous(&self) -> &str {
        &self.previous
    }

    fn vehicle(&self) -> &VehicleId {
        &self.vehicle
    }

    fn attempt(&self) -> Option<&PodUid> {
        None
    }
}

/// How far the car's chain had come when it was last looked at, kept apart from it: so a chain that was set back to an old state is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mark {
    /// Whose: a car that is enrolled anew begins anew.
    pub vehicle: VehicleId,
    /// The number of the newest entry.
    pub sequence: u64,
    /// The SHA-256 of its payload, in hex.
    pub sha256: String,
    /// The latest time that a clock which could be believed has shown.
    pub seen: Timestamp,
    /// So late it is at least, if what has passed by the clock that nobody sets is counted on from there. It ends a consent whose time is over, and
    /// nothing else: a clock that was ahead and is right now is not behind for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Timestamp>,
}
