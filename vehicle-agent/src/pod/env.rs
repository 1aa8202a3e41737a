//! A container's environment, and the `$(NAME)` in its command and arguments, by the kubelet's rules.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{EnvVar, Pod};

/// The environment in the order of the Pod. `Err`: which variable cannot be given, and why.
pub(super) fn environment(vars: &[EnvVar], pod: &Pod) -> Result<Vec<(String, String)>, String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    let mut order: Vec<String> = Vec::new();
    for var in vars {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) => expand(value, &known),
            (None, None) => String::new(),
            (None, Some(source)) => {
                let Some(field) = &source.field_ref else {
                    return Err(format!(
                        "env {}: only literal values and fieldRef are given to programs in vehicles yet",
                        var.name
                    ));
                };
                self::field(&field.field_path, pod).ok_or_else(|| {
                    format!(
                        "env {}: fieldRef {} is not known in a vehicle",
                        var.name, field.field_path
                    )
                })?
            }
        };
        if known.insert(var.name.clone(), value).is_none() {
            order.push(var.name.clone());
        }
    }
    Ok(order
        .into_iter()
        .map(|name| (known.remove(&name).unwrap_or_default(), name))
        .map(|(v, n)| (n, v))
        .collect())
}

fn field(path: &str, pod: &Pod) -> Option<String> {
    let metadata = &pod.metadata;
    let spec = pod.spec.as_ref();
    let of = |map: Option<&BTreeMap<String, String>>, key: &str| {
        Some(map.and_then(|map| map.get(key)).cloned().unwrap_or_default())
    };
    if let Some((map, key)) = subscript(path) {
        return match map {
            "metadata.labels" => of(metadata.labels.as_ref(), key),
            "metadata.annotations" => of(metadata.annotations.as_ref(), key),
            _ => None,
        };
    }
    let lines = |map: Option<&BTreeMap<String, String>>| {
        let mut text = String::new();
        for (key, value) in map.into_iter().flatten() {
            writeln!(text, "{key}={value:?}").expect("writing to a String cannot fail");
        }
        Some(text.trim_end().to_owned())
    };
    match path {
        "metadata.name" => metadata.name.clone(),
        "metadata.namespace" => metadata.namespace.clone(),
        "metadata.uid" => metadata.uid.clone(),
        "metadata.labels" => lines(metadata.labels.as_ref()),
        "metadata.annotations" => lines(metadata.annotations.as_ref()),
        "spec.nodeName" => spec?.node_name.clone(),
        "spec.serviceAccountName" => spec?.service_account_name.clone(),
        _ => None,
    }
}

/// `metadata.labels['key']` → (`metadata.labels`, `key`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.split_once('[')?;
    let key = key.strip_suffix(']')?;
    let key = key.strip_prefix('\'').and_then(|key| key.strip_suffix('\''))?;
    Some((map, key))
}

/// Replaces `$(NAME)`. A name that is not known stays as it is; `$$` is `$`.
pub(super) fn expand(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match known.get(name) {
                Some(value) => out.push_str(value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("plain", "plain")]
    #[case("--index=$(INDEX)", "--index=7")]
    #[case("$(INDEX)$(INDEX)", "77")]
    #[case("$(NOT_KNOWN)", "$(NOT_KNOWN)")]
    #[case("$$(INDEX)", "$(INDEX)")]
    #[case("$$$(INDEX)", "$7")]
    #[case("costs 5$", "costs 5$")]
    #[case("$(INDEX", "$(INDEX")]
    #[case("$INDEX", "$INDEX")]
    fn text_is_expanded_as_the_kubelet_does(#[case] text: &str, #[case] expected: &str) {
        assert_eq!(
            expand(text, &BTreeMap::from([("INDEX".to_owned(), "7".to_owned())])),
            expected
        );
    }

    fn pod() -> Pod {
        serde_json::from_value(serde_json::json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"team": "vision"}, "annotations": {"a": "b\"c"}},
            "spec": {"nodeName": "car-x", "containers": []},
        }))
        .unwrap()
    }

    fn vars(json: serde_json::Value) -> Vec<EnvVar> {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn environment_keeps_its_order_and_later_values_see_earlier_ones() {
        let vars = vars(serde_json::json!([
            {"name": "Z", "value": "1"},
            {"name": "A", "value": "$(Z)$(LATER)"},
            {"name": "LATER", "value": "2"},
            {"name": "Z", "value": "3"},
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "TEAM", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}},
            {"name": "NONE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['none']"}}},
            {"name": "ALL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        ]));
        let environment = environment(&vars, &pod()).unwrap();
        let text: Vec<String> = environment
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(
            text,
            [
                "Z=3",
                "A=1$(LATER)",
                "LATER=2",
                "NAME=p",
                "TEAM=vision",
                "NONE=",
                "ALL=a=\"b\\\"c\"",
                "NODE=car-x"
            ]
        );
    }

    #[rstest]
    #[case(serde_json::json!({"secretKeyRef": {"name": "s", "key": "k"}}), "only literal values")]
    #[case(serde_json::json!({"configMapKeyRef": {"name": "s", "key": "k"}}), "only literal values")]
    #[case(serde_json::json!({"fieldRef": {"fieldPath": "status.hostIP"}}), "status.hostIP")]
    fn variable_that_cannot_be_given_is_named(#[case] source: serde_json::Value, #[case] says: &str) {
        let vars = vars(serde_json::json!([{"name": "X", "valueFrom": source}]));
        let message = environment(&vars, &pod()).unwrap_err();
        assert!(message.starts_with("env X") && message.contains(says), "{message}");
    }
}
