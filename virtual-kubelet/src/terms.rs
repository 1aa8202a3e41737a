//! On what terms a vehicle works: its Vehicle, its pool, and the pool's rules judged over its offer. Pure.
//!
//! Called by the actor when any of them changes. A rule that is broken or cannot be judged is not met: no is the default.

use kerbside_api::v1alpha1::{Loss, NodeTemplate, Offer, Vehicle, VehiclePool};
use kerbside_core::vehicle::brake::BrakeTerms;
use kerbside_core::vehicle::{Judgement, Terms};
use kerbside_k8s::eligibility::{Eligibility, Rule};

/// A pool with its rules compiled.
#[derive(Debug)]
pub(crate) struct Pool {
    /// As it is in the API.
    pub object: VehiclePool,
    rules: Result<Eligibility, String>,
}

impl Pool {
    /// Compiles the pool's rules.
    pub(crate) fn new(object: VehiclePool) -> Self {
        let rules = object.spec.eligibility.iter();
        let rules = rules.map(|r| Rule {
            name: &r.name,
            expression: &r.expression,
            message: &r.message,
        });
        let rules = Eligibility::compile(rules).map_err(|errors| {
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            texts.join("; ")
        });
        Self { object, rules }
    }

    /// The pool's `loss.brake`.
    pub(crate) fn brake(&self) -> BrakeTerms {
        let brake = &self.object.spec.loss.brake;
        let at_least = usize::try_from(brake.at_least).unwrap_or(usize::MAX);
        BrakeTerms {
            share: brake.share,
            at_least,
            window: brake.window.get(),
        }
    }
}

/// The pool's `node`, or the default where there is no pool.
pub(crate) fn template(pool: Option<&Pool>) -> NodeTemplate {
    pool.map_or_else(NodeTemplate::default, |p| p.object.spec.node.clone())
}

/// The vehicle's terms.
pub(crate) fn terms(vehicle: &Vehicle, pool: Option<&Pool>, offer: &Offer) -> Terms {
    let loss = pool.map_or_else(Loss::default, |p| p.object.spec.loss.clone());
    Terms {
        suspect_after: loss.suspect_after.get(),
        keep_node_for: loss.keep_node_for.get(),
        revoked: vehicle.spec.revoked,
        eligible: judge(vehicle, pool, offer),
    }
}

fn judge(vehicle: &Vehicle, pool: Option<&Pool>, offer: &Offer) -> Judgement {
    if vehicle.spec.suspended {
        return Judgement::no("Suspended", "the vehicle is suspended (spec.suspended)");
    }
    let Some(pool) = pool else {
        return Judgement::no("NoSuchPool", format!("there is no VehiclePool '{}'", vehicle.spec.pool));
    };
    let rules = match &pool.rules {
        Ok(rules) => rules,
        Err(why) => return Judgement::no("PoolTermsBroken", format!("the pool's terms cannot be judged: {why}")),
    };
    let Ok(offer) = serde_json::to_value(offer) else {
        return Judgement::no("NotEligible", "the offer cannot be written as JSON");
    };
    match rules.judge(&offer) {
        Ok(()) => Judgement::Yes,
        Err(unmet) => Judgement::no("NotEligible", format!("{}: {}", unmet.rule, unmet.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vehicle(suspended: bool) -> Vehicle {
        let spec = json!({"pool": "overnight", "suspended": suspended});
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": {"name": "car-aaaaaaaaaaaaaaaa"}, "spec": spec,
        }))
        .unwrap()
    }

    fn pool(expression: &str) -> Pool {
        Pool::new(
            serde_json::from_value(json!({
                "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": {"name": "overnight"},
                "spec": {
                    "allowedNamespaces": {"from": "All"},
                    "eligibility": [{"name": "long-stay", "expression": expression, "message": "leaves within the hour"}],
                },
            }))
            .unwrap(),
        )
    }

    fn offer(p90: u32) -> Offer {
        serde_json::from_value(json!({"freeFor": {"p50": 480, "p90": p90}})).unwrap()
    }

    fn reason(judgement: &Judgement) -> &str {
        match judgement {
            Judgement::Yes => "Yes",
            Judgement::No { reason, .. } => reason,
        }
    }

    #[rstest::rstest]
    #[case::met("offer.freeFor.p90 >= 60", 120, "Yes")]
    #[case::unmet("offer.freeFor.p90 >= 60", 15, "NotEligible")]
    #[case::broken("offer.freeFor.p90 >=", 120, "PoolTermsBroken")]
    #[case::misspelt("offer.freeFro.p90 >= 60", 120, "PoolTermsBroken")]
    fn eligibility_follows_the_pools_rules(#[case] expression: &str, #[case] p90: u32, #[case] expected: &str) {
        let terms = terms(&vehicle(false), Some(&pool(expression)), &offer(p90));
        assert_eq!(reason(&terms.eligible), expected, "{:?}", terms.eligible);
    }

    #[test]
    fn unmet_rule_is_told_with_its_message() {
        let terms = terms(&vehicle(false), Some(&pool("offer.freeFor.p90 >= 60")), &offer(15));
        let Judgement::No { message, .. } = terms.eligible else {
            panic!("it should not be eligible")
        };
        assert_eq!(message, "long-stay: leaves within the hour");
    }

    #[test]
    fn vehicle_suspended_or_without_a_pool_is_not_eligible() {
        assert_eq!(
            reason(&terms(&vehicle(true), Some(&pool("true")), &offer(480)).eligible),
            "Suspended"
        );
        assert_eq!(
            reason(&terms(&vehicle(false), None, &offer(480)).eligible),
            "NoSuchPool"
        );
    }
}
