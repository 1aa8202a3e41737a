//! How much processor a Pod can use at most, by its limits. Pure.

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use kerbside_core::quantity::Quantity;

/// Thousandths of a core; `None`: nothing limits it.
///
/// Containers run side by side, and with them the init containers that go on; the other init containers run before, one at a time.
pub(super) fn milli_cpu(spec: &PodSpec) -> Option<u64> {
    if let Some(whole) = spec.resources.as_ref().and_then(limit) {
        return Some(whole);
    }
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let goes_on = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let (sidecars, first): (Vec<&Container>, Vec<&Container>) = init.iter().partition(goes_on);
    let sidecars = sum(sidecars)?;
    let containers = sum(&spec.containers)?;
    let mut most = containers;
    for container in first {
        most = most.max(of(container)?);
    }
    Some(most.saturating_add(sidecars))
}

fn sum<'a>(containers: impl IntoIterator<Item = &'a Container>) -> Option<u64> {
    let mut limits = containers.into_iter().map(of);
    limits.try_fold(0_u64, |sum, limit| Some(sum.saturating_add(limit?)))
}

fn of(container: &Container) -> Option<u64> {
    container.resources.as_ref().and_then(limit)
}

/// A limit of nothing limits nothing.
fn limit(resources: &ResourceRequirements) -> Option<u64> {
    let cpu: Quantity = resources.limits.as_ref()?.get("cpu")?.0.parse().ok()?;
    u64::try_from(cpu.millis()).ok().filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn container(cpu: &str) -> Value {
        json!({ "name": "x", "resources": { "limits": { "cpu": cpu } } })
    }

    fn of_pod(spec: Value) -> Option<u64> {
        milli_cpu(&serde_json::from_value(spec).unwrap())
    }

    #[test]
    fn containers_count_together_and_init_containers_one_at_a_time() {
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let (small, big) = (container("1"), container("3500m"));
        let two = json!([container("0.5"), container("1500m")]);
        assert_eq!(of_pod(json!({ "containers": two })), Some(2_000));
        assert_eq!(
            of_pod(json!({ "containers": two, "initContainers": [small, sidecar] })),
            Some(2_100)
        );
        assert_eq!(
            of_pod(json!({ "containers": two, "initContainers": [big, sidecar] })),
            Some(3_600)
        );
    }

    #[test]
    fn limit_of_the_pod_counts_instead_of_its_containers() {
        let limits = json!({ "limits": { "cpu": "700m" } });
        let spec = json!({ "containers": [container("1"), { "name": "y" }], "resources": limits });
        assert_eq!(of_pod(spec), Some(700));
    }

    #[rstest::rstest]
    #[case::none_said(json!({ "name": "y" }))]
    #[case::of_memory_only(json!({ "name": "y", "resources": { "limits": { "memory": "1Gi" } } }))]
    #[case::nothing(container("0"))]
    #[case::no_quantity(container("much"))]
    fn one_container_without_a_limit_is_none_for_all(#[case] other: Value) {
        assert_eq!(of_pod(json!({ "containers": [container("1"), other] })), None);
        assert_eq!(
            of_pod(json!({ "containers": [container("1")], "initContainers": [other] })),
            None
        );
    }
}
