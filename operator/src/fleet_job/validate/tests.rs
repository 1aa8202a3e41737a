//! What holds a job, and what it is read as.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::*;

fn job(change: impl FnOnce(&mut Value)) -> FleetJob {
    let mut job = json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob",
        "metadata": { "name": "digits", "namespace": "vision", "uid": "u", "generation": 2, "resourceVersion": "7" },
        "spec": {
            "pools": ["overnight"], "class": "inference", "completions": 10,
            "template": { "spec": { "containers": [{ "name": "main", "image": "x" }] } },
        },
    });
    change(&mut job);
    serde_json::from_value(job).unwrap()
}

fn parsed() -> ValidatedJob {
    parse(&job(|_| ())).unwrap()
}

fn found(pool: Option<AllowedNamespaces>, template: Result<(), String>) -> Found {
    Found {
        pools: vec![("overnight".into(), pool)],
        terms: None,
        namespace_labels: [("team".to_owned(), "vision".to_owned())].into(),
        attempts: vec![],
        refusals: job::Refusals::default(),
        eligible: std::collections::BTreeSet::new(),
        template,
    }
}

fn selector(team: &str) -> AllowedNamespaces {
    let labels = [("team".to_owned(), team.to_owned())].into();
    let selector = LabelSelector {
        match_labels: Some(labels),
        ..LabelSelector::default()
    };
    AllowedNamespaces {
        from: NamespacesFrom::Selector,
        selector: Some(selector),
    }
}

#[test]
fn job_whose_pools_allow_its_namespace_is_not_held() {
    let all = AllowedNamespaces {
        from: NamespacesFrom::All,
        selector: None,
    };
    for allowed in [all, selector("vision")] {
        assert_eq!(validate(&parsed(), &found(Some(allowed), Ok(()))), None);
    }
}

#[test]
fn job_is_held_by_what_is_wrong_first() {
    let type_ = |found| validate(&parsed(), &found).map(|h| h.type_());
    assert_eq!(type_(found(None, Err("no".into()))), Some("PoolNotFound"));
    assert_eq!(
        type_(found(Some(selector("other")), Err("no".into()))),
        Some("NamespaceNotAllowed")
    );
    assert_eq!(
        type_(found(Some(selector("vision")), Err("no".into()))),
        Some("TemplateInvalid")
    );
}

#[test]
fn hold_says_what_is_wrong_and_what_to_do() {
    let message = |found| validate(&parsed(), &found).unwrap().message().to_owned();
    let missing = message(found(None, Ok(())));
    assert!(
        missing.contains("'overnight'") && missing.contains("create it"),
        "{missing}"
    );
    let closed = message(found(Some(selector("other")), Ok(())));
    assert!(
        closed.contains("'overnight'") && closed.contains("namespace 'vision'"),
        "{closed}"
    );
}

#[test]
fn selector_that_is_missing_or_empty_of_meaning_allows_nothing() {
    let none = AllowedNamespaces {
        from: NamespacesFrom::Selector,
        selector: None,
    };
    assert!(validate(&parsed(), &found(Some(none), Ok(()))).is_some());
    let broken = LabelSelector {
        match_expressions: Some(vec![
            serde_json::from_value(json!({ "key": "team", "operator": "Likes" })).unwrap(),
        ]),
        ..LabelSelector::default()
    };
    let broken = AllowedNamespaces {
        from: NamespacesFrom::Selector,
        selector: Some(broken),
    };
    assert!(validate(&parsed(), &found(Some(broken), Ok(()))).is_some());
}

#[rstest::rstest]
#[case::default("WhenSuspected", None, "2400s")]
#[case::fenced("WhenFenced", None, "30s")]
#[case::given("WhenFenced", Some("1m30s"), "1m30s")]
fn time_that_a_car_works_on_unheard_is_as_given_or_the_default(
    #[case] replace: &str,
    #[case] given: Option<&str>,
    #[case] want: &str,
) {
    let job = job(|j| {
        j["spec"]["onLoss"] = json!({ "replace": replace });
        if let Some(given) = given {
            j["spec"]["onLoss"]["runUnheardFor"] = given.into();
        }
    });
    assert_eq!(parse(&job).unwrap().run_unheard_for, want);
}

#[rstest::rstest]
#[case("uid", "UID")]
#[case("namespace", "namespace")]
#[case("resourceVersion", "resourceVersion")]
fn job_without_identity_is_unreadable(#[case] field: &str, #[case] says: &str) {
    let error = parse(&job(|j| drop(j["metadata"].as_object_mut().unwrap().remove(field)))).unwrap_err();
    assert!(error.to_string().contains(says), "{error}");
}

#[test]
fn job_is_ours_unless_it_says_otherwise() {
    assert!(is_ours(&job(|_| ())));
    assert!(!is_ours(&job(
        |j| j["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue".into()
    )));
}
