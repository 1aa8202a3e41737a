//! Whether a pool's terms can be applied: what the API server cannot check by itself. Pure.

use kerbside_api::v1alpha1::{EligibilityRule, VehiclePool};
use kerbside_k8s::eligibility::{Eligibility, Rule, RuleError};

/// Compiles the pool's expressions; the adapter does the same with the same code and treats a broken pool's cars as ineligible.
pub(super) fn validate(pool: &VehiclePool) -> Result<(), Vec<RuleError>> {
    let rules = pool.spec.eligibility.iter().map(
        |EligibilityRule {
             name,
             expression,
             message,
         }| Rule {
            name,
            expression,
            message,
        },
    );
    Eligibility::compile(rules).map(drop)
}
