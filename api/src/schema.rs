//! Pieces of schema that more than one kind uses, and the rewriting of a derived schema into what the API server takes.
//!
//! Called by the types of `v1alpha1` (fragments) and by `crd` (`finish`). A schema must stay as narrow as the Rust type
//! it stands for: what the API server accepts has to deserialize.

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// A DNS label. Its length is bounded beside it.
pub(crate) const DNS_LABEL: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A domain, a slash and a path, as `managedBy` of batch/v1.
pub(crate) const DOMAIN_PATH: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9/_.-]+$";

/// A price: no sign, no exponent, so that it never has to go through a float.
pub(crate) const DECIMAL: &str = "^[0-9]{1,9}([.][0-9]{1,9})?$";

/// A Kubernetes quantity. Besides the form it bounds nothing: limits are the business of the field.
const QUANTITY: &str =
    "^[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?([0-9]+([.][0-9]*)?|[.][0-9]+))?$";

/// A label or taint key: an optional DNS subdomain and a name.
const QUALIFIED_NAME: &str = "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";

/// A label value.
const LABEL_VALUE: &str = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$";

/// Keys that are Kubernetes' or ours to write on a Node. The bare `type` marks a virtual node.
const RESERVED: &str = "^(type|([^/]*[.])?(kubernetes[.]io|k8s[.]io|kerbside[.]dev)/.*)$";

/// Labels that a pool gives to Nodes.
pub(crate) fn label_map(_: &mut SchemaGenerator) -> Schema {
    Schema::try_from(json!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {"type": "string", "maxLength": 63, "pattern": LABEL_VALUE},
        "x-kubernetes-validations": [
            rule(
                &format!("self.all(key, key.matches('{QUALIFIED_NAME}'))"),
                "a label key is a name of at most 63 characters, with an optional domain and '/' before it",
                "FieldValueInvalid",
            ),
            rule(
                &format!("!self.exists(key, key.matches('{RESERVED}'))"),
                "label keys under kubernetes.io, k8s.io and kerbside.dev, and 'type', belong to Kubernetes and \
                 Kerbside; use a domain of your own",
                "FieldValueForbidden",
            ),
        ],
    }))
    .expect("an object is a schema")
}

/// Taints that a pool gives to Nodes: Kubernetes' own type, with its rules, without the time that only the node
/// controller writes.
pub(crate) fn taints(generator: &mut SchemaGenerator) -> Schema {
    let mut item = inlined::<Taint>(generator);
    properties(&mut item).remove("timeAdded");
    extend(
        &mut item,
        "/properties/key",
        &json!({"minLength": 1, "maxLength": 317, "pattern": QUALIFIED_NAME}),
    );
    extend(
        &mut item,
        "/properties/value",
        &json!({"maxLength": 63, "pattern": LABEL_VALUE}),
    );
    extend(
        &mut item,
        "/properties/effect",
        &json!({"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]}),
    );
    extend(
        &mut item,
        "/properties/key",
        &json!({"x-kubernetes-validations": [rule(
            &format!("!self.matches('{RESERVED}')"),
            "taint keys under kubernetes.io, k8s.io and kerbside.dev, and 'type', belong to Kubernetes and Kerbside; \
             use a domain of your own",
            "FieldValueForbidden",
        )]}),
    );
    Schema::try_from(json!({
        "type": "array",
        "maxItems": 16,
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["key", "effect"],
    }))
    .expect("an object is a schema")
}

/// A label selector whose operators are checked when it is written, not when it is first used.
pub(crate) fn optional_label_selector(generator: &mut SchemaGenerator) -> Schema {
    let mut selector = inlined::<LabelSelector>(generator);
    extend(&mut selector, "", &json!({"x-kubernetes-map-type": "atomic"}));
    extend(&mut selector, "/properties/matchLabels", &json!({"maxProperties": 16}));
    extend(
        &mut selector,
        "/properties/matchLabels/additionalProperties",
        &json!({"maxLength": 63, "pattern": LABEL_VALUE}),
    );
    extend(&mut selector, "/properties/matchExpressions", &json!({"maxItems": 16}));
    let requirement = "/properties/matchExpressions/items";
    extend(
        &mut selector,
        requirement,
        &json!({"x-kubernetes-validations": [rule(
            "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || \
             size(self.values) == 0",
            "operators In and NotIn need values; Exists and DoesNotExist take none",
            "FieldValueInvalid",
        )]}),
    );
    extend(
        &mut selector,
        &format!("{requirement}/properties/operator"),
        &json!({"enum": ["In", "NotIn", "Exists", "DoesNotExist"]}),
    );
    extend(
        &mut selector,
        &format!("{requirement}/properties/key"),
        &json!({"maxLength": 317, "pattern": QUALIFIED_NAME}),
    );
    extend(
        &mut selector,
        &format!("{requirement}/properties/values"),
        &json!({"maxItems": 32}),
    );
    extend(
        &mut selector,
        &format!("{requirement}/properties/values/items"),
        &json!({"maxLength": 63, "pattern": LABEL_VALUE}),
    );
    Schema::try_from(selector).expect("an object is a schema")
}

/// A CEL rule as it stands in a schema.
pub(crate) fn rule(rule: &str, message: &str, reason: &str) -> Value {
    json!({"rule": rule, "message": message, "reason": reason})
}

/// The schema of a Kubernetes type without references, whatever the settings of the generator it is asked for with.
pub(crate) fn inlined<T: JsonSchema>(_: &mut SchemaGenerator) -> Value {
    let settings = schemars::generate::SchemaSettings::openapi3().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    let mut value = settings.into_generator().into_root_schema_for::<T>().to_value();
    value
        .as_object_mut()
        .expect("a Kubernetes type is an object")
        .remove("title");
    value
}

/// The properties of an object schema.
pub(crate) fn properties(schema: &mut Value) -> &mut Map<String, Value> {
    schema
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .expect("a Kubernetes object type has properties")
}

/// Adds `keywords` to the schema at `pointer`.
pub(crate) fn extend(schema: &mut Value, pointer: &str, keywords: &Value) {
    let node = schema
        .pointer_mut(pointer)
        .and_then(Value::as_object_mut)
        .expect("the pinned k8s-openapi has the field; the CRD tests run every call");
    for (keyword, value) in keywords.as_object().expect("keywords are an object") {
        node.insert(keyword.clone(), value.clone());
    }
}

/// Calls `visit` on a schema and on every schema in it, parents first.
pub(crate) fn walk(schema: &mut Value, visit: &mut impl FnMut(&mut Map<String, Value>)) {
    let Some(node) = schema.as_object_mut() else { return };
    visit(node);
    if let Some(children) = node.get_mut("properties").and_then(Value::as_object_mut) {
        children.values_mut().for_each(|child| walk(child, visit));
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(keyword) {
            walk(child, visit);
        }
    }
}

/// Rewrites a derived schema into the form that the API server, kubectl and readers of the file do best with.
pub(crate) fn finish(schema: &mut Value) {
    walk(schema, &mut |node| {
        // Without `nullable`, the API server drops a null and puts the default in its place: what people mean by it.
        node.remove("nullable");
        node.remove("title");
        if node.get("default").is_some_and(Value::is_null) {
            node.remove("default");
        }
        finish_number(node);
        finish_quantities(node);
        if let Some(Value::String(text)) = node.get_mut("description") {
            *text = paragraphs(text);
        }
    });
}

/// Bounds as integers where they are, and only formats that OpenAPI knows: the API server warns about others, and does
/// not check them.
fn finish_number(node: &mut Map<String, Value>) {
    for keyword in ["minimum", "maximum"] {
        let integral = node.get(keyword).and_then(Value::as_f64).and_then(integer);
        if let Some(bound) = integral {
            node.insert(keyword.to_owned(), bound.into());
        }
    }
    let format = match node.get("format").and_then(Value::as_str) {
        Some("uint8" | "uint16") => "int32",
        Some("uint32")
            if node
                .get("maximum")
                .and_then(Value::as_i64)
                .is_some_and(|max| max <= i32::MAX.into()) =>
        {
            "int32"
        }
        Some("uint32") => {
            node.insert("maximum".to_owned(), u32::MAX.into());
            "int64"
        }
        Some("uint64" | "uint") => "int64",
        _ => return,
    };
    node.insert("format".to_owned(), format.into());
}

/// The integer that a bound is, if it is one that a float holds exactly.
pub(crate) fn integer(bound: f64) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole and within the range in which floats are exact"
    )]
    (bound.fract() == 0.0 && bound.abs() <= EXACT).then_some(bound as i64)
}

/// Gives quantities their pattern. In the types that we use, an int-or-string called `port` is the other thing: a
/// port's number or name.
fn finish_quantities(node: &mut Map<String, Value>) {
    let is_either = |schema: &Value| schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    if let Some(values) = node.get_mut("additionalProperties").filter(|v| is_either(v)) {
        extend(
            values,
            "",
            &json!({"pattern": QUANTITY, "description": "A Kubernetes quantity."}),
        );
    }
    let Some(properties) = node.get_mut("properties").and_then(Value::as_object_mut) else {
        return;
    };
    for (name, property) in properties {
        if !is_either(property) {
            continue;
        }
        if name == "port" {
            // The type reads no more than 32 bits; a port has 16.
            extend(property, "", &json!({"minimum": 1, "maximum": 65_535}));
        } else {
            extend(property, "", &json!({"pattern": QUANTITY}));
        }
    }
}

/// Doc comments are broken into lines for the width of the source; only an empty line means a new paragraph.
fn paragraphs(text: &str) -> String {
    let paragraphs = text
        .split("\n\n")
        .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    paragraphs.filter(|p| !p.is_empty()).collect::<Vec<_>>().join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finish_of_an_unsigned_number_gives_a_known_format_and_its_bound() {
        let mut schema = json!({"type": "object", "properties": {
            "small": {"type": "integer", "format": "uint32", "minimum": 0.0, "maximum": 100.0},
            "large": {"type": "integer", "format": "uint32", "minimum": 0.0},
        }});
        finish(&mut schema);
        let small = json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": 100});
        assert_eq!(schema["properties"]["small"], small);
        let large = json!({"type": "integer", "format": "int64", "minimum": 0, "maximum": 4_294_967_295_u32});
        assert_eq!(schema["properties"]["large"], large);
    }

    #[test]
    fn finish_of_a_broken_comment_joins_lines_and_keeps_paragraphs() {
        assert_eq!(paragraphs("one\ntwo\n\nthree\n"), "one two\n\nthree");
    }

    #[test]
    fn finish_of_an_optional_field_drops_nullable_and_null_defaults() {
        let mut schema =
            json!({"type": "object", "properties": {"a": {"type": "string", "nullable": true, "default": null}}});
        finish(&mut schema);
        assert_eq!(schema["properties"]["a"], json!({"type": "string"}));
    }
}
