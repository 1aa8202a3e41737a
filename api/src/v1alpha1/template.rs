//! The schema of `FleetJob.spec.template`: Kubernetes' own PodTemplateSpec, inlined, bounded and shortened.
//!
//! Called when the CRD is made. The bounds are there because CEL rules over a template must have an estimated cost
//! within the API server's budget, and because a bound cannot be added later without refusing objects that exist.
//! Descriptions are cut to their first sentence, since the whole CRD has to fit the 256 KiB of annotations that a
//! client-side `kubectl apply` may write.

use k8s_openapi::api::core::v1::PodTemplateSpec;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::schema::{extend, inlined, properties, rule, walk};

/// Most containers, init containers and volumes each.
const MAX_PARTS: u32 = 32;
/// Most environment variables of one container.
const MAX_ENV: u32 = 256;
/// Most ports of one container.
const MAX_PORTS: u32 = 64;
/// Longest image reference, in characters.
const MAX_IMAGE: u32 = 1024;

/// The schema of the field `template`.
pub(crate) fn schema(generator: &mut SchemaGenerator) -> Schema {
    let mut template = inlined::<PodTemplateSpec>(generator);
    walk(&mut template, &mut |node| {
        if let Some(Value::String(text)) = node.get_mut("description") {
            *text = first_sentence(text).to_owned();
        }
        if let Some(properties) = node.get_mut("properties").and_then(Value::as_object_mut) {
            restrict_metadata(properties);
        }
    });
    restrict_pod(&mut template);
    Schema::try_from(template).expect("an object is a schema")
}

/// Metadata of a template: what reaches a Pod. Other fields of ObjectMeta would be accepted and lost.
fn restrict_metadata(properties: &mut Map<String, Value>) {
    let is_object_meta = |schema: &Value| schema.pointer("/properties/managedFields").is_some();
    let Some(metadata) = properties.get_mut("metadata").filter(|m| is_object_meta(m)) else {
        return;
    };
    *metadata = json!({
        "description": "Labels and annotations, passed on unchanged.",
        "type": "object",
        "properties": {
            "annotations": {
                "description": "Unstructured text for tools, by key.",
                "type": "object",
                "additionalProperties": {"type": "string"},
            },
            "labels": {
                "description": "Labels to select by.",
                "type": "object",
                "additionalProperties": {"type": "string"},
            },
        },
    });
}

fn restrict_pod(template: &mut Value) {
    extend(template, "", &json!({"required": ["spec"]}));
    let pod = template
        .pointer_mut("/properties/spec")
        .expect("a PodTemplateSpec has a spec");
    // Can only be added to a running Pod; the API server refuses a new Pod with them.
    properties(pod).remove("ephemeralContainers");

    extend(pod, "/properties/containers", &json!({"minItems": 1}));
    for list in ["containers", "initContainers"] {
        let list = format!("/properties/{list}");
        extend(pod, &list, &keyed(MAX_PARTS, &["name"]));
        let container = format!("{list}/items/properties");
        extend(pod, &format!("{container}/image"), &json!({"maxLength": MAX_IMAGE}));
        extend(pod, &format!("{container}/env"), &keyed(MAX_ENV, &["name"]));
        extend(
            pod,
            &format!("{container}/ports"),
            &keyed(MAX_PORTS, &["containerPort", "protocol"]),
        );
        // A key of the list must be there; Kubernetes' own default puts it there.
        extend(
            pod,
            &format!("{container}/ports/items/properties/protocol"),
            &json!({"default": "TCP"}),
        );
        extend(
            pod,
            &format!("{container}/volumeMounts"),
            &keyed(MAX_ENV, &["mountPath"]),
        );
        extend(
            pod,
            &format!("{container}/volumeDevices"),
            &keyed(MAX_ENV, &["devicePath"]),
        );
    }
    extend(pod, "/properties/volumes", &keyed(MAX_PARTS, &["name"]));

    extend(
        pod,
        "/properties/restartPolicy",
        &json!({
            "description": "Never, which is the default here: a failed program is tried again as a new attempt.",
            "default": "Never",
            "x-kubernetes-validations": [rule(
                "self == 'Never'",
                "restartPolicy must be Never: a failed program is tried again as a new attempt, up to \
                 backoffLimitPerIndex times",
                "FieldValueInvalid",
            )],
        }),
    );
}

/// A list of at most `max` items, each with a key of its own, so that appliers can own items instead of the whole list.
fn keyed(max: u32, keys: &[&str]) -> Value {
    json!({"maxItems": max, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys})
}

/// The text up to the end of its first sentence.
fn first_sentence(text: &str) -> &str {
    let paragraph = text.split("\n\n").next().unwrap_or(text).trim();
    let ends = paragraph.match_indices(". ").find(|(at, _)| {
        let (before, after) = (&paragraph[..*at], &paragraph[at + 2..]);
        let abbreviation = ["e.g", "i.e", "etc", "vs"].iter().any(|a| before.ends_with(a));
        !abbreviation && after.starts_with(|c: char| !c.is_lowercase())
    });
    ends.map_or(paragraph, |(at, _)| &paragraph[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("One. Two.", "One.")]
    #[case("No end", "No end")]
    #[case("As in e.g. Docker links. More.", "As in e.g. Docker links.")]
    #[case("Version 1.2 is meant. More.", "Version 1.2 is meant.")]
    #[case("First\n\nsecond", "First")]
    #[case("Größe. Über alles.", "Größe.")]
    fn first_sentence_of_a_text_ends_at_its_first_full_stop(#[case] text: &str, #[case] sentence: &str) {
        assert_eq!(first_sentence(text), sentence);
    }
}
