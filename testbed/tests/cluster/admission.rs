//! What the chart's admission policies let through and what they change, asked of the real API server.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kerbside_api::v1alpha1::Vehicle;
use kerbside_link::identity;
use kerbside_testbed::control_plane::kubeconfig;
use kerbside_testbed::world::{self, World};
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use rstest::rstest;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A name as cars have it; no car has this one.
const CAR: &str = "car-aaaaaaaaaaaaaaaa";

/// The adapter's own account, with the chart's rights and no others.
async fn adapter(world: &World) -> Result<Client> {
    let path = world.bed.layout.path("kubeconfigs/kerbside-virtual-kubelet.kubeconfig");
    kubeconfig::client(&path).await
}

pub(crate) fn object<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("failed to make a test's object")
}

pub(crate) fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

fn dry_patch() -> PatchParams {
    PatchParams {
        dry_run: true,
        ..PatchParams::default()
    }
}

/// The words of a refusal by the policy; anything else is an error.
fn refusal<T>(result: Result<T, kube::Error>) -> Result<String> {
    match result {
        Ok(_) => anyhow::bail!("the write was accepted"),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(status.message.clone()),
        Err(e) => Err(e).context("the write failed, but not by a refusal"),
    }
}

#[rstest]
#[case::a_cars_node(CAR, true)]
#[case::another_node("worker-1", false)]
#[case::a_node_that_only_begins_so("car-wash", false)]
#[tokio::test]
async fn adapters_account_makes_nodes_of_vehicles_only(#[case] name: &str, #[case] allowed: bool) -> Result<()> {
    world::run("vapnode", async |world| {
        let nodes: Api<Node> = Api::all(adapter(world).await?);
        let node: Node = object(json!({"metadata": {"name": name}}))?;
        let made = nodes.create(&dry_run(), &node).await;
        if allowed {
            made.context("a vehicle's Node was refused")?;
            return Ok(());
        }
        let words = refusal(made)?;
        ensure!(words.contains(name) && words.contains("Nodes of vehicles"), "{words}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn adapters_account_leaves_other_nodes_and_their_pods_alone() -> Result<()> {
    world::run("vappod", async |world| {
        let node = format!("worker-{}", world.name);
        let all: Api<Node> = Api::all(world.client());
        let worker: Node = object(json!({"metadata": {"name": node}}))?;
        all.create(&PostParams::default(), &worker)
            .await
            .context("failed to make a Node")?;
        let checked = other_nodes_pods(world, &node).await;
        all.delete(&node, &DeleteParams::default())
            .await
            .context("failed to delete the Node")?;
        checked
    })
    .await
}

async fn other_nodes_pods(world: &World, node: &str) -> Result<()> {
    let client = adapter(world).await?;
    let pod = |name: &str, node: Option<&str>| {
        let spec = json!({"nodeName": node, "containers": [{"name": "c", "image": "x"}], "tolerations": [{"operator": "Exists"}],
            "nodeSelector": {"kerbside.dev/pool": "none-of-these"}, "automountServiceAccountToken": false});
        object::<Pod>(json!({"metadata": {"name": name}, "spec": spec}))
    };
    for (name, bound) in [("elsewhere", Some(node)), ("nowhere", None), ("on-a-car", Some(CAR))] {
        let pods = world.pods();
        pods.create(&PostParams::default(), &pod(name, bound)?)
            .await
            .context("failed to make a Pod")?;
    }
    let failed = Patch::Merge(json!({"status": {"phase": "Failed"}}));
    let nodes: Api<Node> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client, &world.name);
    let label = Patch::Merge(json!({"metadata": {"labels": {"a": "b"}}}));
    refusal(nodes.patch(node, &dry_patch(), &label).await).context("the labels of another Node")?;
    let ready = Patch::Merge(json!({"status": {"conditions": []}}));
    refusal(nodes.patch_status(node, &dry_patch(), &ready).await).context("the status of another Node")?;
    refusal(nodes.delete(node, &DeleteParams::default().dry_run()).await).context("another Node itself")?;
    for name in ["elsewhere", "nowhere"] {
        let words = refusal(pods.patch_status(name, &dry_patch(), &failed).await)?;
        ensure!(words.contains("bound to a vehicle") && words.contains(name), "{words}");
        refusal(pods.delete(name, &DeleteParams::default().dry_run()).await).context(name)?;
    }
    pods.patch_status("on-a-car", &dry_patch(), &failed)
        .await
        .context("the status of a Pod on a car")?;
    // There is no such Node: whoever deletes the namespace would wait for a kubelet that will never come.
    for name in ["elsewhere", "nowhere", "on-a-car"] {
        let now = DeleteParams::default().grace_period(0);
        world
            .pods()
            .delete(name, &now)
            .await
            .context("failed to delete a Pod")?;
    }
    Ok(())
}

#[rstest]
#[case::a_cars("kube-node-lease", CAR, true)]
#[case::another_nodes("kube-node-lease", "worker-1", false)]
#[case::its_own("kerbside-system", "kerbside-kubelet-7", true)]
#[case::the_operators("kerbside-system", "kerbside-operator", false)]
#[tokio::test]
async fn adapters_account_makes_its_own_leases_only(
    #[case] namespace: &str,
    #[case] name: &str,
    #[case] allowed: bool,
) -> Result<()> {
    world::run("vaplease", async |world| {
        let leases: Api<Lease> = Api::namespaced(adapter(world).await?, namespace);
        let made = leases
            .create(&dry_run(), &object(json!({"metadata": {"name": name}}))?)
            .await;
        match made {
            // The operator's own is there already, which is an answer too.
            Err(kube::Error::Api(s)) if s.is_already_exists() && !allowed => anyhow::bail!("the policy was not asked"),
            made if allowed => made.map(drop).context("the Lease was refused"),
            made => refusal(made).map(drop),
        }
    })
    .await
}

#[rstest]
#[case::vehicle("kerbside.dev/vehicle", true)]
#[case::somebody_elses("kubernetes.io/kube-apiserver-client", false)]
#[tokio::test]
async fn adapters_account_asks_our_signers_only(#[case] signer: &str, #[case] allowed: bool) -> Result<()> {
    world::run("vapcsr", async |world| {
        let requests: Api<CertificateSigningRequest> = Api::all(adapter(world).await?);
        let key = identity::new_key_and_csr(&[]).context("failed to make a key")?;
        let pem = data_encoding::BASE64.encode(identity::csr_pem(&key.csr_der).as_bytes());
        let request = json!({"metadata": {"name": "admission-test"},
            "spec": {"signerName": signer, "request": pem, "usages": ["client auth"]}});
        let made = requests.create(&dry_run(), &object(request)?).await;
        if allowed {
            return made.map(drop).context("the request was refused");
        }
        let words = refusal(made)?;
        ensure!(words.contains(signer), "{words}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn adapters_account_reads_no_secret_and_no_config_of_others() -> Result<()> {
    world::run("vapread", async |world| {
        let client = adapter(world).await?;
        for namespace in [world.name.as_str(), "kerbside-system"] {
            let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
            refusal(secrets.list(&ListParams::default()).await).context(namespace.to_owned())?;
            let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
            refusal(maps.list(&ListParams::default()).await).context(namespace.to_owned())?;
        }
        Ok(())
    })
    .await
}

/// The requirement that keeps a DaemonSet away.
fn away() -> Value {
    json!({"key": "type", "operator": "NotIn", "values": ["virtual-kubelet"]})
}

fn required(terms: &Value) -> Value {
    json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}})
}

fn daemon_set(labels: &Value, tolerations: &Value, affinity: &Value) -> Result<DaemonSet> {
    object(json!({
        "metadata": {"name": "guarded", "labels": labels},
        "spec": {
            "selector": {"matchLabels": {"app": "guarded"}},
            "template": {
                "metadata": {"labels": {"app": "guarded"}},
                "spec": {"tolerations": tolerations, "affinity": affinity, "containers": [{"name": "c", "image": "x"}]}}},
    }))
}

pub(crate) fn affinity_of(set: &DaemonSet) -> Result<Value> {
    let affinity = set.spec.template.spec.as_ref().and_then(|s| s.affinity.as_ref());
    serde_json::to_value(affinity).context("failed to read an affinity")
}

#[rstest]
#[case::no_affinity(json!(null), required(&json!([{"matchExpressions": [away()]}])))]
#[case::one_term(
    required(&json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}]}])),
    required(&json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}, away()]}])))]
#[case::two_terms_one_by_fields(
    required(&json!([{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])),
    required(&json!([{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}, away()]},
        {"matchExpressions": [away()], "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}])))]
#[case::a_term_that_matches_nothing(required(&json!([{}])), required(&json!([{}])))]
#[case::guarded_in_one_of_two(
    required(&json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"matchExpressions": [away()]}])),
    required(&json!([{"matchExpressions": [{"key": "a", "operator": "Exists"}, away()]}, {"matchExpressions": [away()]}])))]
#[tokio::test]
async fn daemon_set_that_tolerates_everything_is_kept_away_once(
    #[case] before: Value,
    #[case] after: Value,
) -> Result<()> {
    world::run("guard", async |world| {
        let sets: Api<DaemonSet> = Api::namespaced(world.client(), &world.name);
        let set = daemon_set(&json!({}), &json!([{"operator": "Exists"}]), &before)?;
        let made = sets
            .create(&dry_run(), &set)
            .await
            .context("failed to make the DaemonSet")?;
        ensure!(affinity_of(&made)? == after, "made: {}", affinity_of(&made)?);
        // What it is after an update is what it was.
        let again = daemon_set(&json!({}), &json!([{"operator": "Exists"}]), &affinity_of(&made)?)?;
        let again = sets
            .create(&dry_run(), &again)
            .await
            .context("failed to make the DaemonSet again")?;
        ensure!(affinity_of(&again)? == after, "again: {}", affinity_of(&again)?);
        Ok(())
    })
    .await
}

#[rstest]
#[case::asks_for_vehicles(json!({"kerbside.dev/vehicles": "true"}), json!([{"operator": "Exists"}]))]
#[case::tolerates_nothing(json!({}), json!([]))]
#[case::tolerates_something_else(json!({}), json!([{"key": "other", "operator": "Exists"}]))]
#[case::tolerates_no_execute_only(json!({}), json!([{"operator": "Exists", "effect": "NoExecute"}]))]
#[tokio::test]
async fn daemon_set_that_may_come_or_never_would_is_not_touched(
    #[case] labels: Value,
    #[case] tolerations: Value,
) -> Result<()> {
    world::run("noguard", async |world| {
        let sets: Api<DaemonSet> = Api::namespaced(world.client(), &world.name);
        let set = daemon_set(&labels, &tolerations, &json!(null))?;
        let made = sets
            .create(&dry_run(), &set)
            .await
            .context("failed to make the DaemonSet")?;
        ensure!(affinity_of(&made)?.is_null(), "{}", affinity_of(&made)?);
        Ok(())
    })
    .await
}

/// What a car with an agent is, its adapter alone says.
#[tokio::test]
async fn operators_account_writes_the_status_of_cars_without_agents_only() -> Result<()> {
    world::run("vapsilence", async |world| {
        let car = world.cars(1).await?.remove(0);
        let all: Api<Vehicle> = Api::all(world.client());
        let without = "car-yyyyyyyyyyyyyyyy";
        let vehicle: Vehicle = object(json!({
            "apiVersion": "kerbside.dev/v1alpha1", "kind": "Vehicle", "metadata": {"name": without},
            "spec": {"pool": world.name, "source": "Telemetry"},
        }))?;
        all.create(&PostParams::default(), &vehicle)
            .await
            .context("failed to make a Vehicle")?;
        let tried = operators_writes(world, car.id.as_str(), without).await;
        all.delete(without, &DeleteParams::default())
            .await
            .context("failed to delete a Vehicle")?;
        tried
    })
    .await
}

async fn operators_writes(world: &World, with: &str, without: &str) -> Result<()> {
    let kubeconfig = world.bed.layout.path("kubeconfigs/kerbside-operator.kubeconfig");
    let vehicles: Api<Vehicle> = Api::all(kubeconfig::client(&kubeconfig).await?);
    for status in [json!({"phase": "Away"}), json!({"conditions": []})] {
        let patch = Patch::Merge(json!({ "status": status }));
        let words = refusal(vehicles.patch_status(with, &dry_patch(), &patch).await)?;
        ensure!(words.contains("without an agent") && words.contains(with), "{words}");
    }
    let unknown = Patch::Merge(json!({"status": {"telemetry": {"parked": "Unknown"}}}));
    vehicles
        .patch_status(without, &dry_patch(), &unknown)
        .await
        .context("the status of a car without an agent")?;
    Ok(())
}

/// Whoever may write Pods may not write what they are paid by.
#[tokio::test]
async fn terms_on_a_pod_are_written_by_the_operator_and_by_nobody_else() -> Result<()> {
    world::run("vapterms", async |world| {
        let pods: Api<Pod> = Api::namespaced(world.client(), &world.name);
        let pod = |annotations: Value| -> Result<Pod> {
            object(json!({
                "metadata": {"name": "p", "annotations": annotations},
                "spec": {"containers": [{"name": "c", "image": "x"}], "schedulerName": "nobody"},
            }))
        };
        let dear = json!({"kerbside.dev/terms": "{}"});
        let said = refusal(pods.create(&dry_run(), &pod(dear.clone())?).await)?;
        ensure!(said.contains("only the Kerbside operator"), "{said}");
        pods.create(&PostParams::default(), &pod(json!({"a": "b"}))?).await?;
        let patch = Patch::Merge(json!({"metadata": {"annotations": dear}}));
        let said = refusal(pods.patch("p", &dry_patch(), &patch).await)?;
        ensure!(said.contains("only the Kerbside operator"), "{said}");
        let other = Patch::Merge(json!({"metadata": {"annotations": {"a": "c"}}}));
        pods.patch("p", &PatchParams::default(), &other).await?;
        Ok(())
    })
    .await
}

/// A job's Pod that is at work: its terms can be neither raised nor taken away.
#[tokio::test]
async fn terms_of_a_pod_at_work_cannot_be_changed() -> Result<()> {
    world::run("vapwork", async |world| {
        world
            .pool(|pool| pool["spec"]["terms"] = json!({"currency": "EUR", "perCPUHour": "1"}))
            .await?;
        let car = world.cars(1).await?.remove(0);
        world.apply(&crate::support::endless(world)?).await?;
        let pod = world.running_on(&car).await?;
        let name = pod.metadata.name.context("a Pod has a name")?;
        let terms = pod.metadata.annotations.unwrap_or_default();
        ensure!(terms.contains_key("kerbside.dev/terms"), "{terms:?}");
        for change in [json!("{}"), Value::Null] {
            let patch = Patch::Merge(json!({"metadata": {"annotations": {"kerbside.dev/terms": change}}}));
            let said = refusal(world.pods().patch(&name, &dry_patch(), &patch).await)?;
            ensure!(said.contains("only the Kerbside operator"), "{said}");
        }
        Ok(())
    })
    .await
}
