//! Golden files: `testdata/fleet_job/<case>.input.yaml` and what is made of it, `<case>.output.yaml`.
//!
//! `UPDATE=1 cargo test -p kerbside-operator` rewrites the outputs; the difference is reviewed like code.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::{AllowedNamespaces, FleetJob, Terms};
use kerbside_core::job::Refusals;
use kerbside_core::ledger::terms_annotation;
use kube::runtime::watcher::Event;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;
use crate::attempts::AttemptIndex;
use crate::fleet_job::{terms, validate};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Input {
    /// What the case is about; for people.
    #[allow(dead_code, reason = "read by people")]
    about: String,
    now: Timestamp,
    job: Value,
    #[serde(default)]
    pools: BTreeMap<String, AllowedNamespaces>,
    /// What the pools pay, by name.
    #[serde(default)]
    terms: BTreeMap<String, Terms>,
    #[serde(default)]
    namespace_labels: BTreeMap<String, String>,
    #[serde(default)]
    pods: Vec<Value>,
    #[serde(default)]
    answers: Answers,
    #[serde(default)]
    refusals: Refusals,
    #[serde(default)]
    eligible: Vec<String>,
    #[serde(default)]
    template_refused: Option<String>,
}

fn outcome(input: Input) -> Value {
    let job: FleetJob = serde_json::from_value(input.job).unwrap();
    let job = validate::parse(&job).unwrap();
    let index = AttemptIndex::default();
    for pod in input.pods {
        index.fold(Event::Apply(serde_json::from_value::<Pod>(pod).unwrap()));
    }
    let terms: Vec<_> = input
        .terms
        .iter()
        .map(|(pool, given)| terms::read(&pool.parse().unwrap(), given).unwrap())
        .collect();
    let found = Found {
        pools: job
            .pools
            .iter()
            .map(|p| (p.to_string(), input.pools.get(p.as_str()).cloned()))
            .collect(),
        terms: terms_annotation(&terms),
        namespace_labels: input.namespace_labels,
        attempts: index.of(&job.uid, |_| false),
        refusals: input.refusals,
        eligible: input.eligible.iter().map(|e| e.parse().unwrap()).collect(),
        template: input.template_refused.map_or(Ok(()), Err),
    };
    let hold = validate::validate(&job, &found);
    let undecided = undecided(&job, &found, hold.as_ref(), input.now);
    let made = build(job, found, hold, input.answers, input.now);
    json!({
        "ask": undecided,
        "status": made.status,
        "create": made.pods,
        "delete": made.plan.delete,
        "release": made.plan.release,
        "requeueAfter": made.plan.requeue_after.map(|d| format!("{}s", d.as_secs_f64())),
    })
}

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/fleet_job")
}

#[test]
fn build_gives_what_the_golden_files_say() {
    let mut cases = 0;
    for entry in std::fs::read_dir(testdata()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(case) = name.strip_suffix(".input.yaml") else {
            continue;
        };
        cases += 1;
        let input: Input =
            serde_saphyr::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let got = serde_saphyr::to_string(&outcome(input)).unwrap();
        let golden = testdata().join(format!("{case}.output.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&golden, &got).unwrap();
        }
        let want = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(got, want, "{case}: UPDATE=1 rewrites {}", golden.display());
    }
    assert!(cases >= 5, "only {cases} cases were found");
}
