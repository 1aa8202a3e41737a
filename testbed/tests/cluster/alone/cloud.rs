//! A cloud deletes the Nodes of cars that work, for their adapter is away.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::replicas::untouched;
use super::*;
use crate::cloud::{self, Foreign};
use crate::support::endless;

/// Nobody speaks for the Node any more, and a cloud that does not know the car deletes it.
async fn given_up(world: &World, car: &Car) -> Result<()> {
    // In `outage`, kube-controller-manager is seen to say so after 50 s.
    let unknown = json!({"status": {"conditions": [
        {"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status."},
    ]}});
    let nodes: Api<Node> = Api::all(world.client());
    nodes
        .patch_status(car.id.as_str(), &PatchParams::default(), &Patch::Strategic(unknown))
        .await
        .context("failed to say that nobody speaks for the Node")?;
    world
        .node(car, "the Node to be deleted by the cloud", |n| {
            n.is_none().then_some(())
        })
        .await
}

#[tokio::test]
async fn node_that_a_cloud_deletes_while_the_adapter_is_away_is_back_with_it_and_no_attempt_ends() -> Result<()> {
    world::run("cloudaway", async |world| {
        cloud::beside(world, Foreign::Missing, async |world, _cloud| {
            let car = world.cars(1).await?.remove(0);
            let seen = world.record();
            world.apply(&endless(world)?).await?;
            let pod = world.running_on(&car).await?;
            let node = cloud::node_uid(world, &car).await?;

            world.bed.crash(ADAPTER).await?;
            let given_up = given_up(world, &car).await;
            // Whatever came of it: the other tests need an adapter.
            world.bed.restart(ADAPTER).await?;
            given_up?;
            let took = cloud::back(world, &car).await?;
            println!("the Node was there {took:?} after the adapter");
            ensure!(cloud::node_uid(world, &car).await? != node, "it is a new one");
            world
                .wait_pods("the attempt to go on as if nothing had been", |pods: &[Pod]| {
                    let same = pods.iter().find(|p| p.uid() == pod.uid())?;
                    untouched(same).then_some(())
                })
                .await?;
            ensure!(support::at_work(&car).await? == 1, "the program was never stopped");
            let attempts = seen.attempts();
            ensure!(attempts.len() == 1, "no replacement: {attempts:?}");
            Ok(())
        })
        .await
    })
    .await
}
