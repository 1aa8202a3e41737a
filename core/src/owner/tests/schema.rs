//! The JSON Schema of the owner's document is written by hand, for core may not carry what generates one. It is held to the types here:
//! the same fields, the same ones required, and what ships with the agent is valid by both.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::policies::{PROFILES, document_file};
use crate::owner::{API_VERSION, Day, Document, KIND};

/// A document in which every field is said.
const WHOLE: &str = "
apiVersion: owner.kerbside.dev/v1alpha1
kind: OwnerPolicy
consent: {givenAt: 2026-11-01T10:00:00Z, expiresAt: 2027-11-01T10:00:00Z, classes: [inference]}
pauseUntil: 2026-11-02T00:00:00+01:00
requirePluggedIn: true
chargeFloorPercent: 50
chargeResumeMarginPercent: 10
resumeWithin: 5m
workHours: [{from: '20:00', to: '08:00', days: [Mon, Sun]}]
quietHours: [{from: '22:00', to: '06:30', days: [Mon]}]
timeZone: Europe/Berlin
maxMemory: 1Gi
maxCpu: 1500m
maxDiskBytesPerSecond: 20Mi
egress: {allow: [public], ports: [443], maxBytesPerSecond: 500Ki}
when: pluggedIn || hour < 6
network: {metered: allow}
data: {perMonth: 2Gi, meteredOnly: true}
allowExec: true
maxKWhPerDay: 1500m
tariff: {currency: EUR, perKWh: '0.30', windows: [{from: '22:00', to: '06:00', days: [Mon], perKWh: '0.2'}]}
priceFloorPerCPUHour: '0.01'
publishers: [{name: a, publicKey: '-----BEGIN PUBLIC KEY----- MCowBQYDK2VwAyEAAPmqlBS8i3zkkyVyFQNoZJd1pWcFzW83r5vLsXzH6sM= -----END PUBLIC KEY-----'}]
";

fn schema() -> Value {
    serde_json::from_str(&document_file("owner-policy.schema.json")).unwrap()
}

fn whole() -> Value {
    serde_saphyr::from_str(WHOLE).unwrap()
}

/// What the types say of a document.
fn read(document: &Value) -> Result<(), String> {
    let document: Document = serde_json::from_value(document.clone()).map_err(|e| e.to_string())?;
    document.check().map(drop).map_err(|e| e.to_string())
}

/// What the schema says of it: the keywords that it uses but patterns and formats, which the types read for themselves.
fn valid(schema: &Value, value: &Value, root: &Value, place: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("{place}: {why}"));
    for (keyword, says) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$ref" => {
                let name = says.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
                valid(&root["$defs"][name], value, root, place)?;
            }
            "type" => {
                let types = says.as_array().cloned().unwrap_or_else(|| vec![says.clone()]);
                if !types.iter().any(|name| is(name.as_str().unwrap(), value)) {
                    return refuse("another type");
                }
            }
            "const" if value != says => return refuse("another value"),
            "enum" if !says.as_array().unwrap().contains(value) => return refuse("none of the values"),
            "minimum" if value.as_f64() < says.as_f64() => return refuse("too small"),
            "maximum" if value.as_f64() > says.as_f64() => return refuse("too large"),
            "minItems" if value.as_array().map_or(0, Vec::len) < count(says) => {
                return refuse("too few");
            }
            "maxItems" if value.as_array().map_or(0, Vec::len) > count(says) => {
                return refuse("too many");
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    valid(says, item, root, &format!("{place}[{index}]"))?;
                }
            }
            "required" => {
                for name in says.as_array().unwrap() {
                    if value.is_object() && value.get(name.as_str().unwrap()).is_none() {
                        return refuse(&format!("{name} is missing"));
                    }
                }
            }
            "dependentRequired" => {
                for (name, needs) in says.as_object().unwrap() {
                    let needs = needs.as_array().unwrap();
                    if value.get(name).is_some() && needs.iter().any(|need| value.get(need.as_str().unwrap()).is_none())
                    {
                        return refuse(&format!("{name} needs more"));
                    }
                }
            }
            "properties" => {
                for (name, inner) in value.as_object().into_iter().flatten() {
                    let place = format!("{place}.{name}");
                    // No object of the document takes what is not known.
                    let says = says.get(name).ok_or_else(|| format!("{place}: not known"))?;
                    valid(says, inner, root, &place)?;
                }
            }
            "const"
            | "enum"
            | "minimum"
            | "maximum"
            | "minItems"
            | "maxItems"
            | "additionalProperties"
            | "pattern"
            | "format"
            | "default"
            | "title"
            | "description"
            | "$schema"
            | "$id"
            | "$defs" => {}
            other => return refuse(&format!("a keyword that this test does not know: {other}")),
        }
    }
    Ok(())
}

fn count(says: &Value) -> usize {
    says.as_u64().and_then(|count| count.try_into().ok()).unwrap()
}

fn is(name: &str, value: &Value) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    }
}

fn accepts(value: &Value) -> Result<(), String> {
    let schema = schema();
    valid(&schema, value, &schema, "document")
}

/// The objects of the document: where each is in a document, and in the schema.
const OBJECTS: [(&str, &str); 10] = [
    ("", ""),
    ("/consent", "/properties/consent"),
    ("/egress", "/properties/egress"),
    ("/network", "/properties/network"),
    ("/data", "/properties/data"),
    ("/tariff", "/properties/tariff"),
    ("/tariff/windows/0", "/properties/tariff/properties/windows/items"),
    ("/workHours/0", "/$defs/hours"),
    ("/quietHours/0", "/$defs/hours"),
    ("/publishers/0", "/properties/publishers/items"),
];

fn names(object: &Value) -> BTreeSet<String> {
    object.as_object().unwrap().keys().cloned().collect()
}

/// The fields that a type knows: serde tells them when it meets another one.
fn known(at: &str) -> BTreeSet<String> {
    let mut document = whole();
    let object = document.pointer_mut(at).unwrap();
    object.as_object_mut().unwrap().insert("?".to_owned(), json!(1));
    let message = read(&document).unwrap_err();
    let (_, expected) = message.split_once("expected").expect("serde says what it expected");
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn schema_has_the_fields_of_the_document_and_no_others() {
    let (schema, whole) = (schema(), whole());
    for (at, in_schema) in OBJECTS {
        let says = schema.pointer(in_schema).unwrap();
        assert_eq!(says["additionalProperties"], json!(false), "{in_schema}");
        assert_eq!(names(&says["properties"]), known(at), "{at}");
        assert_eq!(
            names(whole.pointer(at).unwrap()),
            known(at),
            "the document here has them all"
        );
        for (name, property) in says["properties"].as_object().unwrap() {
            assert!(property["description"].is_string(), "{at}/{name} is not described");
        }
    }
}

#[test]
fn schema_requires_what_the_document_requires() {
    for (at, _) in OBJECTS {
        for field in known(at) {
            let mut document = whole();
            document
                .pointer_mut(at)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .remove(&field);
            assert_eq!(
                read(&document).is_ok(),
                accepts(&document).is_ok(),
                "without {at}/{field}"
            );
        }
    }
}

#[test]
fn schema_refuses_what_the_document_refuses() {
    let changes = [
        ("/apiVersion", json!("owner.kerbside.dev/v1")),
        ("/kind", json!("Owner")),
        ("/requirePluggedIn", json!("yes")),
        ("/chargeFloorPercent", json!(101)),
        ("/chargeResumeMarginPercent", json!(-1)),
        ("/workHours", json!([])),
        ("/workHours", json!(null)),
        ("/workHours/0/days", json!([])),
        ("/workHours/0/days/0", json!("Monday")),
        ("/quietHours/0/from", json!(22)),
        ("/consent/expiresAt", json!(null)),
        ("/consent/classes", json!("inference")),
        ("/pauseUntil", json!(5)),
        ("/maxCpu", json!(null)),
        ("/when", json!(null)),
        ("/when", json!(true)),
        ("/network", json!(null)),
        ("/network/metered", json!("Never")),
        ("/data", json!(null)),
        ("/data/perMonth", json!(null)),
        ("/data/meteredOnly", json!("yes")),
        ("/allowExec", json!("yes")),
        ("/allowExec", json!(null)),
        ("/maxKWhPerDay", json!(null)),
        ("/tariff", json!(null)),
        ("/tariff/perKWh", json!(0.3)),
        ("/tariff/windows/0/days", json!([])),
        ("/priceFloorPerCPUHour", json!(1)),
        ("/publishers", json!([])),
        ("/publishers", json!(null)),
        ("/publishers/0/name", json!(1)),
        ("/publishers/0/publicKey", json!(null)),
        ("/egress/ports/0", json!(65_536)),
        ("/egress/allow", json!(null)),
    ];
    for (at, value) in changes {
        let mut document = whole();
        *document.pointer_mut(at).unwrap() = value;
        assert!(
            read(&document).is_err() && accepts(&document).is_err(),
            "{at}: {document}"
        );
    }
    let mut document = whole();
    document["egress"] = json!(null);
    assert_eq!(
        (read(&document), accepts(&document)),
        (Ok(()), Ok(())),
        "nothing is reached without it"
    );
}

#[test]
fn schema_has_the_words_of_the_document() {
    let schema = schema();
    assert_eq!(schema["properties"]["apiVersion"]["const"], API_VERSION);
    assert_eq!(schema["properties"]["kind"]["const"], KIND);
    assert_eq!(
        schema["properties"]["resumeWithin"]["pattern"],
        crate::duration::PATTERN
    );
    let days = schema["$defs"]["hours"]["properties"]["days"]["items"]["enum"]
        .as_array()
        .unwrap();
    assert_eq!(days.len(), 7);
    for day in days {
        let read: Day = serde_json::from_value(day.clone()).unwrap();
        assert_eq!(read.as_str(), day);
    }
}

/// What is said of a field that is left out is what then holds.
#[test]
fn defaults_of_the_schema_are_those_of_the_document() {
    let schema = schema();
    let mut document = whole();
    for (at, in_schema) in OBJECTS {
        for (name, property) in schema.pointer(in_schema).unwrap()["properties"].as_object().unwrap() {
            if !property["default"].is_null() {
                document.pointer_mut(at).unwrap()[name] = property["default"].clone();
            }
        }
    }
    let said: Document = serde_json::from_value(document.clone()).unwrap();
    for (at, in_schema) in OBJECTS {
        for (name, property) in schema.pointer(in_schema).unwrap()["properties"].as_object().unwrap() {
            if !property["default"].is_null() {
                document.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(name);
            }
        }
    }
    let left_out: Document = serde_json::from_value(document).unwrap();
    assert_eq!(said, left_out);
}

#[test]
fn what_ships_with_the_agent_is_valid_by_schema_and_types() {
    let files = PROFILES.map(|name| format!("profiles/{name}.yaml"));
    for name in files.iter().map(String::as_str).chain(["owner.yaml"]) {
        let document: Value = serde_saphyr::from_str(&document_file(name)).unwrap();
        assert_eq!(accepts(&document), Ok(()), "{name}");
        assert_eq!(read(&document), Ok(()), "{name}");
    }
    // What tests, charts and the simulator write.
    let old = json!({"consent": {"givenAt": "2026-01-01T00:00:00Z", "classes": []}, "requirePluggedIn": true, "chargeFloorPercent": 50});
    assert_eq!((accepts(&old), read(&old)), (Ok(()), Ok(())));
}
