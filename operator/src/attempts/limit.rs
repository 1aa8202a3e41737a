//! How much processor a Pod can use at most, as far as the Pod says. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kerbside_core::quantity::Quantity;

/// What a container without a limit counts as, if it does not ask for more.
const ONE_CORE: u64 = 1_000;

/// Thousandths of a core: limits, and where there is none what is requested, but a core at least. Whoever pays for more sets a limit.
///
/// Containers run side by side, and with them the init containers that go on; the other init containers run before, one at a time.
pub(super) fn milli_cpu(spec: &PodSpec) -> u64 {
    if let Some(whole) = spec
        .resources
        .as_ref()
        .and_then(|resources| cpu(resources.limits.as_ref()))
    {
        return whole;
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let goes_on = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let (sidecars, first): (Vec<&Container>, Vec<&Container>) = init.iter().partition(goes_on);
    let sum = |sum: u64, container: &Container| sum.saturating_add(of(container));
    let sidecars = sidecars.into_iter().fold(0, sum);
    let containers = spec.containers.iter().fold(0, sum);
    let most = first.into_iter().map(of).fold(containers, u64::max);
    most.saturating_add(sidecars)
}

fn of(container: &Container) -> u64 {
    let Some(resources) = &container.resources else {
        return ONE_CORE;
    };
    let ResourceRequirements { limits, requests, .. } = resources;
    let requested = || cpu(requests.as_ref()).unwrap_or_default().max(ONE_CORE);
    cpu(limits.as_ref()).unwrap_or_else(requested)
}

/// An amount of nothing says nothing.
fn cpu(amounts: Option<&BTreeMap<String, ApiQuantity>>) -> Option<u64> {
    let cpu: Quantity = amounts?.get("cpu")?.0.parse().ok()?;
    u64::try_from(cpu.millis()).ok().filter(|amount| *amount > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(cpu: &str) -> Value {
        json!({ "name": "x", "resources": { "limits": { "cpu": cpu } } })
    }

    fn of_pod(spec: Value) -> u64 {
        milli_cpu(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn containers_count_together_and_init_containers_one_at_a_time() {
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let (small, big) = (container("1"), container("3500m"));
        let two = json!([container("0.5"), container("1500m")]);
        assert_eq!(of_pod(json!({ "containers": two })), 2_000);
        assert_eq!(
            of_pod(json!({ "containers": two, "initContainers": [small, sidecar] })),
            2_100
        );
        assert_eq!(
            of_pod(json!({ "containers": two, "initContainers": [big, sidecar] })),
            3_600
        );
    }

    #[test]
    fn limit_of_the_pod_counts_instead_of_its_containers() {
        let limits = json!({ "limits": { "cpu": "700m" } });
        let spec = json!({ "containers": [container("1"), { "name": "y" }], "resources": limits });
        assert_eq!(of_pod(spec), 700);
    }

    #[rstest::rstest]
    #[case::none_said(json!({ "name": "y" }))]
    #[case::of_memory_only(json!({ "name": "y", "resources": { "limits": { "memory": "1Gi" } } }))]
    #[case::nothing(container("0"))]
    #[case::no_quantity(container("much"))]
    fn container_without_a_limit_is_a_core(#[case] other: Value) {
        assert_eq!(of_pod(json!({ "containers": [container("0.5"), other] })), 1_500);
        assert_eq!(
            of_pod(json!({ "containers": [container("0.5")], "initContainers": [other] })),
            1_000
        );
    }

    #[rstest::rstest]
    #[case::more_than_a_core("2500m", 2_500)]
    #[case::less("100m", 1_000)]
    fn container_without_a_limit_is_what_it_asks_for_and_a_core_at_least(#[case] cpu: &str, #[case] milli: u64) {
        let asks = json!({ "name": "x", "resources": { "requests": { "cpu": cpu } } });
        assert_eq!(of_pod(json!({ "containers": [asks] })), milli);
    }
}
