//! `kubectl fleet doctor`: names what will go wrong, and mends what it can. It looks at the whole cluster, so a test asks after its
//! own objects only.

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Node;
use kerbside_core::names::label;
use kerbside_testbed::wait;
use kerbside_testbed::world::{self, World, on};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::admission;

/// The binding of the chart's policy that keeps DaemonSets off vehicles.
const GUARD: &str = "kerbside-daemonsets-stay-off-vehicles";
const SET: &str = "proxy-like";

async fn doctor(world: &World) -> Result<String> {
    world.bed.plugin.run(&["doctor"], "").await
}

/// A DaemonSet that tolerates everything, as kube-proxy does; it comes to the cars of this test and to no others.
fn tolerant(world: &World) -> Result<DaemonSet> {
    let spec = json!({
        "tolerations": [{"operator": "Exists"}],
        "nodeSelector": {label::POOL: world.name},
        "containers": [{"name": "c", "image": "x"}],
    });
    let template = json!({"metadata": {"labels": {"app": SET}}, "spec": spec});
    admission::object(json!({
        "metadata": {"name": SET},
        "spec": {"selector": {"matchLabels": {"app": SET}}, "template": template},
    }))
}

/// Says which DaemonSets the guard looks at; `null`: all.
async fn guard(world: &World, which: &Value) -> Result<()> {
    let patch = json!({"spec": {"matchResources": which}}).to_string();
    let args = [
        "patch",
        "mutatingadmissionpolicybinding",
        GUARD,
        "--type=merge",
        "-p",
        &patch,
    ];
    world.kubectl().run(&args, "").await.map(drop)
}

/// Makes the DaemonSet as it is in a cluster that had it before it had Kerbside: the guard never saw it. All other namespaces are
/// guarded meanwhile.
async fn make_unguarded(world: &World) -> Result<()> {
    let others = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [world.name]});
    guard(world, &json!({"namespaceSelector": {"matchExpressions": [others]}})).await?;
    let made = make(world).await;
    guard(world, &Value::Null).await?;
    made
}

/// Makes the DaemonSet as soon as the API server knows that the guard spares it.
async fn make(world: &World) -> Result<()> {
    let sets: Api<DaemonSet> = Api::namespaced(world.client(), &world.name);
    let set = tolerant(world)?;
    wait::until("the guard to spare the test's namespace", world::DEADLINE, async || {
        let tried = sets.create(&admission::dry_run(), &set).await;
        let tried = tried.context("failed to try the DaemonSet")?;
        Ok(admission::affinity_of(&tried)?.is_null().then_some(()))
    })
    .await?;
    let made = sets.create(&PostParams::default(), &set).await;
    made.map(drop).context("failed to make the DaemonSet")
}

#[tokio::test]
async fn daemon_set_that_comes_to_cars_is_named_and_kept_away_with_fix() -> Result<()> {
    world::run("doctor", async |world| {
        let car = world.cars(1).await?.remove(0);
        make_unguarded(world).await?;
        world
            .wait_pods("the DaemonSet's Pod to come to the car", |pods| {
                pods.iter().any(|p| on(p, car.id.as_str())).then_some(())
            })
            .await?;
        let warning = format!("DaemonSet {}/{SET} would come to every car", world.name);
        let said = doctor(world).await?;
        ensure!(
            said.contains(&warning) && said.contains("kubectl fleet doctor --fix"),
            "the DaemonSet is named, and what to do:\n{said}"
        );
        let fixed = world.bed.plugin.run(&["doctor", "--fix"], "").await?;
        ensure!(
            fixed.contains(&format!(
                "{warning}, and its rollout would wait for cars that are away\n  patched:"
            )),
            "the DaemonSet is patched:\n{fixed}"
        );
        world
            .wait_pods("the DaemonSet's Pod to leave the car", |pods| {
                pods.is_empty().then_some(())
            })
            .await?;
        let said = doctor(world).await?;
        ensure!(!said.contains(&warning), "it does not come any more:\n{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn cars_node_that_was_given_a_range_of_addresses_is_named() -> Result<()> {
    world::run("podcidr", async |world| {
        let car = world.cars(1).await?.remove(0);
        world.node(&car, "the car's Node", |n| n.map(|_| ())).await?;
        let warning = format!("Node {} was given a podCIDR", car.id);
        let said = doctor(world).await?;
        ensure!(!said.contains(&warning), "the Node has no range yet:\n{said}");
        // As kube-controller-manager gives it, where it allocates ranges.
        let range = json!({"spec": {"podCIDR": "10.250.7.0/24", "podCIDRs": ["10.250.7.0/24"]}});
        let nodes: Api<Node> = Api::all(world.client());
        nodes
            .patch(car.id.as_str(), &PatchParams::default(), &Patch::Merge(range))
            .await
            .context("failed to give the Node a range")?;
        let said = doctor(world).await?;
        ensure!(
            said.contains(&warning) && said.contains("--allocate-node-cidrs=false"),
            "the Node is named, and what to do:\n{said}"
        );
        Ok(())
    })
    .await
}
