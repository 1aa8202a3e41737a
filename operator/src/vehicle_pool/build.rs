//! The status of a pool as it should be. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kerbside_api::v1alpha1::{VehiclePool, VehiclePoolStatus};
use kerbside_k8s::conditions::{self, Says};
use kerbside_k8s::eligibility::RuleError;

use super::dereference::Found;

const EXPRESSIONS_VALID: &str = "ExpressionsValid";
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
    status
}
