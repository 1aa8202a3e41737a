//! What holds for every definition: structural, described everywhere, small enough, the same each time.

use serde_json::{Map, Value};

use super::*;

/// Room for kubectl's last-applied annotation: all annotations of an object together have at most 262,144 bytes.
const CLIENT_SIDE_APPLY: usize = 250_000;

fn each_node(kind: &str, visit: &mut impl FnMut(&Map<String, Value>)) {
    let mut schema = schema_of(kind);
    crate::schema::walk(&mut schema, &mut |node| visit(node));
}

#[rstest::rstest]
#[case("FleetJob", 160_000)]
#[case("VehiclePool", 20_000)]
#[case("Vehicle", 16_000)]
fn definition_of_each_kind_fits_a_client_side_apply(#[case] kind: &str, #[case] planned: usize) {
    let size = serde_json::to_string(definition(kind)).unwrap().len();
    assert!(size < planned && planned < CLIENT_SIDE_APPLY, "{kind} has {size} bytes");
}

#[test]
fn schema_of_each_kind_is_structural() {
    const KNOWN: [&str; 14] = [
        "default",
        "description",
        "enum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minimum",
        "pattern",
        "type",
    ];
    const FORMATS: [&str; 5] = ["int32", "int64", "date-time", "byte", "double"];
    for kind in KINDS {
        each_node(kind, &mut |node| {
            for keyword in node.keys() {
                let object = ["properties", "additionalProperties", "required"].contains(&keyword.as_str());
                let known = KNOWN.contains(&keyword.as_str()) || object || keyword.starts_with("x-kubernetes-");
                assert!(known, "{kind}: keyword {keyword} in {node:?}");
            }
            let either = node.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
            assert!(
                either != node.get("type").is_some_and(Value::is_string),
                "{kind}: no type in {node:?}"
            );
            assert!(
                node.get("type") != Some(&"array".into()) || node.contains_key("items"),
                "{kind}: {node:?}"
            );
            assert!(
                node.get("format")
                    .is_none_or(|f| FORMATS.contains(&f.as_str().unwrap())),
                "{kind}: {node:?}"
            );
            assert!(
                !node.contains_key("x-kubernetes-preserve-unknown-fields"),
                "{kind} keeps unknown fields: {node:?}"
            );
        });
    }
}

#[test]
fn schema_of_each_kind_describes_every_field() {
    for kind in KINDS {
        each_node(kind, &mut |node| {
            for (name, property) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let text = property["description"].as_str().unwrap_or_default();
                // `spec` and `status` of the root carry the description of their type.
                assert!(
                    !text.is_empty() && !text.contains("CustomResource"),
                    "{kind}: {name} has no description"
                );
                assert!(
                    !text.contains("``") && !text.contains("]("),
                    "{kind}: {name} has markup: {text}"
                );
            }
        });
    }
}

#[test]
fn schema_of_each_list_with_keys_has_them_in_every_item() {
    for kind in KINDS {
        each_node(kind, &mut |node| {
            for key in node
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let item = &node["items"];
                let required = item["required"]
                    .as_array()
                    .is_some_and(|required| required.contains(key));
                let defaulted = item["properties"][key.as_str().unwrap()].get("default").is_some();
                assert!(required || defaulted, "{kind}: items may come without {key}");
            }
        });
    }
}

#[test]
fn schema_of_every_quantity_has_its_pattern() {
    for kind in KINDS {
        each_node(kind, &mut |node| {
            for (name, property) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let either = property.get("x-kubernetes-int-or-string").is_some();
                let quantity = property.get("pattern").is_some();
                assert!(!either || quantity || name == "port", "{kind}: {name}");
            }
        });
    }
}

#[test]
fn template_bounds_are_those_of_the_design() {
    let schema = schema_of("FleetJob");
    let pod = "/properties/spec/properties/template/properties/spec/properties";
    let bound = |path: &str| schema.pointer(&format!("{pod}/{path}")).unwrap().as_u64().unwrap();
    for list in ["containers", "initContainers"] {
        assert_eq!(bound(&format!("{list}/maxItems")), 32);
        assert_eq!(bound(&format!("{list}/items/properties/env/maxItems")), 256);
        assert_eq!(bound(&format!("{list}/items/properties/ports/maxItems")), 64);
        assert_eq!(bound(&format!("{list}/items/properties/image/maxLength")), 1024);
    }
    assert_eq!(bound("volumes/maxItems"), 32);
    assert!(schema.pointer(&format!("{pod}/ephemeralContainers")).is_none());
}

#[test]
fn definition_of_each_kind_has_status_short_name_and_category() {
    for (kind, short, scope) in [
        ("FleetJob", "fj", "Namespaced"),
        ("VehiclePool", "vp", "Cluster"),
        ("Vehicle", "veh", "Cluster"),
    ] {
        let definition = definition(kind);
        assert_eq!(definition.spec.names.short_names, Some(vec![short.to_owned()]));
        assert_eq!(definition.spec.names.categories, Some(vec!["kerbside".to_owned()]));
        assert_eq!(definition.spec.scope, scope);
        assert!(
            definition.spec.versions[0]
                .subresources
                .as_ref()
                .unwrap()
                .status
                .is_some()
        );
    }
}

#[test]
fn printer_columns_name_fields_that_exist() {
    for kind in KINDS {
        let schema = schema_of(kind);
        for column in definition(kind).spec.versions[0]
            .additional_printer_columns
            .as_ref()
            .unwrap()
        {
            let path = column.json_path.split("[?").next().unwrap();
            if path.starts_with(".metadata.") || path.starts_with(".status.capacity.") {
                continue;
            }
            let pointer = path.replace('.', "/properties/");
            assert!(
                schema.pointer(&pointer).is_some(),
                "{kind}: column {} shows {path}",
                column.name
            );
        }
    }
}

#[test]
fn files_are_the_same_each_time_and_mean_what_the_types_say() {
    let (first, second) = (files().unwrap(), files().unwrap());
    assert_eq!(first, second);
    for ((name, content), crd) in first.iter().zip(all()) {
        assert!(content.starts_with("# Generated"), "{name}");
        assert!(!content.contains("{{"), "{name} would not survive a Helm template");
        let read: CustomResourceDefinition = serde_saphyr::from_str(content).unwrap();
        assert_eq!(read, crd, "{name}");
    }
}

#[test]
fn files_that_differ_are_named() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path()).unwrap();
    check(dir.path()).unwrap();
    let file = dir.path().join("kerbside.dev_vehicles.yaml");
    std::fs::write(&file, "kind: Other\n").unwrap();
    let message = check(dir.path()).unwrap_err().to_string();
    assert!(
        message.contains("kerbside.dev_vehicles.yaml") && message.contains("make crds"),
        "{message}"
    );
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(check(dir.path()), Err(CrdError::Read { .. })));
    assert!(matches!(write(&dir.path().join("absent")), Err(CrdError::Write { .. })));
}
