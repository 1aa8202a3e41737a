//! How long a car expects to stay, in bands.
//!
//! Part of a Vehicle's offer; the Node label `kerbside.dev/free-for` is the same integer. The bands are coarse on
//! purpose: finer times would tell the cluster when somebody comes home.

use std::borrow::Cow;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// A band of minutes: the car stays at least that long. One of 0, 15, 60, 120, 240, 480.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct FreeForMinutes(u32);

/// A number of minutes that is not one of the bands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} minutes is not one of 0, 15, 60, 120, 240, 480")]
pub struct FreeForError(u32);

impl FreeForMinutes {
    /// Every band, in minutes, ascending.
    pub const BANDS: [u32; 6] = [0, 15, 60, 120, 240, 480];

    /// The highest band that `minutes` reaches: never more than was promised.
    pub fn at_most(minutes: u32) -> Self {
        Self(Self::BANDS.into_iter().rfind(|band| *band <= minutes).unwrap_or(0))
    }

    /// The minutes of the band.
    pub fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for FreeForMinutes {
    type Error = FreeForError;

    fn try_from(minutes: u32) -> Result<Self, FreeForError> {
        if Self::BANDS.contains(&minutes) {
            Ok(Self(minutes))
        } else {
            Err(FreeForError(minutes))
        }
    }
}

impl From<FreeForMinutes> for u32 {
    fn from(band: FreeForMinutes) -> Self {
        band.0
    }
}

impl JsonSchema for FreeForMinutes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "FreeForMinutes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "format": "int32", "enum": Self::BANDS})
    }
}

/// How long the car expects to stay, with two confidences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FreeFor {
    /// Minutes for which the car stays with 50 % confidence: one of 0, 15, 60, 120, 240, 480. 0 promises nothing.
    #[serde(default)]
    pub p50: FreeForMinutes,
    /// Minutes for which the car stays with 90 % confidence: one of 0, 15, 60, 120, 240, 480. 0 promises nothing.
    /// The Node label `kerbside.dev/free-for` has this value.
    #[serde(default)]
    pub p90: FreeForMinutes,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case(0, 0)]
    #[case(14, 0)]
    #[case(15, 15)]
    #[case(119, 60)]
    #[case(480, 480)]
    #[case(u32::MAX, 480)]
    fn free_for_at_most_never_promises_more(#[case] minutes: u32, #[case] band: u32) {
        assert_eq!(FreeForMinutes::at_most(minutes).get(), band);
    }

    #[test]
    fn free_for_between_bands_is_refused() {
        let message = serde_json::from_str::<FreeForMinutes>("30").unwrap_err().to_string();
        assert!(message.contains("30 minutes is not one of 0, 15, 60"), "{message}");
    }
}
