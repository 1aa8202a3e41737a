//! The status of a Vehicle: a pure function of what the machine decided and of what the car offers.
//!
//! Called by the actor; `connection` is written elsewhere, when the car connects. Nothing in it tells why a car is away, and its times
//! are rounded so that they do not tell when somebody comes and goes.

use jiff::Timestamp;
use kerbside_api::v1alpha1::{Offer, Vehicle, VehiclePhase, VehicleStatus};
use kerbside_core::names::{condition, reason};
use kerbside_core::vehicle::{Desired, Hearing, Judgement, Phase};
use kerbside_k8s::conditions::{Says, set};
use serde_json::{Map, Value};

/// Times are told to five minutes.
const ROUNDED_TO_SECONDS: i64 = 300;

/// What people are told of a vehicle that the brake holds. The operator counts these by their reason for the pool's status.
pub(crate) const HELD: &str = "the vehicle is not heard, and many of its pool fell silent with it: its attempts are held until it returns or their fences pass";

/// The status that the Vehicle should have.
pub(crate) fn build(
    vehicle: &Vehicle,
    desired: &Desired,
    offer: &Offer,
    agent: Option<&str>,
    now: Timestamp,
) -> VehicleStatus {
    let mut status = vehicle.status.clone().unwrap_or_default();
    let generation = vehicle.metadata.generation;
    status.observed_generation = generation;
    status.phase = match desired.phase {
        Phase::Available => VehiclePhase::Available,
        Phase::Leaving => VehiclePhase::Leaving,
        Phase::Away => VehiclePhase::Away,
    };
    status.offer = if desired.phase == Phase::Away {
        Offer::default()
    } else {
        offer.clone()
    };
    if let Some(agent) = agent {
        status.agent_version = Some(agent.chars().take(64).collect());
    }
    let now = rounded(now);
    let mut says = |type_, status_, reason: &str, message: &str| {
        set(
            &mut status.conditions,
            &Says {
                type_,
                status: status_,
                reason,
                message,
            },
            generation,
            now,
        );
    };
    match &desired.eligible {
        _ if desired.phase == Phase::Away => {
            says(condition::ELIGIBLE, Some(false), "VehicleAway", "the vehicle is away");
        }
        Judgement::Yes => says(condition::ELIGIBLE, Some(true), "Eligible", "every term is met"),
        Judgement::No { reason, message } => says(condition::ELIGIBLE, Some(false), reason, message),
    }
    match desired.heard {
        Some(Hearing::Heard) => says(condition::HEARD, Some(true), "VehicleHeard", ""),
        Some(Hearing::Held) => says(condition::HEARD, Some(false), reason::LOSS_HELD, HELD),
        Some(Hearing::Unheard) => says(
            condition::HEARD,
            Some(false),
            reason::VEHICLE_UNHEARD,
            "the vehicle is not heard",
        ),
        None => says(condition::HEARD, None, "VehicleAway", ""),
    }
    status
}

/// Says what is wrong with the car's own state, as the car has said it last; and, where something was, that nothing is any more.
pub(crate) fn tell_fault(status: &mut VehicleStatus, generation: Option<i64>, fault: Option<&str>, now: Timestamp) {
    let was = status
        .conditions
        .iter()
        .any(|condition| condition.type_ == condition::SOUND);
    let (is_sound, reason, message) = match fault {
        None if was => (true, "Sound", ""),
        None => return,
        Some(word @ reason::STATE_NOT_TRUSTED) => (
            false,
            word,
            "what the car has kept of its owner's word is cut off, changed or set back to an old state: it takes no work until its owner says it anew",
        ),
        Some(word @ reason::CLOCK_NOT_TRUSTED) => (
            false,
            word,
            "the car's clock was set, or shows an earlier time than it has shown before: it takes no work by it",
        ),
        Some(word @ reason::AGENT_STALLED) => (
            false,
            word,
            "the car's agent did not look at the car for some seconds, so all work stood still; `kerbside-agent status` in the car says when, and its disk may be the cause",
        ),
        Some(word) => (
            false,
            word,
            "the cluster does not take the car's receipts, so the car takes no work; `kerbside-agent status` in the car says why",
        ),
    };
    set(
        &mut status.conditions,
        &Says {
            type_: condition::SOUND,
            status: Some(is_sound),
            reason,
            message,
        },
        generation,
        rounded(now),
    );
}

fn rounded(at: Timestamp) -> Timestamp {
    let seconds = at.as_second();
    Timestamp::from_second(seconds - seconds.rem_euclid(ROUNDED_TO_SECONDS)).unwrap_or(at)
}

/// The merge patch that makes `old` into `new`, without `connection`; None: nothing differs.
pub(crate) fn patch(old: Option<&VehicleStatus>, new: &VehicleStatus) -> Option<Value> {
    let value = |s: &VehicleStatus| {
        let s = VehicleStatus {
            connection: None,
            ..s.clone()
        };
        serde_json::to_value(s).unwrap_or_default()
    };
    difference(&old.map(value).unwrap_or_default(), &value(new))
}

/// RFC 7386: what must be merged into `old` so that it becomes `new`.
fn difference(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for (key, value) in new {
        if let Some(d) = difference(old.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), d);
        }
    }
    patch.extend(
        old.keys()
            .filter(|k| !new.contains_key(*k))
            .map(|k| (k.clone(), Value::Null)),
    );
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerbside_core::clock::Boottime;
    use kerbside_core::vehicle::{Event, Facts, Standing, Terms};
    use serde_json::json;
    use std::time::Duration;

    const NOW: &str = "2026-11-23T12:03:59Z";

    fn vehicle() -> Vehicle {
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle",
            "metadata": {"name": "car-aaaaaaaaaaaaaaaa", "generation": 2}, "spec": {"pool": "overnight"},
            "status": {"connection": {"replica": "r", "epoch": 7}},
        }))
        .unwrap()
    }

    fn desired(standing: Standing) -> Desired {
        let now = Boottime::default();
        let mut facts = Facts::new(Standing::Away, false, now);
        let terms = Terms {
            suspect_after: Duration::from_secs(10),
            keep_node_for: Duration::from_mins(10),
            revoked: false,
            eligible: Judgement::Yes,
        };
        facts.step(Event::Terms(terms), now);
        facts.step(
            Event::Connected {
                epoch: 1,
                standing,
                reports: vec![],
            },
            now,
        );
        facts.settle(now, |_| None);
        facts.desired(now)
    }

    fn offer() -> Offer {
        serde_json::from_value(json!({"allocatable": {"cpu": "2"}, "classes": ["inference"]})).unwrap()
    }

    #[test]
    fn status_of_an_available_car_shows_its_offer_and_rounded_times() {
        let status = build(
            &vehicle(),
            &desired(Standing::Available),
            &offer(),
            Some("1.0"),
            NOW.parse().unwrap(),
        );
        insta::assert_yaml_snapshot!(status);
    }

    #[test]
    fn status_of_a_car_that_is_away_shows_no_offer_and_no_reason() {
        let status = build(
            &vehicle(),
            &desired(Standing::Away),
            &offer(),
            Some("1.0"),
            NOW.parse().unwrap(),
        );
        assert_eq!(status.offer, Offer::default());
        assert!(status.conditions.iter().all(|c| c.reason == "VehicleAway"));
    }

    #[test]
    fn fault_of_the_cars_own_state_is_told_and_taken_back() {
        let mut status = VehicleStatus::default();
        let now = NOW.parse().unwrap();
        tell_fault(&mut status, Some(2), None, now);
        assert!(
            status.conditions.is_empty(),
            "of a car that never had one nothing is said"
        );
        tell_fault(&mut status, Some(2), Some(reason::STATE_NOT_TRUSTED), now);
        let told = |status: &VehicleStatus| {
            let told = status.conditions.iter().find(|c| c.type_ == condition::SOUND).unwrap();
            (told.status.clone(), told.reason.clone())
        };
        assert_eq!(told(&status), ("False".to_owned(), "StateNotTrusted".to_owned()));
        tell_fault(&mut status, Some(2), Some(reason::AGENT_STALLED), now);
        assert_eq!(told(&status), ("False".to_owned(), "AgentStalled".to_owned()));
        tell_fault(&mut status, Some(2), None, now);
        assert_eq!(told(&status), ("True".to_owned(), "Sound".to_owned()));
    }

    #[test]
    fn patch_never_carries_the_connection_and_nulls_what_went() {
        let old = build(
            &vehicle(),
            &desired(Standing::Available),
            &offer(),
            Some("1.0"),
            NOW.parse().unwrap(),
        );
        assert_eq!(patch(Some(&old), &old), None);
        let mut other = offer();
        other.allocatable.clear();
        let vehicle = Vehicle {
            status: Some(old.clone()),
            ..vehicle()
        };
        let new = build(
            &vehicle,
            &desired(Standing::Available),
            &other,
            Some("1.0"),
            NOW.parse().unwrap(),
        );
        assert_eq!(
            patch(Some(&old), &new).unwrap(),
            json!({"offer": {"allocatable": {"cpu": null}}})
        );
        assert!(patch(None, &new).unwrap().get("connection").is_none());
    }
}
