//! The owner's document: what the owner of a car allows, in the owner's words.
//!
//! The agent reads it from `owner.yaml` and hands it to [`super::willing`]. Every field that gives something away is required,
//! and a field that is not known is refused: a misspelt word must never widen what the owner meant.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::egress::Egress;
use crate::quantity::Quantity;

/// The document, as in `owner.yaml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// The consent itself; without it everything is refused.
    pub consent: Consent,
    /// Work only while a charging cable is connected.
    pub require_plugged_in: bool,
    /// Work stops when the charge that the car displays falls below this, in percent.
    #[serde(deserialize_with = "percent")]
    pub charge_floor_percent: f64,
    /// Work starts only when the charge is this much above the floor, in percent.
    #[serde(default = "default_margin", deserialize_with = "percent")]
    pub charge_resume_margin_percent: f64,
    /// How long frozen work may wait for the car to be left alone again before it is ended.
    #[serde(default = "default_resume_within", with = "crate::duration::text")]
    pub resume_within: Duration,
    /// Times of day without work, by the clock of `timeZone`.
    #[serde(default)]
    pub quiet_hours: Vec<QuietHours>,
    /// The IANA name of the time zone of `quietHours`, such as Europe/Berlin. Needed with them.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// The most memory that all work together may have.
    #[serde(default)]
    pub max_memory: Option<Quantity>,
    /// The most processor time per time that all work together may have.
    #[serde(default)]
    pub max_cpu: Option<Quantity>,
    /// The most bytes per second that each Pod may read from a disk, and as many write.
    #[serde(default = "default_disk_rate", deserialize_with = "rate")]
    pub max_disk_bytes_per_second: u64,
    /// What work may reach by the network; without it nothing.
    #[serde(default)]
    pub egress: Option<Egress>,
}

/// What the owner consented to, and for how long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consent {
    /// When it was given.
    pub given_at: jiff::Timestamp,
    /// When it ends; without it, when it is withdrawn.
    #[serde(default)]
    pub expires_at: Option<jiff::Timestamp>,
    /// The job classes that it is for.
    pub classes: Vec<String>,
}

/// From one time of day to another; over midnight if `to` is not after `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuietHours {
    /// The first quiet minute.
    #[serde(deserialize_with = "time_of_day")]
    pub from: jiff::civil::Time,
    /// The first minute that is not quiet any more.
    #[serde(deserialize_with = "time_of_day")]
    pub to: jiff::civil::Time,
}

impl QuietHours {
    /// Whether `time` lies within.
    pub fn contain(&self, time: jiff::civil::Time) -> bool {
        if self.from < self.to {
            (self.from..self.to).contains(&time)
        } else {
            time >= self.from || time < self.to
        }
    }
}

/// A document that says something impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Quiet hours mean nothing without a time zone.
    #[error("quietHours needs timeZone, such as Europe/Berlin")]
    TimeZoneMissing,
    /// A class that no job can have.
    #[error(
        "consent.classes: '{0}' is not a job class: it has 1 to 63 characters of a-z, 0-9 and '-' and starts and ends with a letter or digit"
    )]
    Class(String),
    /// The consent would never hold.
    #[error("consent.expiresAt is not after consent.givenAt")]
    NeverHolds,
}

impl Document {
    /// What the types cannot say.
    pub fn check(self) -> Result<Self, DocumentError> {
        if !self.quiet_hours.is_empty() && self.time_zone.is_none() {
            return Err(DocumentError::TimeZoneMissing);
        }
        if let Some(class) = self.consent.classes.iter().find(|class| !is_class(class)) {
            return Err(DocumentError::Class(class.clone()));
        }
        if self
            .consent
            .expires_at
            .is_some_and(|expires| expires <= self.consent.given_at)
        {
            return Err(DocumentError::NeverHolds);
        }
        Ok(self)
    }
}

/// A class becomes part of a Node's label key, so it has that shape.
fn is_class(class: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = class.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| plain(*b) || *b == b'-')
        && bytes.first().is_some_and(|b| plain(*b))
        && bytes.last().is_some_and(|b| plain(*b))
}

fn default_margin() -> f64 {
    5.0
}

/// Slow enough that the car's own programs find the disk free between two requests of a Pod's.
fn default_disk_rate() -> u64 {
    50 << 20
}

pub(super) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let quantity = Quantity::deserialize(deserializer)?;
    let bytes = u64::try_from(quantity.units()).ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| serde::de::Error::custom("a rate is at least one byte per second, such as 50Mi"))
}

fn default_resume_within() -> Duration {
    Duration::from_mins(2)
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=100.0).contains(&value) {
        Ok(value)
    } else {
        Err(serde::de::Error::custom("a percentage is a number from 0 to 100"))
    }
}

fn time_of_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<jiff::civil::Time, D::Error> {
    let text = String::deserialize(deserializer)?;
    let refuse = || serde::de::Error::custom(format!("'{text}' is not a time of day such as 22:30"));
    let (hour, minute) = text.split_once(':').ok_or_else(refuse)?;
    if hour.len() != 2 || minute.len() != 2 {
        return Err(refuse());
    }
    let (hour, minute) = (
        hour.parse().map_err(|_| refuse())?,
        minute.parse().map_err(|_| refuse())?,
    );
    jiff::civil::Time::new(hour, minute, 0, 0).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const WHOLE: &str = "
consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference, video]}
requirePluggedIn: true
chargeFloorPercent: 50
chargeResumeMarginPercent: 10
resumeWithin: 5m
quietHours: [{from: '22:00', to: '06:30'}]
timeZone: Europe/Berlin
maxMemory: 1Gi
maxCpu: 1500m
maxDiskBytesPerSecond: 20Mi
egress: {allow: [public, 192.168.7.20], ports: [443], maxBytesPerSecond: 500Ki}
";

    fn parse(yaml: &str) -> Result<Document, String> {
        let document: Document = serde_saphyr::from_str(yaml).map_err(|e| e.to_string())?;
        document.check().map_err(|e| e.to_string())
    }

    #[test]
    fn whole_document_is_read() {
        let document = parse(WHOLE).unwrap();
        assert_eq!(document.consent.classes, ["inference", "video"]);
        assert_eq!(document.resume_within, Duration::from_mins(5));
        assert_eq!(document.max_memory, Some("1Gi".parse().unwrap()));
        assert_eq!(document.quiet_hours.len(), 1);
        assert_eq!(document.max_disk_bytes_per_second, 20 << 20);
        let egress = document.egress.unwrap();
        assert_eq!((egress.allow.len(), egress.max_bytes_per_second), (2, 500 << 10));
    }

    #[test]
    fn shortest_document_gets_the_defaults() {
        let document = parse(
            "{consent: {givenAt: 2026-11-01T10:00:00Z, classes: []}, requirePluggedIn: false, chargeFloorPercent: 30}",
        )
        .unwrap();
        assert_eq!(document.charge_resume_margin_percent.to_bits(), 5.0_f64.to_bits());
        assert_eq!(document.resume_within, Duration::from_mins(2));
        assert_eq!((document.max_cpu, document.consent.expires_at), (None, None));
        assert_eq!(document.max_disk_bytes_per_second, 50 << 20);
        assert_eq!(document.egress, None);
    }

    #[rstest]
    #[case::no_consent(
        "consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference, video]}",
        "",
        "consent"
    )]
    #[case::no_classes(", classes: [inference, video]", "", "classes")]
    #[case::no_plug("requirePluggedIn: true", "", "requirePluggedIn")]
    #[case::no_floor("chargeFloorPercent: 50", "", "chargeFloorPercent")]
    #[case::no_rate(
        "maxDiskBytesPerSecond: 20Mi",
        "maxDiskBytesPerSecond: 0",
        "at least one byte per second"
    )]
    #[case::no_reach("allow: [public, 192.168.7.20], ", "", "allow")]
    #[case::bad_reach("192.168.7.20]", "192.168.7.20/24]", "192.168.7.0/24")]
    #[case::no_egress_rate("maxBytesPerSecond: 500Ki", "maxBytesPerSecond: 0", "at least one byte per second")]
    #[case::unknown_egress_field("ports: [443]", "port: 443", "port")]
    #[case::unknown_field("maxCpu: 1500m", "maxCpus: 1500m", "maxCpus")]
    #[case::unknown_consent_field("classes:", "clases: [a], classes:", "clases")]
    #[case::floor_over_100("chargeFloorPercent: 50", "chargeFloorPercent: 150", "0 to 100")]
    #[case::bad_duration("resumeWithin: 5m", "resumeWithin: soon", "resumeWithin")]
    #[case::bad_time("'22:00'", "'25:00'", "time of day")]
    #[case::no_zone("timeZone: Europe/Berlin", "", "timeZone")]
    #[case::bad_class("[inference, video]", "[Video]", "not a job class")]
    #[case::never("expiresAt: 2027-11", "expiresAt: 2025-11", "not after")]
    #[case::bad_quantity("maxMemory: 1Gi", "maxMemory: lots", "lots")]
    fn document_that_is_wrong_is_refused_with_the_place(#[case] from: &str, #[case] to: &str, #[case] says: &str) {
        assert!(WHOLE.contains(from));
        let message = parse(&WHOLE.replace(from, to)).unwrap_err();
        assert!(message.contains(says), "{message}");
    }

    #[test]
    fn quiet_hours_over_midnight_hold_on_both_sides() {
        let quiet = parse(WHOLE).unwrap().quiet_hours[0];
        let at = |hour, minute| jiff::civil::time(hour, minute, 0, 0);
        assert_eq!(
            [at(21, 59), at(22, 0), at(0, 0), at(6, 29), at(6, 30)].map(|time| quiet.contain(time)),
            [false, true, true, true, false]
        );
    }
}
