//! Whether the adapter lets a Pod go to a car: the pool's namespaces and trust, the class, the runtime, the volumes, the resources, the
//! Nodes that the Pod asks for.
//!
//! Called by the actor once per Pod, before `Run` is sent. Pure. The car judges again and by more; what is refused here would only cost
//! it the trip. Each refusal names the thing that is refused and what would be accepted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, Pod, PodSpec, ResourceRequirements, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use kerbside_api::v1alpha1::{Access, NamespacesFrom, Offer, Runtime, VehiclePoolSpec};
use kerbside_core::admission::{InitRequests, PodRequests, admit};
use kerbside_core::names::{RUNTIME_CLASS_CONTAINER, RUNTIME_CLASS_WASM, annotation, label, reason};
use kerbside_core::quantity::{QuantityError, Resources};
use kerbside_core::vehicle::{PodKind, Refusal};
use kube::core::{Selector, SelectorExt};

use crate::node_affinity;
use crate::pod_facts::annotation_of;

/// The class of a Pod that names none; no owner's profile accepts it.
const UNCLASSIFIED: &str = "unclassified";
const NAMESPACE_NOT_ALLOWED: &str = "NamespaceNotAllowed";
const NOT_TRUSTED: &str = "NotTrusted";
/// As the kubelet calls it.
const NODE_AFFINITY: &str = "NodeAffinity";

/// What a Pod is judged by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grounds<'a> {
    /// The vehicle's pool.
    pub pool: &'a VehiclePoolSpec,
    /// Of the Pod's namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// What the car gives now.
    pub offer: &'a Offer,
    /// Of the car.
    pub os: &'a str,
    /// At most so many Pods.
    pub max_pods: u32,
    /// What the other Pods on the vehicle use.
    pub used: &'a Resources,
    /// How many they are.
    pub pods: u32,
    /// The vehicle's Node as the watch shows it; None: it is not there, and what a Pod asks of it cannot be judged.
    pub node: Option<&'a Node>,
}

fn refuse<T>(reason: &str, message: String) -> Result<T, Refusal> {
    Err(Refusal {
        reason: reason.to_owned(),
        message,
    })
}

/// Whether the Pod may go to the car.
pub(crate) fn judge(pod: &Pod, kind: &PodKind, grounds: Grounds<'_>) -> Result<(), Refusal> {
    let Some(spec) = &pod.spec else {
        return refuse(reason::NOT_SUPPORTED, "the Pod has no spec".into());
    };
    namespace(pod, grounds)?;
    let class = class_of(pod, kind);
    if !grounds.offer.classes.iter().any(|c| c == class) {
        let message = format!("the owner does not accept jobs of class '{class}'");
        return refuse(reason::CLASS_NOT_ACCEPTED, message);
    }
    runtime(spec, grounds)?;
    host(spec)?;
    for volume in spec.volumes.iter().flatten() {
        self::volume(volume, grounds.pool)?;
    }
    for container in containers(spec) {
        environment(container, grounds.pool)?;
    }
    resources(spec, grounds)?;
    match grounds.node.map_or(Ok(()), |node| node_affinity::check(spec, node)) {
        Ok(()) => Ok(()),
        // In the kubelet's words, with what is amiss behind them.
        Err(why) => refuse(
            NODE_AFFINITY,
            format!(
                "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector: {why}"
            ),
        ),
    }
}

/// The Pod's job class.
pub(crate) fn class_of<'a>(pod: &'a Pod, kind: &PodKind) -> &'a str {
    let class = match kind {
        PodKind::FleetJob => annotation_of(pod, annotation::CLASS),
        PodKind::DaemonSet | PodKind::Other { .. } => pod
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(label::CLASS))
            .map(String::as_str),
    };
    class.unwrap_or(UNCLASSIFIED)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn namespace(pod: &Pod, grounds: Grounds<'_>) -> Result<(), Refusal> {
    let allowed = &grounds.pool.allowed_namespaces;
    let matches = match (allowed.from, &allowed.selector) {
        (NamespacesFrom::All, _) => true,
        (NamespacesFrom::Selector, None) => false,
        (NamespacesFrom::Selector, Some(selector)) => {
            // A selector that cannot be read selects nothing.
            Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(grounds.namespace_labels))
        }
    };
    if matches {
        return Ok(());
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    refuse(
        NAMESPACE_NOT_ALLOWED,
        format!("the vehicle's pool does not allow namespace '{namespace}'"),
    )
}

fn runtime(spec: &PodSpec, grounds: Grounds<'_>) -> Result<(), Refusal> {
    let needs = match spec.runtime_class_name.as_deref() {
        Some(RUNTIME_CLASS_WASM) => Runtime::Wasm,
        None | Some("" | RUNTIME_CLASS_CONTAINER) => Runtime::Container,
        Some(other) => {
            let message = format!("the vehicle knows no RuntimeClass '{other}'; use {RUNTIME_CLASS_WASM}");
            return refuse(reason::RUNTIME_MISSING, message);
        }
    };
    if !grounds.offer.runtimes.contains(&needs) {
        let message = match needs {
            Runtime::Wasm => "the vehicle does not run WebAssembly".to_owned(),
            Runtime::Container => {
                format!(
                    "the vehicle does not run containers; for WebAssembly set runtimeClassName: {RUNTIME_CLASS_WASM}"
                )
            }
        };
        return refuse(reason::RUNTIME_MISSING, message);
    }
    match spec.os.as_ref() {
        Some(os) if os.name != grounds.os => {
            let message = format!(
                "the Pod needs operating system '{}', the vehicle has '{}'",
                os.name, grounds.os
            );
            refuse("PodOSNotSupported", message)
        }
        _ => Ok(()),
    }
}

/// Nothing of a car's host is given away.
fn host(spec: &PodSpec) -> Result<(), Refusal> {
    let wants = [
        ("hostNetwork", spec.host_network == Some(true)),
        ("hostPID", spec.host_pid == Some(true)),
        ("hostIPC", spec.host_ipc == Some(true)),
        (
            "resourceClaims",
            spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()),
        ),
    ];
    if let Some((what, _)) = wants.iter().find(|(_, wanted)| *wanted) {
        return refuse(reason::NOT_SUPPORTED, format!("vehicles do not give {what}"));
    }
    let privileged = |c: &&Container| c.security_context.as_ref().is_some_and(|s| s.privileged == Some(true));
    match containers(spec).find(privileged) {
        Some(c) => refuse(
            reason::NOT_SUPPORTED,
            format!("container '{}' is privileged; no vehicle runs such", c.name),
        ),
        None => Ok(()),
    }
}

fn volume(volume: &Volume, pool: &VehiclePoolSpec) -> Result<(), Refusal> {
    let name = &volume.name;
    if volume.empty_dir.is_some() || volume.image.is_some() {
        return Ok(());
    }
    let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
    let (mut secret, mut token) = (volume.secret.is_some(), false);
    for source in sources {
        secret |= source.secret.is_some();
        token |= source.service_account_token.is_some();
    }
    if secret && pool.trust.secrets == Access::Deny {
        let message = format!("volume '{name}' has a Secret; the pool lets no Secret into a car (trust.secrets)");
        return refuse(NOT_TRUSTED, message);
    }
    if token && pool.trust.service_account_tokens == Access::Deny {
        let message = format!(
            "volume '{name}' has a ServiceAccount token; the pool lets none into a car (trust.serviceAccountTokens): set \
             automountServiceAccountToken: false"
        );
        return refuse(NOT_TRUSTED, message);
    }
    if volume.config_map.is_some()
        || volume.downward_api.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
    {
        return Ok(());
    }
    let kind = if volume.host_path.is_some() {
        "a hostPath"
    } else if volume.persistent_volume_claim.is_some() {
        "a persistentVolumeClaim"
    } else {
        "of a kind"
    };
    let message = format!(
        "volume '{name}' is {kind} that vehicles do not have; they have emptyDir, image, configMap, secret, downwardAPI and \
         projected volumes"
    );
    refuse(reason::NOT_SUPPORTED, message)
}

fn environment(container: &Container, pool: &VehiclePoolSpec) -> Result<(), Refusal> {
    let variables = container.env.iter().flatten().filter_map(|variable| {
        let secret = variable.value_from.as_ref()?.secret_key_ref.as_ref();
        secret.map(|_| variable.name.as_str())
    });
    let whole = container
        .env_from
        .iter()
        .flatten()
        .filter(|from| from.secret_ref.is_some());
    let first = variables.chain(whole.map(|_| "envFrom")).next();
    match first {
        Some(name) if pool.trust.secrets == Access::Deny => {
            let message = format!(
                "variable '{name}' of container '{}' is from a Secret; the pool lets none into a car (trust.secrets)",
                container.name
            );
            refuse(NOT_TRUSTED, message)
        }
        _ => Ok(()),
    }
}

fn resources(spec: &PodSpec, grounds: Grounds<'_>) -> Result<(), Refusal> {
    let unreadable = |e: QuantityError| Refusal {
        reason: reason::NOT_SUPPORTED.into(),
        message: e.to_string(),
    };
    let request = requests(spec).and_then(|r| r.effective()).map_err(unreadable)?;
    let mut allocatable = read(Some(&grounds.offer.allocatable)).map_err(unreadable)?;
    let most = kerbside_core::quantity::Quantity::from_units(grounds.max_pods.into());
    let pods = allocatable.0.entry("pods".into()).or_insert(most);
    *pods = (*pods).min(most);
    admit(&allocatable, grounds.used, grounds.pods, &request).map_err(|r| Refusal {
        message: r.status_message(),
        reason: r.reason,
    })
}

/// What the Pod takes from a vehicle; nothing if its quantities cannot be read, which the API server does not let happen.
pub(crate) fn usage(pod: &Pod) -> Resources {
    pod.spec
        .as_ref()
        .and_then(|spec| requests(spec).ok()?.effective().ok())
        .unwrap_or_default()
}

fn requests(spec: &PodSpec) -> Result<PodRequests, QuantityError> {
    let of = |r: Option<&ResourceRequirements>| read(r.and_then(|r| r.requests.as_ref()));
    Ok(PodRequests {
        containers: spec
            .containers
            .iter()
            .map(|c| of(c.resources.as_ref()))
            .collect::<Result<_, _>>()?,
        init_containers: spec
            .init_containers
            .iter()
            .flatten()
            .map(|c| {
                let sidecar = c.restart_policy.as_deref() == Some("Always");
                Ok(InitRequests {
                    requests: of(c.resources.as_ref())?,
                    sidecar,
                })
            })
            .collect::<Result<_, QuantityError>>()?,
        pod: spec.resources.as_ref().map(|r| of(Some(r))).transpose()?,
        overhead: read(spec.overhead.as_ref())?,
    })
}

fn read(quantities: Option<&BTreeMap<String, ApiQuantity>>) -> Result<Resources, QuantityError> {
    let pairs = quantities
        .into_iter()
        .flatten()
        .map(|(name, q)| Ok((name.clone(), q.0.parse()?)));
    Ok(Resources(pairs.collect::<Result<_, QuantityError>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pool(trust: &str) -> VehiclePoolSpec {
        serde_json::from_value(json!({
            "allowedNamespaces": {"from": "Selector", "selector": {"matchLabels": {"team": "vision"}}},
            "trust": {"secrets": trust, "serviceAccountTokens": trust},
        }))
        .unwrap()
    }

    fn offer() -> Offer {
        serde_json::from_value(json!({
            "allocatable": {"cpu": "2", "memory": "1Gi"}, "runtimes": ["wasm"], "arch": "arm64", "classes": ["inference"],
        }))
        .unwrap()
    }

    fn pod(spec: &Value) -> Pod {
        let mut whole = json!({
            "runtimeClassName": "kerbside-wasm",
            "containers": [{"name": "main", "resources": {"requests": {"cpu": "1"}}}],
        });
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "labels": {"kerbside.dev/class": "inference"}},
            "spec": whole,
        }))
        .unwrap()
    }

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "car-a", "labels": {"zone": "north"}}})).unwrap()
    }

    fn judged(pod: &Pod, trust: &str, team: &str) -> Result<(), Refusal> {
        let labels = BTreeMap::from([("team".to_owned(), team.to_owned())]);
        let (pool, offer, used) = (pool(trust), offer(), Resources::default());
        let node = node();
        let grounds = Grounds {
            pool: &pool,
            namespace_labels: &labels,
            offer: &offer,
            os: "linux",
            max_pods: 16,
            used: &used,
            pods: 0,
            node: Some(&node),
        };
        judge(pod, &PodKind::Other { owner: "o".into() }, grounds)
    }

    #[test]
    fn pod_that_fits_is_admitted() {
        let volumes = json!({"volumes": [
            {"name": "scratch", "emptyDir": {}}, {"name": "model", "image": {"reference": "reg/model:1"}},
        ]});
        assert_eq!(judged(&pod(&volumes), "Deny", "vision"), Ok(()));
    }

    #[test]
    fn pod_of_another_namespace_is_refused_by_its_name() {
        let refusal = judged(&pod(&json!({})), "Deny", "sales").unwrap_err();
        assert_eq!(refusal.reason, "NamespaceNotAllowed");
        assert!(refusal.message.contains("'ns'"));
    }

    #[test]
    fn pod_without_a_class_is_unclassified_and_refused() {
        let mut pod = pod(&json!({}));
        pod.metadata.labels = None;
        let refusal = judged(&pod, "Deny", "vision").unwrap_err();
        assert_eq!(refusal.reason, "ClassNotAccepted");
        assert!(refusal.message.contains("'unclassified'"));
    }

    #[rstest::rstest]
    #[case::no_runtime_class(json!({"runtimeClassName": null}), "RuntimeMissing", "kerbside-wasm")]
    #[case::unknown_runtime_class(json!({"runtimeClassName": "gvisor"}), "RuntimeMissing", "'gvisor'")]
    #[case::windows(json!({"os": {"name": "windows"}}), "PodOSNotSupported", "'windows'")]
    #[case::host_network(json!({"hostNetwork": true}), "NotSupported", "hostNetwork")]
    #[case::secret(json!({"volumes": [{"name": "keys", "secret": {"secretName": "s"}}]}), "NotTrusted", "'keys'")]
    #[case::token(
        json!({"volumes": [{"name": "kube-api-access", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]}),
        "NotTrusted",
        "automountServiceAccountToken: false"
    )]
    #[case::host_path(json!({"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}), "NotSupported", "'h' is a hostPath")]
    #[case::claim(
        json!({"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "c"}}]}),
        "NotSupported",
        "persistentVolumeClaim"
    )]
    #[case::host_path(json!({"volumes": [{"name": "c", "hostPath": {"path": "/"}}]}), "NotSupported", "hostPath")]
    #[case::too_big(
        json!({"containers": [{"name": "main", "resources": {"requests": {"cpu": "3"}}}]}),
        "OutOfcpu",
        "requested: 3000"
    )]
    #[case::secret_variable(
        json!({"containers": [{"name": "main", "env": [{"name": "K", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]}),
        "NotTrusted",
        "'K' of container 'main'"
    )]
    #[case::privileged(
        json!({"containers": [{"name": "main", "securityContext": {"privileged": true}}]}),
        "NotSupported",
        "privileged"
    )]
    #[case::selector(json!({"nodeSelector": {"zone": "south"}}), "NodeAffinity", "no label zone=south")]
    #[case::affinity(
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["north"]}]},
        ]}}}}),
        "NodeAffinity",
        "Predicate NodeAffinity failed"
    )]
    fn pod_that_a_car_must_not_have_is_refused_by_name(#[case] spec: Value, #[case] reason: &str, #[case] says: &str) {
        let refusal = judged(&pod(&spec), "Deny", "vision").unwrap_err();
        assert_eq!(refusal.reason, reason, "{}", refusal.message);
        assert!(refusal.message.contains(says), "{}", refusal.message);
    }

    #[test]
    fn secret_and_token_go_where_the_pool_allows_them_and_a_config_map_anywhere() {
        let secret = json!({"name": "keys", "secret": {"secretName": "s"}});
        let token = json!({"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}});
        let spec = json!({"volumes": [secret, token]});
        assert_eq!(judged(&pod(&spec), "Allow", "vision"), Ok(()));
        let map = json!({"volumes": [{"name": "c", "configMap": {"name": "c"}}]});
        assert_eq!(judged(&pod(&map), "Deny", "vision"), Ok(()));
    }

    #[test]
    fn class_of_a_fleet_job_is_its_annotation_and_of_others_their_label() {
        let mut pod = pod(&json!({}));
        pod.metadata.annotations = Some(BTreeMap::from([(
            "kerbside.dev/class".to_owned(),
            "training".to_owned(),
        )]));
        assert_eq!(class_of(&pod, &PodKind::FleetJob), "training");
        assert_eq!(class_of(&pod, &PodKind::Other { owner: String::new() }), "inference");
    }
}
