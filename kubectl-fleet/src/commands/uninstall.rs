//! `kubectl fleet uninstall`: releases everything that Kerbside holds in a cluster, so that nothing hangs when its programs are gone.
//!
//! Called by the chart's pre-delete hook, and by people who install without Helm. The order matters: work is stopped while the programs
//! can still stop it, the programs end before what they would make again is deleted, and finalizers come off last, for only then does
//! nobody keep books on the Pods. Every step may be repeated: what is done is not done again.

use std::io::Write;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kerbside_api::v1alpha1::{FleetJob, MANAGED_BY, Vehicle};
use kerbside_core::ids::VehicleId;
use kerbside_core::{duration, names};
use kerbside_k8s::csr;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::Error;
use crate::cli::Uninstall;

/// The chart's Deployments; cars first, so that their connections end before the adapter does.
const PROGRAMS: [&str; 3] = ["kerbside-demo-fleet", "kerbside-virtual-kubelet", "kerbside-operator"];
/// Name of the Secret and of the ConfigMap with the link's CA.
const CA: &str = "kerbside-link-ca";
/// Name of the Secret with the key that the operator signs acceptances with. Its certificate stays in the store.
const LEDGER_KEY: &str = "kerbside-ledger-key";
/// Between two looks at the cluster.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Programs end within their grace of 30 s; the garbage collector needs seconds. More than both, and less than Helm's patience.
const SETTLE: Duration = Duration::from_secs(60);

/// Does all steps; what cannot be done in time is said and left, except what would leave a namespace hanging.
pub async fn run(client: &Client, system: &str, args: &Uninstall, out: &mut impl Write) -> Result<(), Error> {
    let drain = duration::parse(&args.drain_timeout).map_err(|e| Error::Refused(format!("--drain-timeout: {e}")))?;
    if !args.yes {
        return Err(Error::Refused(
            "this stops every FleetJob and ends the membership of every car; give --yes if that is what you want"
                .into(),
        ));
    }
    let uninstall = Steps { client, system };
    let mut say = |text: String| writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::Print);
    for job in uninstall.suspend().await? {
        say(format!("suspended FleetJob {job}"))?;
    }
    let running = uninstall.drain(drain).await?;
    if !running.is_empty() {
        say(format!(
            "after {} still running, and given up: {}",
            args.drain_timeout,
            running.join(", ")
        ))?;
    }
    let programs = uninstall.stop_programs().await?;
    if !programs.is_empty() {
        say(format!("still ending: {}", programs.join(", ")))?;
    }
    say(format!(
        "took Kerbside's finalizer off {} Pods",
        uninstall.release_pods().await?
    ))?;
    say(format!("deleted {} Vehicles", uninstall.delete_vehicles().await?))?;
    say(format!(
        "deleted {} certificate requests",
        uninstall.delete_requests().await?
    ))?;
    say(format!(
        "deleted {} objects in namespace {system}",
        uninstall.delete_own().await?
    ))?;
    let nodes = uninstall.wait_for_nodes().await?;
    if !nodes.is_empty() {
        say(format!(
            "the garbage collector has yet to delete the Nodes {}",
            nodes.join(", ")
        ))?;
    }
    Ok(())
}

struct Steps<'a> {
    client: &'a Client,
    system: &'a str,
}

impl Steps<'_> {
    /// Suspends every FleetJob of ours that is not over; gives their names.
    async fn suspend(&self) -> Result<Vec<String>, Error> {
        let all: Api<FleetJob> = Api::all(self.client.clone());
        // Without the custom resources there is no job, and never was a Vehicle.
        let jobs = found(all.list(&ListParams::default()).await, "list the FleetJobs")?;
        let mut suspended = Vec::new();
        for job in jobs.into_iter().flatten().filter(may_start_pods) {
            let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
            let api: Api<FleetJob> = Api::namespaced(self.client.clone(), &namespace);
            let patch = Patch::Merge(json!({ "spec": { "suspend": true } }));
            let verb = format!("suspend the FleetJob {namespace}/{name}");
            if found(api.patch(&name, &PatchParams::default(), &patch).await, &verb)?.is_some() {
                suspended.push(format!("{namespace}/{name}"));
            }
        }
        Ok(suspended)
    }

    /// Waits until no attempt runs; gives those that run all the same.
    async fn drain(&self, patience: Duration) -> Result<Vec<String>, Error> {
        self.until_empty(patience, async || {
            Ok(self.attempts().await?.iter().filter(|p| runs(p)).map(path).collect())
        })
        .await
    }

    /// Scales the programs to nothing and waits until their Pods are gone; gives those that are not.
    async fn stop_programs(&self) -> Result<Vec<String>, Error> {
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), self.system);
        for name in PROGRAMS {
            let patch = Patch::Merge(json!({ "spec": { "replicas": 0 } }));
            found(
                api.patch_scale(name, &PatchParams::default(), &patch).await,
                &format!("stop {name}"),
            )?;
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), self.system);
        let of_programs = ListParams::default().labels(&format!("app.kubernetes.io/name in ({})", PROGRAMS.join(",")));
        self.until_empty(SETTLE, async || {
            let pods = pods
                .list_metadata(&of_programs)
                .await
                .map_err(Error::api("list the programs' Pods"))?;
            Ok(pods.iter().map(ResourceExt::name_any).collect())
        })
        .await
    }

    /// Takes our finalizer off every Pod that has it. Nobody may change them any more, so this ends; a Pod that somebody else changed in
    /// between is read again.
    async fn release_pods(&self) -> Result<usize, Error> {
        let mut released = 0;
        loop {
            let held: Vec<Pod> = self
                .attempts()
                .await?
                .into_iter()
                .filter(|p| without_ours(p).is_some())
                .collect();
            if held.is_empty() {
                return Ok(released);
            }
            for pod in held {
                let Some(patch) = without_ours(&pod) else { continue };
                let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
                match api
                    .patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch))
                    .await
                {
                    Ok(_) => released += 1,
                    Err(e) if kerbside_k8s::apply::is_stale(&e) => {}
                    Err(e) => return Err(Error::api(format!("take the finalizer off the Pod {}", path(&pod)))(e)),
                }
            }
        }
    }

    /// Deletes every Vehicle. Their Nodes are owned by them, the Leases by the Nodes.
    async fn delete_vehicles(&self) -> Result<usize, Error> {
        let api: Api<Vehicle> = Api::all(self.client.clone());
        let vehicles = found(api.list_metadata(&ListParams::default()).await, "list the Vehicles")?;
        let names = vehicles.into_iter().flatten().map(|v| v.name_any());
        delete_each(&api, names, "Vehicle").await
    }

    async fn delete_requests(&self) -> Result<usize, Error> {
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let all = api
            .list(&ListParams::default())
            .await
            .map_err(Error::api("list the certificate requests"))?;
        let ours = all
            .iter()
            .filter(|r| [csr::VEHICLE_SIGNER, csr::LINK_SERVER_SIGNER].contains(&r.spec.signer_name.as_str()));
        delete_each(&api, ours.map(ResourceExt::name_any), "certificate request").await
    }

    /// Deletes what the programs made for themselves: the link's CA, the ledger's key, enrolment tokens, Leases.
    async fn delete_own(&self) -> Result<usize, Error> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), self.system);
        let tokens = ListParams::default().labels(&format!("{}=true", names::label::ENROLMENT_TOKEN));
        let tokens = secrets
            .list_metadata(&tokens)
            .await
            .map_err(Error::api("list the enrolment tokens"))?;
        let tokens = tokens.iter().map(ResourceExt::name_any);
        let mut deleted = delete_each(&secrets, tokens.chain([CA, LEDGER_KEY].map(str::to_owned)), "Secret").await?;

        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), self.system);
        deleted += delete_each(&maps, [CA.to_owned()].into_iter(), "ConfigMap").await?;

        let leases: Api<Lease> = Api::namespaced(self.client.clone(), self.system);
        let all = leases
            .list_metadata(&ListParams::default())
            .await
            .map_err(Error::api("list the Leases"))?;
        let ours = all.iter().map(ResourceExt::name_any).filter(|name| is_own_lease(name));
        deleted += delete_each(&leases, ours, "Lease").await?;
        Ok(deleted)
    }

    /// Waits until the garbage collector has deleted vehicles' Nodes; gives those that are left.
    async fn wait_for_nodes(&self) -> Result<Vec<String>, Error> {
        let api: Api<Node> = Api::all(self.client.clone());
        let of_vehicles = ListParams::default().labels(&format!("type={}", names::NODE_TYPE));
        self.until_empty(SETTLE, async || {
            let nodes = api
                .list_metadata(&of_vehicles)
                .await
                .map_err(Error::api("list the vehicles' Nodes"))?;
            // Others make Nodes of that type too.
            Ok(nodes
                .iter()
                .map(ResourceExt::name_any)
                .filter(|n| n.parse::<VehicleId>().is_ok())
                .collect())
        })
        .await
    }

    async fn attempts(&self) -> Result<Vec<Pod>, Error> {
        let api: Api<Pod> = Api::all(self.client.clone());
        let of_jobs = ListParams::default().labels(names::label::JOB_UID);
        Ok(api
            .list(&of_jobs)
            .await
            .map_err(Error::api("list the FleetJobs' Pods"))?
            .items)
    }

    async fn until_empty(
        &self,
        patience: Duration,
        look: impl AsyncFn() -> Result<Vec<String>, Error>,
    ) -> Result<Vec<String>, Error> {
        let end = Instant::now() + patience;
        loop {
            let left = look().await?;
            if left.is_empty() || Instant::now() >= end {
                return Ok(left);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Deletes objects by name; one that is gone already is not counted.
async fn delete_each<K>(api: &Api<K>, names: impl Iterator<Item = String>, kind: &str) -> Result<usize, Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut deleted = 0;
    for name in names {
        let verb = format!("delete the {kind} {name}");
        deleted += usize::from(found(api.delete(&name, &DeleteParams::background()).await, &verb)?.is_some());
    }
    Ok(deleted)
}

/// `None` where the object, or its whole kind, is not there.
fn found<T>(result: Result<T, kube::Error>, verb: &str) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
        Err(e) => Err(Error::api(verb)(e)),
    }
}

/// Whether our operator may make Pods for the job.
fn may_start_pods(job: &FleetJob) -> bool {
    let over = job.status.as_ref().is_some_and(|s| {
        s.conditions
            .iter()
            .any(|c| (c.type_ == "Complete" || c.type_ == "Failed") && c.status == "True")
    });
    job.spec.managed_by == MANAGED_BY && !job.spec.suspend && !over
}

/// Whether containers of the Pod may be alive. A Pod that no scheduler has bound has none.
fn runs(pod: &Pod) -> bool {
    let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    bound && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// A merge patch that takes our finalizer off and holds only for the Pod as it was read; `None` if it has none.
fn without_ours(pod: &Pod) -> Option<Value> {
    let (ours, others): (Vec<&String>, Vec<&String>) = pod
        .finalizers()
        .iter()
        .partition(|f| f.as_str() == names::finalizer::TRACKING);
    (!ours.is_empty())
        .then(|| json!({ "metadata": { "resourceVersion": pod.resource_version(), "finalizers": others } }))
}

/// The operator's Lease and those of the adapter's replicas.
fn is_own_lease(name: &str) -> bool {
    name == "kerbside-operator" || name.starts_with("kerbside-kubelet-")
}

fn path(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(finalizers: &[&str], node: Option<&str>, phase: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "a", "resourceVersion": "7", "finalizers": finalizers},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": phase},
        }))
        .unwrap()
    }

    #[test]
    fn finalizer_of_ours_comes_off_and_others_stay() {
        let patch = without_ours(&pod(&["example.com/keep", names::finalizer::TRACKING], None, "Failed")).unwrap();
        let want = json!({"metadata": {"resourceVersion": "7", "finalizers": ["example.com/keep"]}});
        assert_eq!(patch, want);
        assert_eq!(without_ours(&pod(&["example.com/keep"], None, "Failed")), None);
    }

    #[rstest::rstest]
    #[case(Some("car-a"), "Running", true)]
    #[case(Some("car-a"), "Pending", true)]
    #[case(Some("car-a"), "Failed", false)]
    #[case(Some("car-a"), "Succeeded", false)]
    #[case(None, "Pending", false)]
    fn pod_runs_while_it_is_bound_and_not_over(#[case] node: Option<&str>, #[case] phase: &str, #[case] want: bool) {
        assert_eq!(runs(&pod(&[], node, phase)), want);
    }

    #[rstest::rstest]
    #[case(json!({}), json!({}), true)]
    #[case(json!({"suspend": true}), json!({}), false)]
    #[case(json!({"managedBy": "kueue.x-k8s.io/multikueue"}), json!({}), false)]
    #[case(json!({}), json!({"conditions": [{"type": "Complete", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}), false)]
    #[case(json!({}), json!({"conditions": [{"type": "Suspended", "status": "True", "reason": "x", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}), true)]
    fn job_is_suspended_only_if_it_could_go_on(#[case] spec: Value, #[case] status: Value, #[case] want: bool) {
        let mut object = json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "FleetJob", "metadata": {"name": "a"},
            "spec": {"pools": ["p"], "class": "c", "completions": 1, "template": {"spec": {"containers": []}}},
            "status": status,
        });
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        assert_eq!(may_start_pods(&serde_json::from_value(object).unwrap()), want);
    }

    #[rstest::rstest]
    #[case("kerbside-operator", true)]
    #[case("kerbside-kubelet-kerbside-virtual-kubelet-6d5f7-x2x9z", true)]
    #[case("kerbside-operatory", false)]
    #[case("somebody-else", false)]
    fn lease_of_another_program_is_left(#[case] name: &str, #[case] want: bool) {
        assert_eq!(is_own_lease(name), want);
    }
}
