//! Cars that refuse, by the operator's own index of Vehicles, and a binder that obeys what Pods ask for.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, Pod};
use kerbside_core::names::{annotation, label};
use kube::ResourceExt;
use kube::runtime::watcher::Event;
use serde_json::{Value, json};

use super::super::*;
use super::fleet::{Fleet, NAMESPACE, Operator, Script, guard};
use crate::testing::fake_api::Fate;
use crate::testing::seal;

fn car(n: usize) -> String {
    format!("car-{}", "abcdefghijklmnopqrst"[n..=n].repeat(16))
}

/// The car is enrolled and offers what the job needs.
fn enrol(operator: &Operator, name: &str) {
    operator.ctx.vehicles.fold(Event::Apply(guard(json!({
        "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": { "name": name },
        "spec": { "pool": "overnight" },
        "status": { "phase": "Available", "offer": { "classes": ["inference"] } },
    }))));
}

/// A terminal status that the adapter writes now.
fn ended_now(fleet: &Fleet, phase: &str, refused: Option<&str>) -> Value {
    let now = fleet.clock.wall().to_string();
    let condition = |type_: &str, reason: &str| json!({ "type": type_, "status": "True", "reason": reason, "lastTransitionTime": now });
    let mut conditions = vec![condition("kerbside.dev/Stopped", "Reported")];
    conditions.extend(refused.map(|reason| condition("kerbside.dev/Refused", reason)));
    json!({ "phase": phase, "conditions": conditions })
}

#[tokio::test(start_paused = true)]
async fn job_that_every_car_refuses_says_so_with_a_count_per_reason() {
    let fleet = Fleet::new(&json!({ "completions": 3, "parallelism": 3 }), Script::new());
    let operator = fleet.operator(Fate::Lives);
    for n in 0..3 {
        enrol(&operator, &car(n));
    }
    fleet.reconcile(&operator).await.unwrap();
    let refuse = |nth: usize, reason: &str| {
        let name = fleet.pods()[nth].name_any();
        fleet.change_pod(&name, |p| {
            p["spec"]["nodeName"] = car(nth).into();
            p["status"] = ended_now(&fleet, "Failed", Some(reason));
        });
    };
    refuse(0, "OwnerPaused");
    refuse(1, "NotParked");
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&operator).await.unwrap();
    assert!(!fleet.is("NoVehicleAccepts"), "one car was not asked yet");
    assert_eq!(fleet.status().refused, 2);

    let third = fleet.pods().iter().position(|p| p.name_any().contains("-2-")).unwrap();
    let name = fleet.pods()[third].name_any();
    fleet.change_pod(&name, |p| {
        p["spec"]["nodeName"] = car(2).into();
        p["status"] = ended_now(&fleet, "Failed", Some("NotParked"));
    });
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&operator).await.unwrap();
    let status = fleet.status();
    let condition = status
        .conditions
        .iter()
        .find(|c| c.type_ == "NoVehicleAccepts")
        .unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_str()),
        ("True", "AllRefuse")
    );
    assert!(
        condition.message.contains("(NotParked: 2, OwnerPaused: 1)"),
        "{}",
        condition.message
    );
    assert_eq!((status.refused, status.failed), (3, 0));

    enrol(&operator, &car(3));
    tokio::time::advance(Duration::from_secs(2)).await;
    fleet.reconcile(&operator).await.unwrap();
    assert!(!fleet.is("NoVehicleAccepts"), "a car that may accept is there");
}

/// Whether a Node of the car `name` satisfies the Pod's node affinity, as far as the operator writes it.
fn fits(pod: &Pod, name: &str) -> bool {
    let class = format!("{}inference", label::CLASS_PREFIX);
    let labels = BTreeMap::from([
        (label::POOL, "overnight"),
        (class.as_str(), ""),
        ("kubernetes.io/hostname", name),
    ]);
    let holds = |r: &NodeSelectorRequirement| {
        let is = labels.get(r.key.as_str());
        let listed = is.is_some_and(|is| r.values.iter().flatten().any(|v| v == is));
        match r.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => is.is_some(),
            other => panic!("the operator {other} is not understood"),
        }
    };
    let affinity = pod
        .spec
        .as_ref()
        .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref());
    let selector = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    let mut terms = selector.unwrap().node_selector_terms.iter();
    terms.any(|t| t.match_expressions.iter().flatten().all(holds))
}

fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Binds each Pod that waits to a car that has room and that it may go to, the one asked least often first; each car has room for
/// one attempt.
fn bind(fleet: &Fleet, cars: &[String], asked: &mut BTreeMap<String, u32>) {
    for pod in fleet.pods() {
        if node(&pod).is_some() || pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let pods = fleet.pods();
        let busy: BTreeSet<&str> = pods.iter().filter(|p| !is_over(p)).filter_map(node).collect();
        let free = cars.iter().filter(|c| !busy.contains(c.as_str()) && fits(&pod, c));
        let Some(chosen) = free.min_by_key(|c| (asked.get(*c).copied().unwrap_or_default(), *c)) else {
            continue;
        };
        *asked.entry(chosen.clone()).or_default() += 1;
        let now = fleet.clock.wall().to_string();
        fleet.change_pod(&pod.name_any(), |p| {
            p["metadata"]["creationTimestamp"] = now.into();
            p["spec"]["nodeName"] = chosen.clone().into();
        });
    }
}

#[rstest::rstest]
#[case(20, 1)]
#[case(20, 20)]
#[case(40, 10)]
#[tokio::test(start_paused = true)]
async fn job_with_one_willing_car_of_twenty_ends_after_few_refusals(
    #[case] completions: u32,
    #[case] parallelism: u32,
) {
    let spec = json!({ "completions": completions, "parallelism": parallelism });
    let fleet = Fleet::new(&spec, Script::new());
    let operator = fleet.operator(Fate::Lives);
    let cars: Vec<String> = (0..20).map(car).collect();
    for name in &cars {
        enrol(&operator, name);
    }
    // Not the one that a binder which goes by name asks first.
    let willing = &cars[13];
    let mut asked = BTreeMap::new();
    let mut refusals: BTreeMap<u32, u32> = BTreeMap::new();
    for step in 0..2_000 {
        fleet.reconcile(&operator).await.unwrap();
        if fleet.is("Complete") {
            break;
        }
        bind(&fleet, &cars, &mut asked);
        fleet.clock.advance(1);
        tokio::time::advance(Duration::from_secs(2)).await;
        for pod in fleet.pods() {
            let Some(on) = node(&pod).filter(|_| !is_over(&pod)) else {
                continue;
            };
            if on != willing {
                let index = pod.annotations()[annotation::INDEX].parse().unwrap();
                *refusals.entry(index).or_default() += 1;
                fleet.change_pod(&pod.name_any(), |p| {
                    p["status"] = ended_now(&fleet, "Failed", Some("OwnerPaused"));
                });
            } else if step % 3 == 0 {
                seal(&fleet.store, NAMESPACE, &pod.uid().unwrap(), b"7").await;
                fleet.change_pod(&pod.name_any(), |p| p["status"] = ended_now(&fleet, "Succeeded", None));
            } else {
                fleet.change_pod(&pod.name_any(), |p| p["status"] = json!({ "phase": "Running" }));
            }
        }
    }
    let status = fleet.status();
    assert!(fleet.is("Complete"), "{status:#?}");
    assert_eq!((status.succeeded, status.failed), (completions, 0));
    assert_eq!(status.refused, refusals.values().sum::<u32>());
    assert!(refusals.values().all(|times| *times <= 2), "{refusals:?}");
}
