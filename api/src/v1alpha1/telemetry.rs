//! What is known of a car without an agent: bands and yes, no or unknown, and nothing finer.
//!
//! Written by a telemetry gateway of the car's fleet. What must never get a field here: a position, a VIN, a value of a signal.

use std::borrow::Cow;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::FreeForMinutes;

/// What a gateway says of a car without an agent, for planning. It gives no work to anybody.
#[derive(KubeSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// Whether the car is parked, by the rules that an agent follows as far as its telemetry goes: True, False or
    /// Unknown. Unknown also means that it has not been heard for long, and never counts as True.
    #[serde(default)]
    pub parked: Known,
    /// Whether a charging cable is connected: True, False or Unknown.
    #[serde(default)]
    pub plugged_in: Known,
    /// Percent of charge that the car has at least: one of 0, 20, 40, 60, 80. Absent: unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub charge: Option<ChargeBand>,
    /// Minutes until the departure that is set in the car, if it is parked: one of 0, 15, 60, 120, 240, 480. 0 promises
    /// nothing, and neither does any other: the driver may come before.
    #[serde(default)]
    pub free_for: FreeForMinutes,
}

/// Yes, no, or not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Known {
    /// Yes.
    True,
    /// No.
    False,
    /// Not known.
    #[default]
    Unknown,
}

/// A band of percent: the car has at least that much. One of 0, 20, 40, 60, 80.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ChargeBand(u32);

/// A number of percent that is not one of the bands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} percent is not one of 0, 20, 40, 60, 80")]
pub struct ChargeBandError(u32);

impl ChargeBand {
    /// Every band, in percent, ascending.
    pub const BANDS: [u32; 5] = [0, 20, 40, 60, 80];

    /// How many percent a charge must be above a band to rise into it: one that swings around its edge changes nothing.
    const RISE: f64 = 2.0;

    /// The band of a charge in percent, given the band `before`. Less than nought and what is no number is in the lowest.
    pub fn of(percent: f64, before: Option<Self>) -> Self {
        let reaches = |band: u32| {
            let rises = before.is_some_and(|before| band > before.0);
            percent >= f64::from(band) + if rises { Self::RISE } else { 0.0 }
        };
        Self(Self::BANDS.into_iter().rfind(|band| reaches(*band)).unwrap_or(0))
    }

    /// The percent of the band.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for ChargeBand {
    type Error = ChargeBandError;

    fn try_from(percent: u32) -> Result<Self, ChargeBandError> {
        if Self::BANDS.contains(&percent) {
            Ok(Self(percent))
        } else {
            Err(ChargeBandError(percent))
        }
    }
}

impl From<ChargeBand> for u32 {
    fn from(band: ChargeBand) -> Self {
        band.0
    }
}

impl JsonSchema for ChargeBand {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ChargeBand".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "int32", "enum": Self::BANDS})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case::lowest(0.0, None, 0)]
    #[case::below(-3.0, None, 0)]
    #[case::nan(f64::NAN, None, 0)]
    #[case::first(20.0, None, 20)]
    #[case::full(100.0, None, 80)]
    #[case::falls_at_once(59.9, Some(60), 40)]
    #[case::does_not_rise_at_the_edge(60.1, Some(40), 40)]
    #[case::rises_a_little_above(62.0, Some(40), 60)]
    #[case::stays(60.0, Some(60), 60)]
    #[case::rises_by_several(95.0, Some(0), 80)]
    fn charge_is_told_in_bands_that_do_not_flap(#[case] percent: f64, #[case] before: Option<u32>, #[case] band: u32) {
        let before = before.map(|band| ChargeBand::try_from(band).unwrap());
        assert_eq!(ChargeBand::of(percent, before).get(), band);
    }

    #[test]
    fn charge_between_bands_is_refused() {
        let message = serde_json::from_str::<ChargeBand>("57").unwrap_err().to_string();
        assert!(message.contains("57 percent is not one of 0, 20, 40"), "{message}");
    }
}
