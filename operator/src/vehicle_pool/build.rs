//! The status of a pool as it should be. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kerbside_api::v1alpha1::{VehiclePool, VehiclePoolStatus};
use kerbside_core::names::condition;
use kerbside_k8s::conditions::{self, Says};
use kerbside_k8s::eligibility::RuleError;

use super::dereference::Found;

const EXPRESSIONS_VALID: &str = "ExpressionsValid";
/// Also the Event's.
pub(super) const MANY_UNHEARD: &str = "ManyVehiclesUnheard";
const READY: &str = "Ready";
const EXPRESSION_INVALID: &str = "ExpressionInvalid";

pub(super) fn build(
    pool: &VehiclePool,
    found: &Found,
    terms: &Result<(), Vec<RuleError>>,
    now: Timestamp,
) -> VehiclePoolStatus {
    let generation = pool.metadata.generation;
    let mut status = pool.status.clone().unwrap_or_default();
    status.observed_generation = generation;
    status.vehicles = found.vehicles;
    status.capacity = found
        .capacity
        .0
        .iter()
        .map(|(k, v)| (k.clone(), Quantity(v.to_string())))
        .collect();
    let (valid, reason, message) = match terms {
        Ok(()) => (
            true,
            "Compiled",
            format!("{} eligibility rules compile", pool.spec.eligibility.len()),
        ),
        Err(errors) => {
            let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
            (false, EXPRESSION_INVALID, all.join("; "))
        }
    };
    let says = Says {
        type_: EXPRESSIONS_VALID,
        status: Some(valid),
        reason,
        message: &message,
    };
    conditions::set(&mut status.conditions, &says, generation, now);
    let ready = if valid {
        Says {
            type_: READY,
            status: Some(true),
            reason: "TermsApply",
            message: "the pool's terms are applied",
        }
    } else {
        let message = "no vehicle of the pool is eligible until its expressions are repaired";
        Says {
            type_: READY,
            status: Some(false),
            reason: EXPRESSION_INVALID,
            message,
        }
    };
    conditions::set(&mut status.conditions, &ready, generation, now);
    let message = held_message(pool, found.held);
    let held = Says {
        type_: condition::LOSS_HELD,
        status: Some(found.held > 0),
        reason: if found.held > 0 { MANY_UNHEARD } else { "NothingHeld" },
        message: &message,
    };
    conditions::set(&mut status.conditions, &held, generation, now);
    status
}

fn held_message(pool: &VehiclePool, held: u32) -> String {
    if held == 0 {
        return "no attempts are held".to_owned();
    }
    let brake = &pool.spec.loss.brake;
    format!(
        "{held} vehicles with attempts are not heard; more than {} % of an adapter's vehicles, and at least {}, fell silent together, so \
         the fault may be ours: nothing is replaced until they return or their fences pass",
        brake.share, brake.at_least
    )
}

/// Whether the status says that attempts are held.
pub(super) fn is_held(status: &VehiclePoolStatus) -> bool {
    let held = |c: &Condition| c.type_ == condition::LOSS_HELD && c.status == "True";
    status.conditions.iter().any(held)
}
