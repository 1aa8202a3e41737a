//! Golden files: `testdata/job/<situation>.input.yaml` is a set of facts, `.output.yaml` the plan. `UPDATE=1` rewrites the plans.

use std::path::{Path, PathBuf};

use super::{Facts, Plan, plan};

#[rstest::rstest]
fn plan_of_a_situation_is_as_reviewed(#[files("testdata/job/*.input.yaml")] input: PathBuf) {
    let facts: Facts = serde_saphyr::from_str(&std::fs::read_to_string(&input).unwrap()).unwrap();
    let planned = plan(&facts);
    let text = serde_saphyr::to_string(&planned).unwrap();
    let output = PathBuf::from(input.to_str().unwrap().replace(".input.", ".output."));
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&output, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&output).unwrap_or_default();
    assert_eq!(
        expected,
        text,
        "{}: review the change, then run with UPDATE=1",
        output.display()
    );
    assert_settles(&facts, &planned);
    assert_same_in_any_order(&facts, &planned);
}

#[test]
fn golden_files_come_in_pairs() {
    if std::env::var_os("UPDATE").is_some() {
        return; // They are being written beside this.
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/job");
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        if let Some(situation) = name.strip_suffix(".input.yaml") {
            inputs.push(situation.to_owned());
        } else {
            outputs.push(
                name.strip_suffix(".output.yaml")
                    .expect("no other file belongs here")
                    .to_owned(),
            );
        }
    }
    inputs.sort();
    outputs.sort();
    assert_eq!(inputs, outputs);
    assert!(inputs.len() >= 25, "{} situations", inputs.len());
}

/// Written and planned again, with nothing else changed, the ledger stays as it is after a few steps.
fn assert_settles(facts: &Facts, planned: &Plan) {
    let mut facts = facts.clone();
    let mut planned = planned.clone();
    for _ in 0..4 {
        if planned.ledger == facts.ledger && planned.refusals == facts.refusals {
            return;
        }
        facts.ledger = planned.ledger;
        facts.refusals = planned.refusals;
        planned = plan(&facts);
    }
    panic!("the ledger changes at every step: {:?}", facts.ledger);
}

/// A cache has no order.
fn assert_same_in_any_order(facts: &Facts, planned: &Plan) {
    let mut facts = facts.clone();
    facts.attempts.reverse();
    assert_eq!(&plan(&facts), planned);
}
