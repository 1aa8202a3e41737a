//! Every rule and the bounds that people will meet: what they let through, and what they refuse with which words. The
//! cases are in `testdata/`, so that the cluster tests can put the same to a real API server.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::validator::refusals;
use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    kind: String,
    before: Option<Value>,
    change: Value,
    says: Option<String>,
}

fn cases(file: &str) -> Vec<Case> {
    let file = format!("{}/testdata/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
    serde_saphyr::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

impl Case {
    /// What the API server would say to this case.
    fn refusals(&self) -> Vec<String> {
        let old = self.before.as_ref().map(|before| patched(example(&self.kind), before));
        let new = patched(old.clone().unwrap_or_else(|| example(&self.kind)), &self.change);
        let schema = schema_of(&self.kind);
        if let Some(old) = &old {
            assert_eq!(
                refusals(&schema, old, None),
                [""; 0],
                "{} before the change",
                self.describe()
            );
        }
        refusals(&schema, &new, old.as_ref())
    }

    fn describe(&self) -> String {
        format!("{} {:?} then {}", self.kind, self.before, self.change)
    }
}

/// JSON merge patch, RFC 7386.
fn patched(mut target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    if !target.is_object() {
        target = json!({});
    }
    let fields = target.as_object_mut().unwrap();
    for (name, change) in patch {
        if change.is_null() {
            fields.remove(name);
        } else {
            let field = fields.remove(name).unwrap_or_default();
            fields.insert(name.clone(), patched(field, change));
        }
    }
    target
}

#[test]
fn cases_to_be_refused_are_refused_in_these_words_only() {
    for case in cases("refused") {
        let found = case.refusals();
        let says = case.says.as_deref().unwrap();
        assert!(
            found.len() == 1 && found[0].contains(says),
            "{}: {found:?}",
            case.describe()
        );
    }
}

#[test]
fn cases_to_be_accepted_are_accepted() {
    for case in cases("accepted") {
        assert_eq!(case.refusals(), [""; 0], "{}", case.describe());
    }
}

#[test]
fn rules_each_have_a_reason_and_a_case_that_they_refuse() {
    let mut untested = BTreeSet::new();
    for kind in KINDS {
        let mut schema = schema_of(kind);
        crate::schema::walk(&mut schema, &mut |node| {
            for rule in node
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                assert!(rule["reason"].is_string(), "{kind}: a rule without a reason: {rule}");
                untested.insert(rule["message"].as_str().unwrap().to_owned());
            }
        });
    }
    for case in cases("refused") {
        untested.retain(|message| !message.contains(case.says.as_deref().unwrap()));
    }
    assert!(untested.is_empty(), "{untested:#?}");
}
