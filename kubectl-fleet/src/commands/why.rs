//! `kubectl fleet why`: why a FleetJob is not (fully) running, with counts.
//!
//! It reads the job, its Pods, its pools and their Vehicles once, and decides in [`explain`], which is pure. It never guesses: each line
//! names the field or condition that it was counted from.

use std::collections::BTreeMap;
use std::io::Write;

use k8s_openapi::api::core::v1::Pod;
use kerbside_api::v1alpha1::{FleetJob, Source, Vehicle, VehiclePhase, VehiclePool};
use kerbside_core::names;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use crate::Error;
use crate::cli::Why;

/// One counted reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Of what: `job`, `attempts` or `vehicles`.
    pub about: &'static str,
    /// How many.
    pub count: usize,
    /// A sentence.
    pub text: String,
}

/// Prints the counted reasons.
pub async fn run(client: &Client, namespace: &str, args: &Why, out: &mut impl Write) -> Result<(), Error> {
    let jobs: Api<FleetJob> = Api::namespaced(client.clone(), namespace);
    let job = jobs
        .get(&args.job)
        .await
        .map_err(Error::api(format!("read the FleetJob {namespace}/{}", args.job)))?;
    let selector = format!("{}={}", names::label::JOB_UID, job.uid().unwrap_or_default());
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pods = pods
        .list(&ListParams::default().labels(&selector))
        .await
        .map_err(Error::api("list the job's Pods"))?;
    let pools: Api<VehiclePool> = Api::all(client.clone());
    let pools = pools
        .list(&ListParams::default())
        .await
        .map_err(Error::api("list the pools"))?;
    let vehicles: Api<Vehicle> = Api::all(client.clone());
    let vehicles = vehicles
        .list(&ListParams::default())
        .await
        .map_err(Error::api("list the vehicles"))?;
    for line in explain(&job, &pods.items, &pools.items, &vehicles.items) {
        writeln!(out, "{:<9} {:>6}  {}", line.about, line.count, line.text).map_err(Error::Print)?;
    }
    Ok(())
}

/// What can be said from these objects, most telling first.
pub fn explain(job: &FleetJob, pods: &[Pod], pools: &[VehiclePool], vehicles: &[Vehicle]) -> Vec<Line> {
    let mut lines = about_job(job);
    lines.extend(about_attempts(pods));
    lines.extend(about_vehicles(job, pools, vehicles));
    lines
}

fn about_job(job: &FleetJob) -> Vec<Line> {
    let mut lines = Vec::new();
    let line = |count, text: String| Line {
        about: "job",
        count,
        text,
    };
    if job.spec.suspend {
        lines.push(line(1, "spec.suspend is true: nothing runs until it is false".into()));
    }
    if job.spec.parallelism == 0 {
        lines.push(line(1, "spec.parallelism is 0: no attempt is made".into()));
    }
    if job.spec.managed_by != kerbside_api::v1alpha1::MANAGED_BY {
        lines.push(line(
            1,
            format!(
                "spec.managedBy is '{}': another controller runs it",
                job.spec.managed_by
            ),
        ));
    }
    let Some(status) = job.status.as_ref() else {
        lines.push(line(1, "it has no status yet: is the operator running?".into()));
        return lines;
    };
    for c in status.conditions.iter().filter(|c| c.status == "True") {
        lines.push(line(1, format!("{}: {} ({})", c.type_, c.message, c.reason)));
    }
    let done = status.succeeded;
    lines.push(line(
        done as usize,
        format!("of {} indexes have an accepted result", job.spec.completions),
    ));
    for (reason, count) in &status.disruptions {
        lines.push(line(*count as usize, format!("disruptions: {reason}")));
    }
    if status.refused > 0 {
        lines.push(line(
            status.refused as usize,
            "refused: attempts that a car declined before starting them".into(),
        ));
    }
    lines
}

fn about_attempts(pods: &[Pod]) -> Vec<Line> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for pod in pods {
        *counts.entry(attempt_state(pod)).or_default() += 1;
    }
    let mut lines: Vec<_> = counts
        .into_iter()
        .map(|(text, count)| Line {
            about: "attempts",
            count,
            text,
        })
        .collect();
    lines.sort_by_key(|l| std::cmp::Reverse(l.count));
    lines
}

fn attempt_state(pod: &Pod) -> String {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.as_deref().unwrap_or("Pending").to_owned();
    let conditions = status.conditions.unwrap_or_default();
    let find = |type_: &str, value: &str| conditions.iter().find(|c| c.type_ == type_ && c.status == value);
    if let Some(c) = find(names::condition::REFUSED, "True") {
        return format!(
            "refused by the car: {}",
            c.reason.as_deref().unwrap_or("no reason given")
        );
    }
    if let Some(c) = find("PodScheduled", "False") {
        // kube-scheduler's own words, counted by it over all Nodes.
        return format!("not placed: {}", c.message.as_deref().unwrap_or("no message"));
    }
    if find(names::condition::UNHEARD, "True").is_some() {
        return "on a car that is not heard".into();
    }
    let waiting = status
        .container_statuses
        .unwrap_or_default()
        .into_iter()
        .find_map(|c| c.state?.waiting);
    match waiting.and_then(|w| w.reason) {
        Some(reason) if phase == "Pending" => format!("waiting on the car: {reason}"),
        _ if phase == "Pending" => "placed, not started yet".into(),
        _ => phase.to_lowercase(),
    }
}

fn about_vehicles(job: &FleetJob, pools: &[VehiclePool], vehicles: &[Vehicle]) -> Vec<Line> {
    let line = |count, text: String| Line {
        about: "vehicles",
        count,
        text,
    };
    let mut lines = Vec::new();
    for name in &job.spec.pools {
        if !pools.iter().any(|p| p.name_any() == *name) {
            lines.push(line(0, format!("there is no VehiclePool '{name}'")));
        }
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for vehicle in vehicles {
        if let Some(text) = vehicle_state(job, vehicle) {
            *counts.entry(text).or_default() += 1;
        }
    }
    let mut counted: Vec<_> = counts.into_iter().map(|(text, count)| line(count, text)).collect();
    counted.sort_by_key(|l| std::cmp::Reverse(l.count));
    if counted.is_empty() {
        counted.push(line(
            0,
            format!("no vehicle is enrolled in {}", job.spec.pools.join(", ")),
        ));
    }
    lines.extend(counted);
    lines
}

/// Why this vehicle takes or does not take the job's work; `None` for vehicles of other pools.
fn vehicle_state(job: &FleetJob, vehicle: &Vehicle) -> Option<String> {
    if !job.spec.pools.contains(&vehicle.spec.pool) {
        return None;
    }
    if vehicle.spec.source == Source::Telemetry {
        return Some("without an agent, known by telemetry only: never given work".into());
    }
    if vehicle.spec.revoked {
        return Some("revoked".into());
    }
    if vehicle.spec.suspended {
        return Some("suspended by spec.suspended".into());
    }
    let Some(status) = &vehicle.status else {
        return Some("never connected".into());
    };
    let no = |type_: &str| {
        let mut conditions = status.conditions.iter();
        conditions.find(|c| c.type_ == type_ && c.status == "False")
    };
    let text = match status.phase {
        VehiclePhase::Away => "away (why is never told)".to_owned(),
        VehiclePhase::Leaving => "leaving".to_owned(),
        VehiclePhase::Available if no(names::condition::HEARD).is_some() => "not heard".to_owned(),
        VehiclePhase::Available => match no(names::condition::ELIGIBLE) {
            Some(c) => format!("not eligible: {} ({})", c.message, c.reason),
            None if !status.offer.classes.contains(&job.spec.class) => {
                format!(
                    "available, but its owner does not accept the class '{}'",
                    job.spec.class
                )
            }
            None => "available for this class".to_owned(),
        },
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn job() -> FleetJob {
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "metadata": {"name": "digits", "namespace": "default"},
            "spec": {"pools": ["demo", "gone"], "class": "inference", "completions": 3, "template": {"spec": {"containers": []}}},
            "status": {"succeeded": 1, "disruptions": {"VehicleDeparted": 2}, "refused": 4}
        }))
        .unwrap()
    }

    fn vehicle(pool: &str, phase: &str, classes: &[&str]) -> Vehicle {
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": {"name": "car-aaaaaaaaaaaaaaaa"},
            "spec": {"pool": pool}, "status": {"phase": phase, "offer": {"classes": classes}}
        }))
        .unwrap()
    }

    fn pool(name: &str) -> VehiclePool {
        serde_json::from_value(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "VehiclePool", "metadata": {"name": name},
            "spec": {"allowedNamespaces": {"from": "All"}}
        }))
        .unwrap()
    }

    fn texts(lines: &[Line]) -> Vec<String> {
        lines
            .iter()
            .map(|l| format!("{} {} {}", l.about, l.count, l.text))
            .collect()
    }

    #[test]
    fn vehicles_are_counted_by_what_keeps_them_from_the_job() {
        let vehicles = [
            vehicle("demo", "Available", &["inference"]),
            vehicle("demo", "Available", &[]),
            vehicle("demo", "Away", &[]),
            vehicle("demo", "Away", &["inference"]),
            vehicle("other", "Available", &["inference"]),
        ];
        let lines = texts(&explain(&job(), &[], &[pool("demo")], &vehicles));
        assert!(
            lines.contains(&"vehicles 2 away (why is never told)".into()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"vehicles 1 available for this class".into()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"vehicles 1 available, but its owner does not accept the class 'inference'".into()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"vehicles 0 there is no VehiclePool 'gone'".into()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"job 2 disruptions: VehicleDeparted".into()),
            "{lines:?}"
        );
        assert!(
            lines.contains(&"job 4 refused: attempts that a car declined before starting them".into()),
            "{lines:?}"
        );
    }

    #[rstest::rstest]
    #[case("kerbside.dev/Heard", "VehicleUnheard", "vehicles 1 not heard")]
    #[case("kerbside.dev/Eligible", "PoolTerms", "vehicles 1 not eligible: said so (PoolTerms)")]
    fn vehicle_that_is_available_and_yet_gets_nothing_says_why(
        #[case] type_: &str,
        #[case] reason: &str,
        #[case] want: &str,
    ) {
        let mut silent = vehicle("demo", "Available", &["inference"]);
        let condition = json!({"type": type_, "status": "False", "reason": reason, "message": "said so",
            "lastTransitionTime": "2026-11-01T00:00:00Z"});
        let status = silent.status.as_mut().unwrap();
        status.conditions.push(serde_json::from_value(condition).unwrap());
        let lines = texts(&explain(&job(), &[], &[pool("demo")], &[silent]));
        assert!(lines.contains(&want.into()), "{lines:?}");
    }

    #[test]
    fn vehicle_that_never_connected_is_not_called_away() {
        let mut new = vehicle("demo", "Away", &[]);
        new.status = None;
        let lines = texts(&explain(&job(), &[], &[pool("demo")], &[new]));
        assert!(lines.contains(&"vehicles 1 never connected".into()), "{lines:?}");
    }

    #[test]
    fn car_without_an_agent_is_never_counted_as_one_that_could_take_the_job() {
        let mut shown = vehicle("demo", "Available", &["inference"]);
        shown.spec.source = Source::Telemetry;
        let lines = texts(&explain(&job(), &[], &[pool("demo")], &[shown]));
        let told = "vehicles 1 without an agent, known by telemetry only: never given work";
        assert!(lines.contains(&told.into()), "{lines:?}");
    }

    #[test]
    fn pending_pod_is_explained_in_the_schedulers_words() {
        let pod: Pod = serde_json::from_value(json!({
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]}
        }))
        .unwrap();
        let lines = texts(&explain(&job(), &[pod], &[pool("demo")], &[]));
        assert!(
            lines.contains(&"attempts 1 not placed: 0/3 nodes are available".into()),
            "{lines:?}"
        );
    }
}
