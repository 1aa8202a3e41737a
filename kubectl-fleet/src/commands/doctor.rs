//! `kubectl fleet doctor`: looks for what will go wrong in this cluster, and says what to do.
//!
//! The checks themselves are pure; this file reads what they need. With `--fix` it patches DaemonSets and nothing else.

use std::io::Write;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, Toleration};
use kerbside_core::names;
use kerbside_k8s::client::ConnectError;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

use crate::Error;
use crate::cli::Doctor;

/// Label by which a DaemonSet asks to run on vehicles.
const OPT_IN: &str = "kerbside.dev/vehicles";

/// Runs every check and prints what it found, `unsupported` (the version, if it is) first; with `--fix` mends what can be mended.
pub async fn run(
    client: &Client,
    unsupported: Option<&ConnectError>,
    args: &Doctor,
    out: &mut impl Write,
) -> Result<(), Error> {
    let say = |out: &mut dyn Write, text: String| writeln!(out, "{text}").map_err(Error::Print);
    let mut found = 0_usize;
    let mut failed = None;
    if let Some(version) = unsupported {
        found += 1;
        say(
            out,
            format!("{version}; its programs end at their start here, and the checks below may be wrong"),
        )?;
    }
    let sets: Api<DaemonSet> = Api::all(client.clone());
    for set in sets
        .list(&ListParams::default())
        .await
        .map_err(Error::api("list the DaemonSets"))?
    {
        if !comes_to_vehicles(&set) {
            continue;
        }
        found += 1;
        let (namespace, name) = (set.namespace().unwrap_or_default(), set.name_any());
        say(
            out,
            format!(
                "DaemonSet {namespace}/{name} would come to every car, and its rollout would wait for cars that are away"
            ),
        )?;
        if args.fix {
            let api: Api<DaemonSet> = Api::namespaced(client.clone(), &namespace);
            let patch = Patch::Merge(keep_away(&set));
            match api.patch(&name, &PatchParams::default(), &patch).await {
                Ok(_) => say(out, "  patched: it stays off vehicles".into())?,
                // The others are looked at all the same.
                Err(error) => {
                    say(out, format!("  not patched: {error}"))?;
                    let verb = format!("patch the DaemonSet {namespace}/{name}");
                    failed = failed.or(Some(Error::api(verb)(error)));
                }
            }
        } else {
            say(
                out,
                format!("  run 'kubectl fleet doctor --fix', or label it {OPT_IN}=true if it should come"),
            )?;
        }
    }
    let nodes: Api<Node> = Api::all(client.clone());
    let vehicles = ListParams::default().labels(&format!("type={}", names::NODE_TYPE));
    for node in nodes
        .list(&vehicles)
        .await
        .map_err(Error::api("list the vehicles' Nodes"))?
    {
        if node
            .spec
            .as_ref()
            .is_some_and(|s| s.pod_cidr.as_deref().is_some_and(|c| !c.is_empty()))
        {
            found += 1;
            say(
                out,
                format!(
                    "Node {} was given a podCIDR: each car takes a range from the cluster's; start kube-controller-manager with \
                     --allocate-node-cidrs=false, or use a network plugin with its own address management",
                    node.name_any()
                ),
            )?;
        }
    }
    if found == 0 {
        say(out, "nothing found".into())?;
    }
    failed.map_or(Ok(()), Err)
}

/// Whether kube's DaemonSet controller would put this set's Pods on vehicles.
fn comes_to_vehicles(set: &DaemonSet) -> bool {
    let opted_in = set.labels().get(OPT_IN).is_some_and(|v| v == "true");
    let Some(spec) = set.spec.template.spec.as_ref() else {
        return false;
    };
    let tolerates = spec.tolerations.iter().flatten().any(tolerates_vehicle);
    let selects_others = spec
        .node_selector
        .iter()
        .flatten()
        .any(|(k, v)| k == "type" && v != names::NODE_TYPE);
    let terms = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .map(|r| r.node_selector_terms.as_slice())
        .unwrap_or_default();
    // Terms are alternatives, and one without requirements matches no Node: the set stays away only if none lets vehicles in.
    let excluded = !terms.is_empty() && terms.iter().all(|t| is_empty(t) || excludes_vehicles(t));
    tolerates && !opted_in && !excluded && !selects_others
}

/// Whether no Node matches the term, as in kube-scheduler.
fn is_empty(term: &NodeSelectorTerm) -> bool {
    let none = |list: &Option<Vec<NodeSelectorRequirement>>| list.as_ref().is_none_or(Vec::is_empty);
    none(&term.match_expressions) && none(&term.match_fields)
}

/// Whether a vehicle's Node, whose label `type` says what it is, cannot match the term.
fn excludes_vehicles(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.iter().flatten().any(|e| {
        let named = e.values.iter().flatten().any(|v| v == names::NODE_TYPE);
        e.key == "type"
            && match e.operator.as_str() {
                "NotIn" => named,
                "In" => !named,
                "DoesNotExist" => true,
                _ => false,
            }
    })
}

fn tolerates_vehicle(t: &Toleration) -> bool {
    let effect = t.effect.as_deref().is_none_or(|e| e.is_empty() || e == "NoSchedule");
    let key = t.key.as_deref().unwrap_or_default();
    effect && (key == names::taint::VEHICLE || (key.is_empty() && t.operator.as_deref() == Some("Exists")))
}

/// A merge patch that adds the requirement to every term. Lists are replaced whole by a merge patch, so all terms are in it.
fn keep_away(set: &DaemonSet) -> Value {
    let requirement = NodeSelectorRequirement {
        key: "type".into(),
        operator: "NotIn".into(),
        values: Some(vec![names::NODE_TYPE.into()]),
    };
    let affinity = set.spec.template.spec.as_ref().and_then(|s| s.affinity.as_ref());
    let mut terms = affinity
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
        .map(|r| r.node_selector_terms.clone())
        .unwrap_or_default();
    // One that matches nothing must not come to match every other Node.
    for term in terms.iter_mut().filter(|t| !is_empty(t)) {
        term.match_expressions.get_or_insert_default().push(requirement.clone());
    }
    if terms.is_empty() {
        terms.push(NodeSelectorTerm {
            match_expressions: Some(vec![requirement]),
            match_fields: None,
        });
    }
    let required = json!({ "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } });
    json!({ "spec": { "template": { "spec": { "affinity": { "nodeAffinity": required } } } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(labels: &Value, spec: &Value) -> DaemonSet {
        serde_json::from_value(json!({
            "metadata": {"name": "proxy", "namespace": "kube-system", "labels": labels},
            "spec": {"selector": {}, "template": {"spec": spec}}
        }))
        .unwrap()
    }

    fn tolerate_all(affinity: &Value) -> Value {
        json!({"containers": [], "tolerations": [{"operator": "Exists"}], "affinity": affinity})
    }

    #[test]
    fn set_that_tolerates_everything_comes_until_it_is_patched() {
        let before = set(&json!({}), &tolerate_all(&json!({})));
        assert!(comes_to_vehicles(&before));
        let affinity = keep_away(&before)["spec"]["template"]["spec"]["affinity"].clone();
        assert!(!comes_to_vehicles(&set(&json!({}), &tolerate_all(&affinity))));
    }

    #[test]
    fn requirement_goes_into_every_alternative() {
        let two = terms(&json!([
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
            {"matchExpressions": [{"key": "b", "operator": "Exists"}]},
        ]));
        let before = set(&json!({}), &tolerate_all(&two));
        assert!(comes_to_vehicles(&before));
        let affinity = keep_away(&before)["spec"]["template"]["spec"]["affinity"].clone();
        let after = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(after.as_array().unwrap().len(), 2);
        assert!(!comes_to_vehicles(&set(&json!({}), &tolerate_all(&affinity))));
    }

    fn terms(terms: &Value) -> Value {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
    }

    #[rstest::rstest]
    #[case::no_node_matches(json!([{}]))]
    #[case::other_types(json!([{"matchExpressions": [{"key": "type", "operator": "In", "values": ["gpu"]}]}]))]
    #[case::untyped(json!([{"matchExpressions": [{"key": "type", "operator": "DoesNotExist"}]}, {}]))]
    fn set_that_cannot_come_is_not_named(#[case] alternatives: Value) {
        assert!(!comes_to_vehicles(&set(
            &json!({}),
            &tolerate_all(&terms(&alternatives))
        )));
    }

    #[test]
    fn alternative_that_matches_nothing_stays_so() {
        let some = json!([{}, {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]);
        let patch = keep_away(&set(&json!({}), &tolerate_all(&terms(&some))));
        let affinity = &patch["spec"]["template"]["spec"]["affinity"];
        let after = &affinity["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
        assert_eq!(after[0], json!({}));
        assert_eq!(after[1]["matchExpressions"].as_array().map(Vec::len), Some(2));
    }

    #[test]
    fn set_that_opted_in_or_does_not_tolerate_is_left_alone() {
        assert!(!comes_to_vehicles(&set(
            &json!({"kerbside.dev/vehicles": "true"}),
            &tolerate_all(&json!({}))
        )));
        assert!(!comes_to_vehicles(&set(&json!({}), &json!({"containers": []}))));
    }
}
