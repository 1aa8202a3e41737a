//! As much of an API server's validation as our schemas use, in its words: fields, types, bounds, patterns, unique
//! keys, and then the CEL rules.

use std::collections::BTreeSet;

use kube::core::cel::{ErrorKind, Validator, apply_defaults};
use serde_json::Value;

/// Why the API server would refuse `object` as a new object, or as a change of `old`. Each entry begins with a path.
pub(super) fn refusals(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut found = Vec::new();
    let object = apply_defaults(schema, object);
    structure(schema, &object, "", &mut found);
    // The server does not evaluate rules over an object whose structure is wrong.
    if !found.is_empty() {
        return found;
    }
    if let Err(errors) = Validator::new().validate(schema, &object, old) {
        for error in errors.into_vec() {
            assert_eq!(error.kind, ErrorKind::ValidationFailure, "{error:?}");
            found.push(format!("{}: {}", error.field_path, error.message));
        }
    }
    found
}

fn structure(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    if !kind_fits(schema, value) {
        found.push(format!(
            "{path} in body must be of type {}",
            schema["type"].as_str().unwrap_or("integer or string")
        ));
        return;
    }
    if schema["enum"]
        .as_array()
        .is_some_and(|allowed| !allowed.contains(value))
    {
        found.push(format!("{path}: Unsupported value: {value}"));
    }
    for (bound, word, excess) in [("minimum", "greater", -1.0), ("maximum", "less", 1.0)] {
        if let (Some(number), Some(limit)) = (value.as_f64(), schema[bound].as_f64())
            && (number - limit) * excess > 0.0
        {
            found.push(format!("{path} in body should be {word} than or equal to {limit}"));
        }
    }
    match value {
        Value::String(text) => {
            size(schema, text.chars().count(), "Length", path, found);
            if schema["pattern"]
                .as_str()
                .is_some_and(|pattern| !regex::Regex::new(pattern).unwrap().is_match(text))
            {
                found.push(format!("{path} in body should match {}", schema["pattern"]));
            }
        }
        Value::Array(items) => {
            size(schema, items.len(), "Items", path, found);
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let key = |item: &Value| match keys {
                Some(keys) => keys.iter().map(|key| item[key.as_str().unwrap()].to_string()).collect(),
                None => item.to_string(),
            };
            let unique = ["set", "map"]
                .iter()
                .any(|kind| schema["x-kubernetes-list-type"] == *kind);
            if unique && items.iter().map(key).collect::<BTreeSet<String>>().len() < items.len() {
                found.push(format!("{path}: Duplicate value"));
            }
            for (index, item) in items.iter().enumerate() {
                structure(&schema["items"], item, &format!("{path}[{index}]"), found);
            }
        }
        Value::Object(_) => fields(schema, value, path, found),
        _ => {}
    }
}

fn kind_fits(schema: &Value, value: &Value) -> bool {
    match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        _ => schema["x-kubernetes-int-or-string"] == true && (value.is_string() || value.is_i64()),
    }
}

fn fields(schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let fields = value.as_object().unwrap();
    let at = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    size(schema, fields.len(), "Properties", path, found);
    for required in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(required) {
            found.push(format!("{}: Required value", at(required)));
        }
    }
    for (name, field) in fields {
        let named = schema["properties"]
            .get(name)
            .or_else(|| schema.get("additionalProperties"));
        match named {
            Some(property) => structure(property, field, &at(name), found),
            // Every object has these; the server knows them without a schema.
            None if path.is_empty() && ["apiVersion", "kind", "metadata"].contains(&name.as_str()) => {}
            None => found.push(format!("unknown field \"{}\"", at(name))),
        }
    }
}

fn size(schema: &Value, size: usize, what: &str, path: &str, found: &mut Vec<String>) {
    let bound = |side: &str| {
        schema[format!("{side}{what}")]
            .as_u64()
            .map(|n| usize::try_from(n).unwrap())
    };
    let what = what.to_lowercase();
    match (bound("min"), bound("max")) {
        (Some(min), _) if size < min => found.push(format!("{path} in body should have at least {min} {what}")),
        (_, Some(max)) if size > max => found.push(format!("{path}: must have at most {max} {what}")),
        _ => {}
    }
}
