//! The owner's document: what the owner of a car allows, in the owner's words.
//!
//! The agent reads it from `owner.yaml` and hands it to [`super::willing`]. Every field that gives something away is required, a field
//! that is not known is refused, and so is one that stands there without a value: a misspelt word must never widen what the owner meant.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::check::{DocumentError, never};
use super::egress::Egress;
use super::hours::Hours;
use super::network::{Data, Network};
use super::publisher::Publisher;
use super::tariff::Tariff;
use super::when::When;
use super::whole::is_whole;
use crate::energy::JOULES_PER_KWH;
use crate::ledger::Price;
use crate::quantity::{Quantity, Resources};

/// The version of the document that this agent understands.
pub const API_VERSION: &str = "owner.kerbside.dev/v1alpha1";
/// What the document calls itself.
pub const KIND: &str = "OwnerPolicy";

/// The document, as in `owner.yaml`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// [`API_VERSION`]. A document without it is one of before there were versions, and means the same.
    #[serde(default, deserialize_with = "api_version")]
    pub api_version: Option<String>,
    /// [`KIND`], with `apiVersion`.
    #[serde(default, deserialize_with = "kind")]
    pub kind: Option<String>,
    /// The consent itself; without it everything is refused.
    pub consent: Consent,
    /// No work before this moment.
    #[serde(default, deserialize_with = "said")]
    pub pause_until: Option<jiff::Timestamp>,
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
    /// The only times of the week with work, by the clock of `timeZone`; without them all.
    #[serde(default, deserialize_with = "said")]
    pub work_hours: Option<Vec<Hours>>,
    /// Times of the week without work, by the clock of `timeZone`, also where `workHours` allow it.
    #[serde(default)]
    pub quiet_hours: Vec<Hours>,
    /// The IANA name of the time zone of the hours, such as Europe/Berlin. Needed with them.
    #[serde(default, deserialize_with = "said")]
    pub time_zone: Option<String>,
    /// The most memory that all work together may have.
    #[serde(default, deserialize_with = "said")]
    pub max_memory: Option<Quantity>,
    /// The most processor time per time that all work together may have.
    #[serde(default, deserialize_with = "said")]
    pub max_cpu: Option<Quantity>,
    /// The most bytes per second that each Pod may read from a disk, and as many write.
    #[serde(default = "default_disk_rate", deserialize_with = "rate")]
    pub max_disk_bytes_per_second: u64,
    /// What work may reach by the network; without it nothing.
    #[serde(default)]
    pub egress: Option<Egress>,
    /// Work only while this is true, for terms that no field has a word for.
    #[serde(default, deserialize_with = "said")]
    pub when: Option<When>,
    /// Whether there is work by a network that costs by the byte.
    #[serde(default)]
    pub network: Network,
    /// The data that all work together may move in a month; without it there is no bound.
    #[serde(default, deserialize_with = "said")]
    pub data: Option<Data>,
    /// Whether people of the fleet may run commands in the car's Pods, join their programs and reach their ports.
    #[serde(default)]
    pub allow_exec: bool,
    /// The most kilowatt-hours that all work together may have in a day of the calendar of `timeZone`.
    #[serde(default, rename = "maxKWhPerDay", deserialize_with = "said")]
    pub max_kwh_per_day: Option<Quantity>,
    /// What a kilowatt-hour costs the owner.
    #[serde(default, deserialize_with = "said")]
    pub tariff: Option<Tariff>,
    /// The least that work must pay for a core hour beyond what its energy costs by `tariff`.
    #[serde(default, rename = "priceFloorPerCPUHour", deserialize_with = "said")]
    pub price_floor: Option<Price>,
    /// Whose signatures count: every image needs one of theirs. Without it, images need none.
    #[serde(default, deserialize_with = "said")]
    pub publishers: Option<Vec<Publisher>>,
}

/// What the owner consented to, and for how long.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Consent {
    /// When it was given.
    pub given_at: jiff::Timestamp,
    /// When it ends; without it, when it is withdrawn.
    #[serde(default, deserialize_with = "said")]
    pub expires_at: Option<jiff::Timestamp>,
    /// The job classes that it is for.
    pub classes: Vec<String>,
}

impl Document {
    /// When these terms end work next, whatever the car does: when hours in which it may work are over, or with the consent. `zone` is that
    /// of `timeZone`.
    pub fn ends(&self, now: jiff::Timestamp, zone: &jiff::tz::TimeZone) -> Option<jiff::Timestamp> {
        let today = zone.to_datetime(now).date();
        // Every window of a week begins and ends within these.
        let days = || today.series(jiff::Span::new().days(1)).take(9);
        let quiet = self.quiet_hours.iter().map(|hours| hours.from);
        let work = self.work_hours.iter().flatten().map(|hours| hours.to);
        let times = quiet
            .chain(work)
            .flat_map(|time| days().map(move |day| day.to_datetime(time)));
        let minute = jiff::Span::new().minutes(1);
        let ending = times.filter(|at| self.hours(*at).is_err() && self.hours(at.saturating_sub(minute)).is_ok());
        let hours = ending.filter_map(|at| zone.to_timestamp(at).ok());
        hours.chain(self.consent.expires_at).filter(|at| *at > now).min()
    }

    /// What the types cannot say.
    pub fn check(self) -> Result<Self, DocumentError> {
        if self.api_version.is_some() != self.kind.is_some() {
            return Err(DocumentError::HalfAVersion);
        }
        for (field, is_there) in [
            ("workHours", self.work_hours.is_some()),
            ("quietHours", !self.quiet_hours.is_empty()),
            ("maxKWhPerDay", self.max_kwh_per_day.is_some()),
            ("tariff.windows", self.has_tariff_windows()),
            ("when", self.is_when_by_clock()),
        ] {
            if is_there && self.time_zone.is_none() {
                return Err(DocumentError::TimeZoneMissing(field));
            }
        }
        if self.price_floor.is_some() && self.tariff.is_none() {
            return Err(DocumentError::FloorWithoutTariff);
        }
        if let Some(class) = self.consent.classes.iter().find(|class| !is_class(class)) {
            return Err(DocumentError::Class(class.clone()));
        }
        never(&self).map_or(Ok(self), Err)
    }

    /// The same, of a document and the text that it was read from.
    pub fn check_in(self, text: &str) -> Result<Self, DocumentError> {
        if self.api_version.is_some() && !is_whole(text) {
            return Err(DocumentError::CutOff);
        }
        self.check()
    }

    /// Whether it has hours of any kind, and so needs a clock that shows them.
    pub fn has_hours(&self) -> bool {
        self.work_hours.is_some() || !self.quiet_hours.is_empty()
    }

    /// Whose signature every image needs; empty: none is needed.
    pub fn publishers(&self) -> &[Publisher] {
        self.publishers.as_deref().unwrap_or_default()
    }

    fn has_tariff_windows(&self) -> bool {
        self.tariff.as_ref().is_some_and(|tariff| !tariff.windows.is_empty())
    }

    fn is_when_by_clock(&self) -> bool {
        self.when.as_ref().is_some_and(When::is_by_clock)
    }

    /// Whether anything in it is by the calendar of its time zone.
    pub fn needs_zone(&self) -> bool {
        self.has_hours() || self.max_kwh_per_day.is_some() || self.has_tariff_windows() || self.is_when_by_clock()
    }

    /// The most energy that work may have in a day, in microjoules, if the owner says so.
    pub fn max_microjoules_per_day(&self) -> Option<u64> {
        // A billionth of a kilowatt-hour is so many microjoules.
        let each = i128::from(JOULES_PER_KWH / 1000);
        let most = self.max_kwh_per_day?.nanos().saturating_mul(each);
        Some(u64::try_from(most.max(0)).unwrap_or(u64::MAX))
    }

    /// Whether the hours allow work at this moment of the calendar, and if not, which do not. Quiet hours win.
    pub fn hours(&self, at: jiff::civil::DateTime) -> Result<(), &'static str> {
        let contain = |hours: &[Hours]| hours.iter().any(|hours| hours.contain(at));
        if contain(&self.quiet_hours) {
            return Err("the owner keeps quiet hours");
        }
        match &self.work_hours {
            Some(hours) if !contain(hours) => Err("it is not within the owner's work hours"),
            _ => Ok(()),
        }
    }

    /// What a car gives under the owner's caps, which can only narrow it.
    #[must_use]
    pub fn narrowed(&self, mut gives: Resources) -> Resources {
        for (name, cap) in [("cpu", self.max_cpu), ("memory", self.max_memory)] {
            if let Some(cap) = cap {
                let amount = gives.get(name).min(cap);
                gives.0.insert(name.to_owned(), amount);
            }
        }
        gives
    }
}

/// A class becomes part of a Node's label key, so it has that shape.
pub fn is_class(class: &str) -> bool {
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

fn default_resume_within() -> Duration {
    Duration::from_mins(2)
}

/// A field that may be left out, and has a value where it is not: an empty one would be read as if nothing had been said, and the fields
/// that are read by this narrow what the owner gives.
pub(super) fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn api_version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    only("apiVersion", API_VERSION, deserializer)
}

fn kind<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    only("kind", KIND, deserializer)
}

fn only<'de, D: Deserializer<'de>>(field: &str, understood: &str, deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == understood {
        return Ok(Some(text));
    }
    Err(serde::de::Error::custom(format!(
        "{field} is '{text}', and this agent understands {understood} only"
    )))
}

pub(super) fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let quantity = Quantity::deserialize(deserializer)?;
    let bytes = u64::try_from(quantity.units()).ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| serde::de::Error::custom("a rate is at least one byte per second, such as 50Mi"))
}

fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let value = f64::deserialize(deserializer)?;
    if (0.0..=100.0).contains(&value) {
        Ok(value)
    } else {
        Err(serde::de::Error::custom("a percentage is a number from 0 to 100"))
    }
}

#[cfg(test)]
mod tests;
