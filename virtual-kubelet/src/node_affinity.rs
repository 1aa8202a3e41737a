//! Whether a Node is one that a Pod asks for: `nodeSelector` and what its node affinity requires, as the kubelet judges them.
//!
//! Called by the admission: a Pod that somebody bound by hand has been judged by no scheduler. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

/// The only field of a Node that a term may name.
const NAME: &str = "metadata.name";

/// What the Pod asks for and the Node has not, for people; `Ok`: the Node is one of those.
///
/// The labels are the Node's own, as the watch shows them: the adapter follows its Nodes with all that others wrote on them, and its
/// own writes are in the copy as soon as they are answered. So a label of an admin counts here as it counts for the scheduler. What
/// the adapter would write next does not count, since no scheduler can have seen it.
pub(crate) fn check(spec: &PodSpec, node: &Node) -> Result<(), String> {
    let empty = BTreeMap::new();
    let labels = node.metadata.labels.as_ref().unwrap_or(&empty);
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let selector = spec.node_selector.iter().flatten();
    for (key, value) in selector {
        if labels.get(key) != Some(value) {
            return Err(format!("the Node has no label {key}={value}"));
        }
    }
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    match required {
        // Without any term nothing matches, as everywhere in Kubernetes.
        Some(required) if !required.node_selector_terms.iter().any(|t| term(t, labels, name)) => {
            Err("the Node meets none of the terms that the Pod's node affinity requires".to_owned())
        }
        _ => Ok(()),
    }
}

/// Every requirement of the term is met; an empty term matches no Node.
fn term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, name: &str) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if expressions.is_empty() && fields.is_empty() {
        return false;
    }
    let label = |r: &NodeSelectorRequirement| requirement(r, labels.get(&r.key).map(String::as_str));
    let field = |r: &NodeSelectorRequirement| {
        r.key == NAME && matches!(r.operator.as_str(), "In" | "NotIn") && requirement(r, Some(name))
    };
    expressions.iter().all(label) && fields.iter().all(field)
}

/// An operator that is not known, or a number that is none, is not met.
fn requirement(requirement: &NodeSelectorRequirement, found: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = || found.is_some_and(|found| values.iter().any(|v| v == found));
    let numbers = || Some((found?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => numbers().is_some_and(|(found, bound)| found > bound),
        "Lt" => numbers().is_some_and(|(found, bound)| found < bound),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        serde_json::from_value(json!({"metadata": {"name": "car-a", "labels": {
            "kerbside.dev/pool": "overnight", "kerbside.dev/free-for": "120", "example.com/depot": "north",
        }}}))
        .unwrap()
    }

    fn matches(spec: &Value) -> bool {
        let mut whole = json!({"containers": []});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        check(&serde_json::from_value(whole).unwrap(), &node()).is_ok()
    }

    fn required(terms: &Value) -> bool {
        matches(&json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        }}}))
    }

    #[rstest::rstest]
    #[case::nothing(json!({}), true)]
    #[case::label_of_the_adapter(json!({"kerbside.dev/pool": "overnight"}), true)]
    #[case::label_of_somebody_else(json!({"example.com/depot": "north"}), true)]
    #[case::another_value(json!({"example.com/depot": "south"}), false)]
    #[case::one_of_two(json!({"kerbside.dev/pool": "overnight", "gpu": "true"}), false)]
    fn selector_is_met_by_all_its_labels(#[case] selector: Value, #[case] met: bool) {
        assert_eq!(matches(&json!({"nodeSelector": selector})), met);
    }

    #[rstest::rstest]
    #[case::in_("example.com/depot", "In", json!(["south", "north"]), true)]
    #[case::in_none("example.com/depot", "In", json!(["south"]), false)]
    #[case::in_without_the_label("gpu", "In", json!(["true"]), false)]
    #[case::not_in("example.com/depot", "NotIn", json!(["south"]), true)]
    #[case::not_in_one("example.com/depot", "NotIn", json!(["north"]), false)]
    #[case::not_in_without_the_label("gpu", "NotIn", json!(["true"]), true)]
    #[case::exists("kerbside.dev/pool", "Exists", json!(null), true)]
    #[case::exists_not("gpu", "Exists", json!(null), false)]
    #[case::does_not_exist("gpu", "DoesNotExist", json!(null), true)]
    #[case::does_not_exist_but_does("kerbside.dev/pool", "DoesNotExist", json!(null), false)]
    #[case::greater("kerbside.dev/free-for", "Gt", json!(["60"]), true)]
    #[case::not_greater("kerbside.dev/free-for", "Gt", json!(["120"]), false)]
    #[case::less("kerbside.dev/free-for", "Lt", json!(["240"]), true)]
    #[case::not_less("kerbside.dev/free-for", "Lt", json!(["120"]), false)]
    #[case::greater_without_the_label("gpu", "Gt", json!(["1"]), false)]
    #[case::less_without_the_label("gpu", "Lt", json!(["1"]), false)]
    #[case::label_that_is_no_number("example.com/depot", "Gt", json!(["1"]), false)]
    #[case::bound_that_is_no_number("kerbside.dev/free-for", "Gt", json!(["x"]), false)]
    #[case::unknown_operator("kerbside.dev/pool", "Near", json!(["overnight"]), false)]
    fn expression_is_met_as_the_scheduler_reads_it(
        #[case] key: &str,
        #[case] operator: &str,
        #[case] values: Value,
        #[case] met: bool,
    ) {
        let expression = json!({"key": key, "operator": operator, "values": values});
        assert_eq!(required(&json!([{"matchExpressions": [expression]}])), met);
    }

    #[rstest::rstest]
    #[case::this_car("metadata.name", "In", "car-a", true)]
    #[case::another_car("metadata.name", "In", "car-b", false)]
    #[case::not_this_car("metadata.name", "NotIn", "car-a", false)]
    #[case::not_another_car("metadata.name", "NotIn", "car-b", true)]
    #[case::another_field("metadata.uid", "NotIn", "u", false)]
    #[case::another_operator("metadata.name", "Exists", "", false)]
    fn field_is_the_nodes_name(#[case] key: &str, #[case] operator: &str, #[case] value: &str, #[case] met: bool) {
        let field = json!({"key": key, "operator": operator, "values": [value]});
        assert_eq!(required(&json!([{"matchFields": [field]}])), met);
    }

    #[test]
    fn one_term_is_enough_and_within_it_everything_counts() {
        let (yes, no) = (
            json!({"key": "kerbside.dev/pool", "operator": "Exists"}),
            json!({"key": "gpu", "operator": "Exists"}),
        );
        assert!(required(
            &json!([{"matchExpressions": [no]}, {"matchExpressions": [yes]}])
        ));
        assert!(!required(&json!([{"matchExpressions": [yes, no]}])));
        let elsewhere = json!({"key": "metadata.name", "operator": "In", "values": ["car-b"]});
        assert!(!required(
            &json!([{"matchExpressions": [yes], "matchFields": [elsewhere]}])
        ));
        assert!(!required(&json!([{}])), "an empty term matches nothing");
        assert!(!required(&json!([])), "neither does none");
    }

    #[test]
    fn what_is_only_preferred_does_not_count() {
        let term = json!({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]});
        let preferred = json!([{"weight": 1, "preference": term}]);
        let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
        assert!(matches(&json!({"affinity": affinity})));
    }
}
