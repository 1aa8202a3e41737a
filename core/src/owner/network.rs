//! What the owner says of networks that cost by the byte, and of the data of a month.
//!
//! Asked by [`super::willing`] for what runs and by [`super::admit`] for what would begin. Which network the car has is the agent's to find out,
//! from what its maker says of the car's interfaces. Of what is not known the answer differs: what runs moves nothing while there is no way to
//! the cluster, and goes on; nothing begins, and no image is fetched.

use serde::{Deserialize, Deserializer};

use super::{Document, Refusal};
use crate::data::Moved;
use crate::names::reason;
use crate::parked::{Tri, Will};
use crate::quantity::Quantity;

/// The car's way to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uplink {
    /// It costs by the byte; unknown while the cluster is not reached.
    pub metered: Tri,
    /// What this month has had.
    pub moved: Moved,
}

impl Default for Uplink {
    fn default() -> Self {
        Self {
            metered: Tri::Unknown,
            moved: Moved::default(),
        }
    }
}

impl Uplink {
    /// One that costs nothing by the byte.
    pub fn free() -> Self {
        Self {
            metered: Tri::No,
            ..Self::default()
        }
    }
}

/// What the owner says of networks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Network {
    /// Work by one that costs by the byte.
    #[serde(default)]
    pub metered: Metered,
}

/// Whether there is work by a network that costs by the byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Metered {
    /// There is none.
    #[default]
    Never,
    /// As by any other.
    Allow,
}

/// The data that the owner gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Data {
    /// The most bytes, both ways together, in a month of the calendar of `timeZone`, or of Greenwich without one.
    #[serde(deserialize_with = "bytes")]
    pub per_month: u64,
    /// Only what goes by a network that costs by the byte counts.
    #[serde(default)]
    pub metered_only: bool,
}

impl Data {
    /// What counts of it.
    pub fn counted(&self, moved: Moved) -> u64 {
        if self.metered_only {
            moved.metered_bytes
        } else {
            moved.bytes
        }
    }

    fn is_used_up(&self, moved: Moved) -> bool {
        moved.lost || self.counted(moved) >= self.per_month
    }
}

fn bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let quantity = Quantity::deserialize(deserializer)?;
    let bytes = u64::try_from(quantity.units()).ok().filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| serde::de::Error::custom("data of a month are at least one byte, such as 2Gi"))
}

/// Whether data of the month are left. `begins`: something would begin, and what is not known counts as no.
pub(super) fn month_of_data(document: &Document, uplink: Uplink, begins: bool) -> Result<(), (Will, Refusal)> {
    let Some(data) = &document.data else { return Ok(()) };
    let matters = !data.metered_only || costs(uplink, begins);
    if !matters || !data.is_used_up(uplink.moved) {
        return Ok(());
    }
    let why = "the data that the owner gives for this month are used up";
    Err((Will::No, Refusal::new(reason::NETWORK_TERMS, why)))
}

/// Whether the owner lets work go by this network.
pub(super) fn way(document: &Document, uplink: Uplink, begins: bool) -> Result<(), (Will, Refusal)> {
    if document.network.metered == Metered::Allow || !costs(uplink, begins) {
        return Ok(());
    }
    let why = "the network that the car has costs by the byte, and the owner wants no work by such a one";
    Err((Will::Paused, Refusal::new(reason::NETWORK_TERMS, why)))
}

fn costs(uplink: Uplink, begins: bool) -> bool {
    match uplink.metered {
        Tri::Yes => true,
        Tri::No => false,
        Tri::Unknown => begins,
    }
}

/// Whether data for work may be moved now that do not have to be: an image, or what a Pod wants of the world.
pub fn may_move(document: Option<&Document>, uplink: Uplink) -> bool {
    document
        .is_some_and(|document| month_of_data(document, uplink, true).is_ok() && way(document, uplink, true).is_ok())
}

/// What the cluster is told: which network a car has tells something of where it is, and how much it has moved is its owner's, as is what an
/// expression of the owner's is about.
pub(super) fn said_outside(refusal: Refusal) -> Refusal {
    match refusal.reason.as_str() {
        reason::NETWORK_TERMS => Refusal::new(
            reason::NETWORK_TERMS,
            "a term of the owner about the network is not met",
        ),
        reason::OWNER_TERMS => Refusal::new(reason::OWNER_TERMS, "a term of the owner is not met"),
        _ => refusal,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    fn document(terms: &str) -> Document {
        let text = format!(
            "{{consent: {{givenAt: 2026-11-01T10:00:00Z, classes: []}}, requirePluggedIn: false, chargeFloorPercent: 0, {terms}}}"
        );
        serde_saphyr::from_str::<Document>(&text).unwrap().check().unwrap()
    }

    fn uplink(metered: Tri, bytes: u64, metered_bytes: u64) -> Uplink {
        let moved = Moved {
            bytes,
            metered_bytes,
            lost: false,
        };
        Uplink { metered, moved }
    }

    #[rstest]
    #[case::said_nothing("pauseUntil: 2020-01-01T00:00:00Z", Tri::Yes, false, false)]
    #[case::free("network: {metered: never}", Tri::No, true, true)]
    #[case::not_reached("network: {}", Tri::Unknown, true, false)]
    #[case::allowed("network: {metered: allow}", Tri::Yes, true, true)]
    fn metered_network_is_for_work_only_if_the_owner_says_so(
        #[case] terms: &str,
        #[case] metered: Tri,
        #[case] runs: bool,
        #[case] begins: bool,
    ) {
        let (document, uplink) = (document(terms), uplink(metered, 0, 0));
        assert_eq!(way(&document, uplink, false).is_ok(), runs);
        assert_eq!(may_move(Some(&document), uplink), begins);
    }

    #[rstest]
    #[case::left("data: {perMonth: 1Ki}", uplink(Tri::No, 1023, 0), true)]
    #[case::used_up("data: {perMonth: 1Ki}", uplink(Tri::No, 1024, 0), false)]
    #[case::of_which_none_was_metered("data: {perMonth: 1Ki, meteredOnly: true}", uplink(Tri::Yes, 1024, 1023), true)]
    #[case::metered("data: {perMonth: 1Ki, meteredOnly: true}", uplink(Tri::Yes, 1024, 1024), false)]
    #[case::at_home("data: {perMonth: 1Ki, meteredOnly: true}", uplink(Tri::No, 1024, 1024), true)]
    fn month_has_what_the_owner_gives_and_no_more(#[case] data: &str, #[case] uplink: Uplink, #[case] left: bool) {
        let document = document(&format!("network: {{metered: allow}}, {data}"));
        assert_eq!(may_move(Some(&document), uplink), left);
        let refused = month_of_data(&document, uplink, false).err();
        assert_eq!(refused.map(|(will, _)| will), (!left).then_some(Will::No));
    }

    #[test]
    fn month_that_is_not_known_is_used_up() {
        let mut uplink = uplink(Tri::No, 0, 0);
        uplink.moved.lost = true;
        assert!(!may_move(Some(&document("data: {perMonth: 1Ti}")), uplink));
        assert!(!may_move(None, Uplink::free()), "without a document nothing is moved");
    }

    #[test]
    fn nothing_of_the_network_is_said_outside() {
        let (_, inside) = way(&document("network: {}"), uplink(Tri::Yes, 0, 0), false).unwrap_err();
        let outside = said_outside(inside.clone());
        assert_eq!(outside.reason, inside.reason);
        assert!(!outside.message.contains("byte"), "{outside}");
    }
}
